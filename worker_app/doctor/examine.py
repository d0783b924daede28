"""Examines one file: starts the processes that do it, and goes on when one of them crashes or takes too long."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from inference_site.lib.record import Record
from worker_app.doctor.identity import name_of, record_of
from worker_app.doctor.report import Chart
from worker_app.record import RecordError

PROJECT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "worker_app.doctor.child")
DEFAULT_TIMEOUT_S = 120.0
# Each group in a process of its own, with the share that it may take of the time left.
GROUPS = (("answers", 0.6), ("sizes", 0.7), ("serving", 1.0))
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
FATAL = ("loading", "running for the first time")


def examine_file(path: Path, timeout_s: float = DEFAULT_TIMEOUT_S) -> Chart:
    """`examine` under the name that it is served by, with what the record beside it says."""
    try:
        record = record_of(path)
    except RecordError as error:
        chart = Chart(file=str(path.absolute()), name=name_of(path, Record()))
        chart.bad("record", str(error), "correct the record or remove it")
        return chart
    return examine(path, name_of(path, record), record, timeout_s)


def examine(path: Path, name: str, record: Record, timeout_s: float = DEFAULT_TIMEOUT_S) -> Chart:
    """The chart of the file at `path`, in `timeout_s` seconds at the most. Raises nothing that a file can cause."""
    end_s = time.monotonic() + timeout_s
    chart = Chart(file=str(path.absolute()), name=name, record=record)
    for group, share in GROUPS:
        if group != GROUPS[0][0] and not chart.runs:
            break
        chart.limit_s = max(0.1, (end_s - time.monotonic()) * share)
        chart = _run(chart, group)
    chart.doing = ""
    return chart


def _run(chart: Chart, group: str) -> Chart:
    process = subprocess.Popen(
        [*COMMAND, group],
        cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    late = False
    try:
        out, err = process.communicate(msgspec.json.encode(chart), timeout=chart.limit_s)
    except subprocess.TimeoutExpired:
        late = True
        process.kill()
        out, err = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    said = _last_chart(out)
    found, finished = said or chart, said is not None and not said.doing
    killed = late and process.returncode == -signal.SIGKILL  # else it had ended, and it is we who looked too late
    if killed and not finished:
        _too_late(found)
    elif (process.returncode and not killed) or not finished:
        _crashed(found, process.returncode, err)
    return found


def _last_chart(out: bytes) -> Chart | None:
    """The last whole line: the one at which it was killed may be half."""
    for line in reversed(out.split(b"\n")):
        try:
            return msgspec.json.decode(line, type=Chart)
        except msgspec.DecodeError:
            continue
    return None


def _too_late(chart: Chart) -> None:
    doing = chart.doing or "starting"
    if doing in FATAL or not chart.runs:
        chart.runs = False
        chart.bad("time", f"still {doing} after {chart.limit_s:.0f} s", "give --timeout more seconds")
        return
    chart.note("time", f"stopped after {chart.limit_s:.0f} s, at {doing}", "give --timeout more seconds to see it all")
    _safe_side(chart, "it was not looked at to the end")


def _crashed(chart: Chart, status: int, err: bytes) -> None:
    doing = chart.doing or "starting"
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    if status == -signal.SIGKILL:
        how += ", as when memory runs out"
    said = COLOURS.sub("", err.decode("utf-8", "replace")).strip().splitlines()
    detail = f"the process that examined it died at {doing} ({how})" + (f": {said[-1][:200]}" if said else "")
    fix = "a worker would die as well: give it more memory, or export the model again"
    if doing in FATAL or not chart.runs:
        chart.runs = False
    chart.bad("crash", detail, fix)
    _safe_side(chart, "the process that examined it died")


def _safe_side(chart: Chart, why: str) -> None:
    """What could not be found out counts as not so, if answers depend on it."""
    if chart.doing in ("values", "determinism", "batching") and not chart.batches:
        chart.propose("batches", False, f"whether it batches is not known: {why}")
    if chart.doing in ("values", "determinism"):
        chart.propose("cached", False, f"whether it is deterministic is not known: {why}")
    if chart.doing == "speed" and chart.batches and chart.sizes:
        chart.propose("batch_size", chart.sizes[-1].rows, f"the largest that was measured: {why}")
