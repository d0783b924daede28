"""The worker's end of the stream, with a gateway that stalls: it hears all, in the order in which it was said."""

import asyncio
from typing import Any

import pytest

from inference_site.lib import frames
from inference_site.lib.frames import Ask, Tell
from tests.worker_app.echo_engine import echo_node
from tests.worker_app.gateway_side import Connect, proven


@pytest.mark.parametrize("bulk", [False, True])
async def test_a_gateway_that_is_late_with_its_proof_hears_that_the_worker_drains(connect: Connect, bulk: bool) -> None:
    node = echo_node()
    side = connect(node, bulk=bulk)
    assert not (await side.hello()).draining
    node.drain()
    side.give(await side.proof("secret"))
    await side.until(lambda: side.of(Tell.DRAINING))


async def test_a_gateway_that_was_greeted_with_it_hears_it_once(connect: Connect) -> None:
    node = echo_node()
    node.drain()
    side = connect(node)
    assert (await side.hello()).draining
    side.give(await side.proof("secret"))
    side.give(frames.ask(Ask.PING, 1, b""))
    await side.until(lambda: side.of(Tell.PONG))
    assert not side.of(Tell.DRAINING)


async def test_nothing_overtakes_what_a_gateway_that_does_not_read_has_been_told(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = await proven(connect, echo_node(), bulk=True)  # on which nothing comes by itself
    monkeypatch.setattr(frames, "MESSAGE_BYTES", 300)
    writable = asyncio.Event()  # as uvicorn's: who waits for it does not look again
    waiting = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal waiting
        waiting += 1
        await writable.wait()
        waiting -= 1
        side.sent.append(message)
        writable.clear()  # one message fills the connection

    monkeypatch.setattr(side.stream, "_send", send)
    for number in (1, 2, 3):
        side.stream._put(Tell.PONG, number, b" " * 200)
    await side.until(lambda: waiting == 1)
    side.give(frames.ask(Ask.PING, 4, b""))
    await side.until(side.incoming.empty)
    for _ in range(10):  # turns of the loop, for the answer to get as far as it can
        await asyncio.sleep(0)
    while len(side.of(Tell.PONG)) < 4:
        writable.set()
        await asyncio.sleep(0)
    assert [reply[3] for reply in side.of(Tell.PONG)] == [1, 2, 3, 4]
