"""One part of a cluster, with fake processes: how one takes over from another."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from inference_site import child as child_module
from inference_site import process
from inference_site.child import Child, ChildSpec
from inference_site.ports import address_of, listen
from tests.support.http import get
from tests.support.processes import is_alive
from tests.support.waiting import PATIENCE_S, until

FAKE_CHILD = Path(__file__).parents[1] / "support" / "fake_child.py"


class Part:
    """A child, what it said, and how to ask its process."""

    def __init__(self, *manners: str) -> None:
        self.listener = listen("127.0.0.1", 0, "--port")
        self.url = f"http://{address_of(self.listener)}/"
        self.lines: list[str] = []
        argv = [sys.executable, "-S", str(FAKE_CHILD), str(self.listener.fileno()), *manners]
        spec = ChildSpec(
            "gateway", lambda: argv, dict(os.environ), self.listener, lambda: "", overlaps="overlaps" in manners
        )
        self.child = Child(spec, lambda name, text: self.lines.append(f"{name} | {text}"))

    async def ask(self) -> int:
        """The pid of the process that answers a new connection."""
        _, body = await asyncio.to_thread(get, self.url)
        return int(body)

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)

    async def until(self, what: str, condition: Callable[[], object]) -> None:
        try:
            await until(condition)
        except TimeoutError:
            pytest.fail(f"not within {PATIENCE_S:g} s: {what}; it said {self.lines}")

    async def ready(self, times: int = 1) -> None:
        await self.until(f"ready {times} times", lambda: self.count("gateway | serving in session") >= times)


@asynccontextmanager
async def running(*manners: str) -> AsyncIterator[Part]:
    part = Part(*manners)
    task = asyncio.create_task(part.child.run())
    try:
        yield part
    finally:
        part.child.stop(1.0)
        part.child.kill()
        async with asyncio.timeout(PATIENCE_S):
            await task


async def test_a_successor_serves_before_the_one_before_is_told_to_go():
    async with running("overlaps") as part:
        await part.ready()
        before = await part.ask()
        assert await part.child.replace(PATIENCE_S) == ""
        await part.until("one is left", lambda: part.child.is_one)
        assert await part.ask() != before
        assert not is_alive(before)
        await part.until("both have said what they were told", lambda: part.count("| told ") >= 2)
        told = [line for line in part.lines if "told" in line]
        assert sorted(told) == ["gateway | told drain 0 15", "gateway | told succeed"]
        assert part.count("starting it again") == 0


@pytest.mark.parametrize(
    ("manner", "why"),
    [("exit=3", "its successor ended with status 3"), ("hangs", "its successor was not ready within 0.5 s")],
)
async def test_a_successor_that_fails_is_ended_and_the_one_before_serves_on(tmp_path: Path, manner: str, why: str):
    async with running("overlaps", f"{tmp_path}/later:{manner}") as part:
        await part.ready()
        before = await part.ask()
        (tmp_path / "later").touch()
        assert await part.child.replace(0.5 if manner == "hangs" else PATIENCE_S) == why
        if manner == "hangs":
            await part.until("it has been ended", lambda: part.child.is_one)
        assert await part.ask() == before
        (tmp_path / "later").unlink()
        assert await part.child.replace(PATIENCE_S) == ""  # and another try is free to succeed
        await part.until("one is left", lambda: part.child.is_one)
        assert await part.ask() != before


async def test_one_that_somebody_else_tells_to_stop_serves_until_the_next_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(child_module, "HOLD_S", PATIENCE_S)
    async with running("overlaps", f"{tmp_path}/later:exit=3") as part:
        await part.ready()
        before = await part.ask()
        (tmp_path / "later").touch()
        os.kill(before, signal.SIGTERM)
        await part.until("a successor that fails", lambda: part.count("starting it again") >= 2)
        assert await part.ask() == before  # whatever becomes of those
        (tmp_path / "later").unlink()
        await part.until("one is left", lambda: part.child.is_one)
        assert not is_alive(before)
        assert await part.ask() != before


async def test_a_successor_takes_the_place_of_one_that_dies_meanwhile(tmp_path: Path):
    async with running("overlaps", f"{tmp_path}/later:hangs") as part:
        await part.ready()
        before = await part.ask()
        (tmp_path / "later").touch()
        replacing = asyncio.create_task(part.child.replace(1.0))
        await part.until("a successor", lambda: part.child.starts == 2)
        os.kill(before, signal.SIGKILL)
        assert "not ready within 1 s" in await replacing
        assert part.child.starts == 2
        assert not is_alive(before)


async def test_a_restart_while_it_waits_to_be_started_again_is_one_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(child_module, "FIRST_DELAY_S", 3600.0)
    monkeypatch.setattr(child_module, "LONGEST_DELAY_S", 0.1)  # of those after it
    (tmp_path / "later").touch()
    async with running(f"{tmp_path}/later:exit=3") as part:
        await part.until("its death", lambda: part.child.deaths == 1)
        (tmp_path / "later").unlink()
        part.child.restart()
        await part.ready()
        os.kill(await part.ask(), signal.SIGKILL)
        await part.until("it is started again", lambda: part.child.deaths == 2)
        await part.ready(2)
        assert part.count("as told") == 0


async def test_who_waits_for_one_that_is_only_starting_is_answered_before_it_goes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "TAIL_S", PATIENCE_S)  # however long its start takes
    async with running("overlaps") as part:
        await part.ready()
        before = await part.ask()
        os.kill(before, signal.SIGKILL)
        await part.until("its end", lambda: not is_alive(before))
        asked = asyncio.create_task(part.ask())
        await part.until("the next", lambda: part.child.starts == 2)
        part.child.stop(1.0)
        assert await asked  # a TERM would have come before it could answer
        await part.until("it has read what it was told", lambda: part.count("told drain 1 1") == 1)


async def test_one_that_does_not_end_after_its_drain_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "TAIL_S", 0.1)
    monkeypatch.setattr(child_module, "FINISH_S", 0.1)
    async with running("ignore-term") as part:
        await part.ready()
        part.child.restart()
        await part.ready(2)
        assert part.count("gateway was ended by SIGKILL, as told, not in time: it was killed; starting it again") == 1
