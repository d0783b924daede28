"""One part of a cluster whose supervisor stalls: what it hears all at once afterwards."""

import asyncio
import os
import select
import signal
from collections.abc import Callable
from typing import Any, cast

import pytest

from inference_site import child as child_module
from inference_site.process import Process
from tests.inference_site.test_child import Part, running
from tests.support.processes import is_alive
from tests.support.waiting import PATIENCE_S, until


def stall_until_it_says_something(process: Process | None) -> None:
    """Blocks the supervisor's loop, which has not heard it then."""
    assert process is not None
    assert select.select([process._socket], [], [], PATIENCE_S)[0]


async def test_one_that_is_told_to_stop_when_its_successor_is_ready_is_let_go_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child_module, "HOLD_S", 1000.0)
    async with running("overlaps") as part:
        await part.ready()
        before = await part.ask()
        replacing = asyncio.create_task(part.child.replace(PATIENCE_S))
        await until(lambda: part.child._successor)
        stall_until_it_says_something(part.child._successor)  # that it is ready
        os.kill(before, signal.SIGTERM)
        stall_until_it_says_something(part.child._current)  # that it drains
        assert await replacing == ""
        await until(lambda: part.child.is_one)
        assert not is_alive(before)


class Stub:
    """A process that is there, and does as it is told."""

    end, is_ready, told = "", False, False

    def __init__(self) -> None:
        self.drained: list[tuple[float, float]] = []

    def drain(self, accept_s: float, end_s: float, **_: Any) -> None:
        self.drained.append((accept_s, end_s))

    def kill(self) -> None:
        self.end = "was killed"


@pytest.fixture
def part() -> Part:
    return Part("overlaps")


async def begun(part: Part, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Callable[[], None], asyncio.Task[None]]:
    """A process that is being started, what ends its start, and the task that does so."""
    stub, may, starting = Stub(), asyncio.Event(), asyncio.Event()

    async def start(**_: Any) -> Stub:
        starting.set()
        await may.wait()
        return stub

    monkeypatch.setattr(part.child, "_start", start)
    task = asyncio.create_task(part.child.run())
    await starting.wait()
    return stub, may.set, task


async def test_no_process_is_forgotten_when_two_are_started_at_the_same_time(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, let, task = await begun(part, monkeypatch)
    ready, child = Stub(), cast(Any, part.child)
    child._current = ready  # it was started for the same place, and is there already
    let()
    await until(lambda: late.drained)
    assert child._current is ready
    assert not child.is_one
    child.stop(0)
    assert (late.told, ready.told, len(ready.drained)) == (True, True, 1)
    child.kill()
    child._wake.set()
    await asyncio.wait_for(task, PATIENCE_S)
