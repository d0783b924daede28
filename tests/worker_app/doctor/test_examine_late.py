"""An examination whose parent has stalled: what the process had done by itself counts, not when that was looked at."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference_site.lib.record import Record
from tests.worker_app.doctor.test_faults import faults
from worker_app.doctor import examine as doctor
from worker_app.doctor.examine import examine
from worker_app.doctor.report import Chart

HEALTHY = """
import msgspec, os, sys
from worker_app.doctor.report import Chart
chart = msgspec.json.decode(sys.stdin.buffer.read(), type=Chart)
def emit(doing):
    chart.doing = doing
    sys.stdout.buffer.write(msgspec.json.encode(chart) + b"\\n")
    sys.stdout.buffer.flush()
emit("loading")
chart.runs = True
"""


def look_late(monkeypatch: pytest.MonkeyPatch, *, killed: bool) -> None:
    """Whoever waits for a process hears that its time is over only when it has said all; `killed`: and still runs."""

    class Late(subprocess.Popen[bytes]):
        heard: Any = None

        def communicate(self, *args: Any, timeout: float | None = None) -> Any:
            if timeout is None:
                self.wait()
                return self.heard
            if killed:
                self.stdin.write(args[0])  # type: ignore[union-attr]
                self.stdin.close()  # type: ignore[union-attr]
                self.heard = b"".join(iter(self.stdout.readline, b"end\n")), b""  # type: ignore[union-attr]
            else:
                self.heard = super().communicate(*args)
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(subprocess, "Popen", Late)


def look(monkeypatch: pytest.MonkeyPatch, code: str) -> Chart:
    monkeypatch.setattr(doctor, "COMMAND", (sys.executable, "-c", HEALTHY + code))
    return examine(Path("m.onnx"), "m", Record())


def test_one_that_has_ended_is_not_called_late(monkeypatch: pytest.MonkeyPatch) -> None:
    look_late(monkeypatch, killed=False)
    chart = look(monkeypatch, 'emit("")')
    assert (chart.runs, chart.findings) == (True, [])


def test_one_that_is_killed_after_its_last_word_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    look_late(monkeypatch, killed=True)
    chart = look(monkeypatch, 'emit("")\nprint("end", flush=True)\nimport time; time.sleep(600)')
    assert (chart.runs, chart.findings) == (True, [])


def test_one_that_is_killed_before_that_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    look_late(monkeypatch, killed=True)
    chart = look(monkeypatch, 'emit("values")\nprint("end", flush=True)\nimport time; time.sleep(600)')
    assert [each.name for each in chart.findings] == ["time"] * len(doctor.GROUPS)


def test_one_that_has_crashed_is_not_called_late(monkeypatch: pytest.MonkeyPatch) -> None:
    look_late(monkeypatch, killed=False)
    chart = look(monkeypatch, f'emit("values")\nos.kill(os.getpid(), {int(signal.SIGSEGV)})')
    assert faults(chart) == ["crash"] * len(doctor.GROUPS)
