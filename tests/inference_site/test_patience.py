"""What a supervisor that has itself stalled must not hold against its processes."""

import asyncio
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inference_site import process as process_module
from inference_site import supervisor as supervisor_module
from inference_site.console import Console
from inference_site.patience import Patience
from inference_site.process import Process
from inference_site.supervisor import Supervisor, SupervisorError
from tests.support.processes import is_alive, wait_until
from tests.support.waiting import PATIENCE_S, until

# A process as its supervisor starts it: asks at once what it has been told, and ends when its file is gone.
ASKER = """
import os, socket, sys, time
line = socket.socket(fileno=int(os.environ["INFERENCE_PARENT_FD"]))
line.setblocking(False)
try:
    heard = line.recv(100).decode()
except BlockingIOError:
    heard = "nothing"
with open(sys.argv[1] + ".part", "w") as file:
    file.write(heard)
os.rename(sys.argv[1] + ".part", sys.argv[1])
while os.path.exists(sys.argv[1]):
    time.sleep(0.005)
"""


def test_time_that_was_not_looked_at_counts_as_one_step() -> None:
    now = 100.0
    patience = Patience(2.0, 0.5, lambda: now)
    assert not patience.is_over
    now += 60  # a stall
    assert not patience.is_over
    for _ in range(14):
        now += 0.1
        assert not patience.is_over
    now += 0.2
    assert patience.is_over


async def started(heard: Path, *, succeeds: bool = False) -> Process:
    """One that writes there what it has been told."""
    process = Process(lambda line: None, lambda process: None)
    argv = [sys.executable, "-S", "-c", ASKER, str(heard)]
    with socket.socket() as listener:
        await process.start(argv, dict(os.environ), listener.fileno(), succeeds=succeeds)
    return process


def stall(seconds: float, pid: int = 0) -> None:
    """Nothing happens in this process for so long, and until that one has ended."""
    time.sleep(seconds)
    if pid:
        wait_until("it has ended", lambda: not is_alive(pid))


async def test_a_process_knows_that_it_succeeds_however_soon_it_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = tmp_path / "heard"
    start = asyncio.create_subprocess_exec

    async def start_and_stall(*args: Any, **options: Any) -> Any:
        result = await start(*args, **options)
        wait_until("it has asked", heard.exists)
        return result

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_and_stall)
    process = await started(heard, succeeds=True)
    assert heard.read_text() == "succeed\n"
    heard.unlink()
    await until(lambda: process.end)


async def test_a_process_that_ends_in_time_is_not_called_overdue_by_a_supervisor_that_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "TAIL_S", 0.5)
    heard = tmp_path / "heard"
    process = await started(heard)
    await until(heard.exists)
    process.drain(0, 0, signalled=False)
    heard.unlink()
    stall(1.5, process.pid)  # the time for its end passes as well
    await until(lambda: process.end)
    assert (process.end, process.overdue) == ("ended with status 0", False)


async def test_a_process_that_does_not_end_is_killed_after_a_stall_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "TAIL_S", 0.1)
    heard = tmp_path / "heard"
    process = await started(heard)
    await until(heard.exists)
    process.drain(0, 0, signalled=False)
    stall(1)
    await until(lambda: process.end)
    assert (process.end, process.overdue) == ("was ended by SIGKILL", True)


class Answers:
    """The check of a cluster: the first answer comes after the time limit, and was true when it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def __call__(self) -> str:
        answer = self.answers.pop(0)
        if answer:
            time.sleep(1.0)
        return answer


def a_supervisor(check: Answers, output: int) -> Supervisor:
    return Supervisor([], Console(output), ready_line="ready all of it", check=check, ready_within_s=0.2)


async def test_what_gets_ready_while_its_supervisor_stalls_is_ready(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as output:
        supervisor = a_supervisor(Answers("not yet", ""), output.fileno())
        await asyncio.wait_for(supervisor._become_ready(), PATIENCE_S)
        supervisor._console.close(PATIENCE_S)
    assert (tmp_path / "out").read_text() == "ready all of it\n"


async def test_what_is_not_ready_at_the_last_look_is_said(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as output:
        supervisor = a_supervisor(Answers("not yet", "still not"), output.fileno())
        with pytest.raises(SupervisorError, match=r"not ready within 0\.2 s: still not"):
            await asyncio.wait_for(supervisor._become_ready(), PATIENCE_S)


@dataclass
class Spec:
    name: str = "worker_1"
    overlaps: bool = False


@dataclass
class Restarted:
    """A child whose next process is there at once."""

    spec: Spec = field(default_factory=Spec)
    starts: int = 1
    is_one: bool = True

    def restart(self) -> None:
        self.starts += 1

    def why_not_ready(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("answers", "said"),
    [(("not yet", ""), "all have been restarted"), (("not yet", "gone"), "worker_1 is not replaced, the others")],
)
async def test_a_restart_that_succeeds_while_its_supervisor_stalls_has_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(supervisor_module, "RESTART_WITHIN_S", 0.2)
    with (tmp_path / "out").open("w") as output:
        supervisor = a_supervisor(Answers(*answers), output.fileno())
        supervisor._children = [Restarted()]  # type: ignore[list-item]
        await asyncio.wait_for(supervisor._restart_one_by_one(), PATIENCE_S)
        supervisor._console.close(PATIENCE_S)
    assert said in (tmp_path / "out").read_text().splitlines()[-1]
