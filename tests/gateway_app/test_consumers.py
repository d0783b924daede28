"""The WebSocket of open pages: who may listen, what it hears, and how it ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator

from gateway_app import consumers
from gateway_app.gateway import Gateway
from gateway_app.live import MAX_CLIENTS
from inference_site import lifecycle
from inference_site.asgi import application
from inference_site.streaming import ABORT
from tests.support.manyworkers import gateway_of
from tests.support.waiting import PATIENCE_S

HERE, ELSEWHERE = (b"origin", b"http://127.0.0.1:8000"), (b"origin", b"http://elsewhere.example")


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    made, _ = gateway_of(2)

    async def started() -> None:
        """It has been."""

    monkeypatch.setattr(lifecycle, "_service", SimpleNamespace(gateway=made, stopping=False))
    monkeypatch.setattr(lifecycle, "ensure_started", started)
    task = asyncio.get_running_loop().create_task(made.live.run())
    yield made
    task.cancel()


def page(*headers: tuple[bytes, bytes]) -> WebsocketCommunicator:
    return WebsocketCommunicator(application, "/live", headers=list(headers))


async def opened(*headers: tuple[bytes, bytes]) -> WebsocketCommunicator:
    made = page(*headers)
    assert (await made.connect(timeout=PATIENCE_S))[0]
    return made


async def hear(listener: WebsocketCommunicator) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await listener.receive_from(timeout=PATIENCE_S))
    return found


async def closed(listener: WebsocketCommunicator) -> int:
    """The code that it ends with."""
    async with asyncio.timeout(PATIENCE_S):
        while (message := await listener.receive_output(PATIENCE_S))["type"] != "websocket.close":
            pass
    code: int = message["code"]
    return code


@pytest.mark.parametrize("headers", [[], [HERE], [(b"origin", b"http://localhost:8000")]])
async def test_pages_of_this_site_and_programs_are_told(gateway: Gateway, headers: list[tuple[bytes, bytes]]) -> None:
    listener = await opened(*headers)
    first = await hear(listener)
    assert list(first) == ["type", "stats", "history"]
    assert [each["name"] for each in first["stats"]["workers"]] == ["worker_1", "worker_2"]
    gateway.live.poke()
    assert list(await hear(listener)) == ["type", "stats"]
    await listener.disconnect()
    assert not gateway.live.clients


@pytest.mark.parametrize("origin", [ELSEWHERE, (b"origin", b"null"), (b"origin", b""), (b"origin", b"http://[")])
async def test_pages_of_other_sites_are_not(gateway: Gateway, origin: tuple[bytes, bytes]) -> None:
    listener = page(origin)
    assert not (await listener.connect(timeout=PATIENCE_S))[0]
    assert not gateway.live.clients


@pytest.mark.parametrize("host", [b"127.0.0.1:8000", b"localhost", b"[::1]:8000"])
async def test_by_its_own_names_it_is_reached(gateway: Gateway, host: bytes) -> None:
    listener = await opened((b"host", host), HERE)
    assert (await hear(listener))["type"] == "start"
    await listener.disconnect()


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"elsewhere.example:8000")],
        [(b"host", b"elsewhere.example"), HERE],
        [(b"host", b"localhost"), (b"host", b"elsewhere.example")],
        [(b"host", b"")],
    ],
)
async def test_by_another_name_it_is_not(gateway: Gateway, headers: list[tuple[bytes, bytes]]) -> None:
    """A page of a site whose name has been made to point here says so itself."""
    assert not (await page(*headers).connect(timeout=PATIENCE_S))[0]
    assert not gateway.live.clients


async def test_an_event_is_told_at_once(gateway: Gateway) -> None:
    gateway.events.listeners.add(gateway.live.poke)
    listener = await opened(HERE)
    await hear(listener)
    gateway.events.add("breaker", "by the test", worker="worker_2", before="CLOSED", after="OPEN")
    (event,) = (await hear(listener))["stats"]["events"]
    assert (event["worker"], event["after"], event["reason"]) == ("worker_2", "OPEN", "by the test")
    await listener.disconnect()


async def test_a_page_has_nothing_to_say(gateway: Gateway) -> None:
    listener = await opened(HERE)
    await listener.send_to("hello")
    assert await closed(listener) == 1003
    assert not gateway.live.clients


async def test_a_process_that_stops_says_so(gateway: Gateway) -> None:
    listener = await opened(HERE)
    await hear(listener)
    gateway.live.drain()
    assert await closed(listener) == 1012
    late = await opened(HERE)
    assert await closed(late) == 1012


async def test_one_page_too_many_is_told_to_try_again_later(gateway: Gateway) -> None:
    for _ in range(MAX_CLIENTS):
        gateway.live.join()
    assert await closed(await opened(HERE)) == 1013


async def never(message: dict[str, Any]) -> None:
    await asyncio.Event().wait()  # its socket is full for ever


async def fail(message: dict[str, Any]) -> None:
    raise RuntimeError("what nobody has thought of")


@pytest.mark.parametrize("stuck", [never, fail])
async def test_a_page_that_cannot_be_told_is_cut_off(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, stuck: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    monkeypatch.setattr(consumers, "STUCK_S", 0.05)
    aborted = asyncio.Event()
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    received.put_nowait({"type": "websocket.connect"})

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            await stuck(message)

    def abort() -> None:
        aborted.set()
        received.put_nowait({"type": "websocket.disconnect", "code": 1006})

    scope = {"type": "websocket", "path": "/live", "headers": [], "extensions": {ABORT: {"abort": abort}}}
    async with asyncio.timeout(PATIENCE_S):
        await consumers.live(scope, received.get, send)
    assert aborted.is_set()
    assert not gateway.live.clients


async def test_there_is_no_other_socket(gateway: Gateway) -> None:
    assert not (await WebsocketCommunicator(application, "/stream").connect(timeout=PATIENCE_S))[0]
