"""The process that examines: a chart in, the chart after each step out, one JSON line each. It may crash or be killed.

Run as `python -m worker_app.doctor.child GROUP`.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from worker_app.doctor import admission, batching, engine, lengths, measuring
from worker_app.doctor.patient import Patient
from worker_app.doctor.reasons import reason_of
from worker_app.doctor.report import Chart

PR_SET_PDEATHSIG = 1


class Examination:
    """The stages of one group, in order. What a stage raises is a finding of its own, and the next one goes on."""

    def __init__(self, chart: Chart, out: Callable[[bytes], object]) -> None:
        self.chart = chart
        self._out = out
        self._end_s = time.monotonic() + chart.limit_s
        self._path = Path(chart.file)

    def answers(self) -> None:
        """What it answers: enough to say whether, and how, it can be served."""
        chart = self.chart
        self._begin("loading")
        patient = admission.open_patient(chart)
        if patient is None:
            return
        self._begin("running for the first time")
        servable = admission.describe(chart, patient)
        if not (admission.check_record(chart, patient) and servable):
            return
        patient = admission.try_out(chart, patient)
        if patient is None:
            return
        self._step("values", lambda: admission.look_at_values(chart, patient))
        self._step("determinism", lambda: batching.look_at_determinism(chart, patient))
        self._step("batching", lambda: batching.look_at_batching(chart, patient))
        self._step("lengths", lambda: lengths.look_at_lengths(chart, patient))

    def sizes(self) -> None:
        """In a process of its own, whose memory nothing else has touched."""
        self._begin("measuring")
        patient = Patient(self._path, on_cpu=self.chart.on_cpu)
        self._step("speed", lambda: measuring.measure_sizes(self.chart, patient, self.emit, self._end_s))

    def serving(self) -> None:
        """How it would run in a worker, and whether a worker takes it with all that has been proposed."""
        self._begin("providers")
        patient = Patient(self._path, on_cpu=self.chart.on_cpu)
        self._step("providers", lambda: measuring.look_at_providers(self.chart, self._path, patient))
        self._step("sessions", lambda: measuring.look_at_sessions(self.chart, self._path, patient, self._end_s))
        self._step("engine", lambda: engine.try_in(self.chart, self._path))

    def emit(self) -> None:
        self._out(msgspec.json.encode(self.chart) + b"\n")

    def finish(self) -> None:
        self._begin("")

    def _begin(self, doing: str) -> None:
        self.chart.doing = doing
        self.emit()

    def _step(self, name: str, look: Callable[[], None]) -> None:
        self._begin(name)
        try:
            look()
        except Exception as error:
            self.chart.bad(name, f"it can't be told: {reason_of(error)}", "mend what it names and diagnose again")


def main() -> None:
    chart = msgspec.json.decode(sys.stdin.buffer.read(), type=Chart)
    _end_with_parent()
    logging.disable(logging.WARNING)  # what would be told of CUDA is a finding
    # Should nobody be left to kill it: the signal ends it even in the middle of ONNX Runtime.
    signal.alarm(int(chart.limit_s) + 5)

    def write(line: bytes) -> None:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()

    examination = Examination(chart, write)
    {"answers": examination.answers, "sizes": examination.sizes, "serving": examination.serving}[sys.argv[1]]()
    examination.finish()


def _end_with_parent() -> None:
    """Never left behind, and the first to go where memory runs out."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
