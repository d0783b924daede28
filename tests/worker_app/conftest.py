"""What tests of the worker share."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

import pytest

from worker_app.consumers import run_batches
from worker_app.model import Model
from worker_app.node import Node

T = TypeVar("T", Node, Model)


class Start(Protocol):
    """start(node), or start(model): runs its batches until the test ends."""

    def __call__(self, what: T, /) -> T: ...


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
