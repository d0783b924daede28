"""A gateway whose loop was held up: what has come meanwhile is read before anybody is blamed for being late."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from gateway_app.gateway import Gateway
from tests.support.waiting import until


class Reader(asyncio.Protocol):
    """Notes that something has come."""

    def __init__(self, seen: list[str]) -> None:
        self._seen = seen

    def data_received(self, data: bytes) -> None:
        self._seen.append("read")


class Link:
    """Notes that it is looked at."""

    def __init__(self, seen: list[str]) -> None:
        self._seen = seen

    def tick(self, late_s: float) -> None:
        self._seen.append("tick")


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(("late_s", "order"), [(2.0, ["read", "tick"]), (0.001, ["tick", "read"])])
def test_a_late_tick_comes_after_what_has_come_meanwhile(
    new_loop: Callable[[], asyncio.AbstractEventLoop], late_s: float, order: list[str]
) -> None:
    async def run() -> None:
        seen: list[str] = []
        here, there = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: Reader(seen), sock=here)
        there.send(b"1")
        await until(lambda: seen)
        seen.clear()
        gateway = Gateway("")
        links: dict[str, Any] = {"a": Link(seen)}
        gateway.links.update(links)
        there.send(b"2")  # unread when the tick begins, as after a stop of the whole process
        await gateway._tick(late_s)
        await until(lambda: len(seen) == 2)
        assert seen == order
        transport.close()
        there.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())
