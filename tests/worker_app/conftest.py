"""What tests of the worker share."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import onnxruntime as ort
import pytest

from tests.support.waiting import PATIENCE_S
from tests.worker_app.file_engine import Shelf
from tests.worker_app.gateway_side import Connect, GatewaySide
from worker_app import providers
from worker_app import stream as stream_module
from worker_app.consumers import run_batches
from worker_app.model import Model
from worker_app.node import Node
from worker_app.providers import CPU, CUDA

T = TypeVar("T", Node, Model)


class Start(Protocol):
    """start(node), or start(model): runs its batches until the test ends."""

    def __call__(self, what: T, /) -> T: ...


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A model repository whose models answer a word."""
    return Shelf(tmp_path)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """See Start."""
    tasks: list[asyncio.Task[None]] = []
    started: list[Node | Model] = []

    def begin(what: T) -> T:
        started.append(what)
        if isinstance(what, Node):
            what.start()
        else:
            tasks.extend(asyncio.create_task(run_batches(what, slot)) for slot in range(what.engine.sessions))
        return what

    yield begin
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    for each in started:
        each.close()


@pytest.fixture
async def connect(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    """Streams to nodes; they end with the test, and none of them because the test is slow."""
    monkeypatch.setattr(stream_module, "HANDSHAKE_TIMEOUT_S", PATIENCE_S)
    sides: list[GatewaySide] = []

    def make(node: Node, token: str = "secret", **more: Any) -> GatewaySide:
        sides.append(GatewaySide(node, token, **more))
        return sides[-1]

    yield make
    for side in sides:
        await side.end()


@pytest.fixture
def no_cudnn(monkeypatch: pytest.MonkeyPatch) -> str:
    """What sessions of an image's model say that open on CUDA, and of which none runs; the CPU is as it is."""
    real = ort.InferenceSession
    says = "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Conv needs cuDNN, which is not there"

    class OnCuda:
        def __init__(self, session: ort.InferenceSession) -> None:
            self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

        def get_providers(self) -> list[str]:
            return [CUDA, CPU]

        def disable_fallback(self) -> None:
            pass

        def run(self, names: list[str], feed: dict[str, Any], *_: Any) -> None:
            raise RuntimeError("too small" if feed["image"].shape[2] == 1 else says)

    def open_session(path: Path, options: ort.SessionOptions, providers: list[Any], **more: Any) -> Any:
        session = real(path, options, providers=[CPU], **more)
        return session if providers == [CPU] else OnCuda(session)

    monkeypatch.setattr(providers, "_said", set())
    monkeypatch.setattr(providers, "why_no_cuda", lambda: "")
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", open_session)
    return says
