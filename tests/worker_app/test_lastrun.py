"""What a process was running when it ended is known to the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker_app.asker import Asker
from tests.worker_app.echo_engine import EchoEngine, echo_model
from worker_app.lastrun import LastRun

KEY = 2**64 - 2


def test_a_run_that_ended_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state" / "running"
    first = LastRun(path)
    assert first.found is None
    first.began(KEY)
    first.ended()
    assert LastRun(path).found is None


def test_a_process_that_is_killed_leaves_what_it_ran_and_only_its_successor_hears_of_it(tmp_path: Path) -> None:
    path = tmp_path / "running"
    code = "import os; from pathlib import Path; from worker_app.lastrun import LastRun\n"
    code += f"LastRun(Path({str(path)!r})).began({KEY}); os.kill(os.getpid(), {signal.SIGKILL})"
    died = subprocess.run([sys.executable, "-c", code], check=False)
    assert died.returncode == -signal.SIGKILL
    assert LastRun(path).found == KEY
    assert LastRun(path).found is None


@pytest.mark.parametrize("content", ["", "short", "not hexadecimal!", "x" * 100])
def test_a_file_of_something_else_is_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "running"
    path.write_text(content)
    assert LastRun(path).found is None


def test_without_a_place_to_write_nothing_is_noted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (None, tmp_path / "file" / "running"):
        run = LastRun(place)
        run.began(KEY)
        run.ended()
        assert run.found is None


async def test_a_watched_input_runs_alone_before_all_that_waits_and_is_noted_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "running"
    engine = EchoEngine()
    model = echo_model(engine)
    model.last_run = LastRun(path)
    noted: list[bytes] = []
    run = engine.run

    def look(samples: Any, session: int) -> Any:
        noted.append(path.read_bytes())
        return run(samples, session)

    engine.run = look  # type: ignore[assignment, method-assign]
    asker = Asker(model)
    for number in range(3):
        asker.ask([number, 0, 0, 0])
    assert model.ask(b"[9, 0, 0, 0]", "watched", asker.reply, 0, KEY) is not None
    await model.run_batches()
    assert asker.answers["watched"][3] == b"[9.0,0.0,0.0,0.0]"
    assert list(map(len, engine.runs)) == [1, 3]
    assert noted == [b"%016x" % KEY, b"-" * 16]
    assert LastRun(path).found is None
    model.close()
