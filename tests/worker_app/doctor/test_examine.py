"""The processes that examine: they may crash or hang, and what was found before counts."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference_site.lib.record import Record
from tests.support import faulty_models, onnx_models
from tests.support.processes import is_alive, wait_until
from tests.worker_app.doctor.test_faults import LONG_S, faults, named
from worker_app.doctor import examine as doctor
from worker_app.doctor.examine import examine, examine_file
from worker_app.doctor.report import Chart
from worker_app.doctor.words import lines, verdict

GROUPS = [group for group, _ in doctor.GROUPS]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    return examine_file(onnx_models.mlp(tmp_path_factory.mktemp("healthy") / "small.onnx", sizes=(64, 128, 10)), LONG_S)


def test_a_whole_examination(healthy: Chart) -> None:
    assert faults(healthy) == []
    names = [finding.name for finding in healthy.findings]
    assert names == [
        "file", "inputs", "outputs", "run", "values", "output", "determinism", "batching", "lengths",
        "warm-up", "speed", "memory", "providers", "sessions", "engine",
    ]  # fmt: skip
    assert [size.rows for size in healthy.sizes] == [1, 2, 4, 8, 16, 32, 64]
    assert all(size.ms > 0 and size.rows_per_s > 0 and size.mib >= 0 for size in healthy.sizes)
    assert sum(healthy.providers.values()) >= 2
    assert healthy.proposed["batch_size"] in [size.rows for size in healthy.sizes]


def test_its_report(healthy: Chart) -> None:
    report = healthy.as_report()
    assert set(report) == {
        "ok", "file", "name", "inputs", "outputs", "findings", "sizes", "providers", "proposed", "reasons",
    }  # fmt: skip
    assert (report["ok"], report["name"]) == (True, "small")
    assert report["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 64], "symbols": ["batch", None]}]
    assert all(set(finding) == {"name", "ok", "detail", "fix"} for finding in report["findings"])
    assert all(set(size) == {"rows", "ms", "rows_per_s", "mib"} for size in report["sizes"])
    assert set(report["reasons"]) == set(report["proposed"])
    assert msgspec.convert(report["proposed"], Record).batches is True


def test_it_in_words(healthy: Chart) -> None:
    text = "\n".join(text for _, text in lines(healthy))
    assert "✓ batching: 2, 3, 8 rows together answer as each alone" in text
    assert "proposed settings:" in text
    assert "    batches = true\n      rows together" in text
    assert verdict(healthy) == "small can be served"


def test_faults_have_their_fix_below(tmp_path: Path) -> None:
    chart = examine_file(faulty_models.softmax_over_the_batch(tmp_path / "mixer.onnx"), LONG_S)
    text = "\n".join(text for ok, text in lines(chart) if ok is False)
    assert text.startswith("✗ batching: mixes rows")
    assert "\n    → look for a softmax" in text
    assert verdict(chart) == "mixer can be served, with 1 fault to know of"
    assert [size.rows for size in chart.sizes] == [1]


def test_a_file_that_cannot_be_loaded_ends_it(tmp_path: Path) -> None:
    chart = examine_file(tmp_path / "nothing.onnx")
    assert [finding.name for finding in chart.findings] == ["file"]
    assert verdict(chart) == "nothing can't be served"


def test_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    path.with_suffix(".json").write_text('{"batch_size": 0}')
    chart = examine_file(path)
    assert faults(chart) == ["record"]
    assert "m.json" in named(chart, "record").detail


def test_the_record_of_all_versions_and_the_name_of_the_folder(tmp_path: Path) -> None:
    version = tmp_path / "letters" / "3"
    version.mkdir(parents=True)
    onnx_models.classifier(version / "model.onnx")
    (tmp_path / "letters" / "model.json").write_text('{"output": "label", "batches": false}')
    chart = examine_file(version / "model.onnx", LONG_S)
    assert chart.name == "letters"
    assert chart.record.output == "label"
    assert "serves 'label'" in named(chart, "output").detail
    (version / "model.json").write_text('{"output": "probabilities", "batches": false}')
    assert examine_file(version / "model.onnx", LONG_S).record.output == "probabilities"


def test_a_run_that_never_ends_is_stopped_and_is_a_finding(tmp_path: Path) -> None:
    path = faulty_models.endless(tmp_path / "m.onnx")
    chart = examine(path, "m", Record(), timeout_s=4)  # it returns
    assert not chart.runs
    assert faults(chart) == ["time"]
    assert named(chart, "time").detail.startswith("still ")
    assert f"after {chart.limit_s:.0f} s" in named(chart, "time").detail
    assert chart.limit_s < 4
    assert "--timeout" in named(chart, "time").fix


def dying(monkeypatch: pytest.MonkeyPatch, at: str, how: str, group: str = GROUPS[0]) -> None:
    """The process of one group gets as far as the stage `at`, and then does `how`; the others are as they are."""
    code = f"""
import msgspec, os, signal, sys, time
from worker_app.doctor import child
if sys.argv[1] == {group!r}:
    begin = child.Examination._begin
    def stop(self, doing):
        begin(self, doing)
        if doing == {at!r}:
            {how}
    child.Examination._begin = stop
child.main()
"""
    monkeypatch.setattr(doctor, "COMMAND", (sys.executable, "-c", code))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "(signal SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "(signal SIGKILL, as when memory runs out)"),
        ("sys.exit('std::bad_alloc')", "(exit status 1): std::bad_alloc"),
    ],
)
def test_a_crash_is_a_finding_that_names_the_stage(
    how: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dying(monkeypatch, "batching", how)
    chart = examine(onnx_models.linear(tmp_path / "m.onnx"), "m", Record(), LONG_S)
    assert faults(chart) == ["crash"]
    assert "died at batching" in named(chart, "crash").detail
    assert said in named(chart, "crash").detail
    # What was found before counts, what depends on answers is on the safe side, and the rest goes on.
    assert named(chart, "determinism").ok is True
    assert (chart.runs, chart.proposed["batches"], chart.proposed["cached"]) == (True, False, True)
    assert [size.rows for size in chart.sizes] == [1]
    assert named(chart, "engine").ok is True


def test_a_crash_while_it_loads_means_that_it_cannot_be_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dying(monkeypatch, "loading", "os.abort()")
    chart = examine(onnx_models.linear(tmp_path / "m.onnx"), "m", Record(), LONG_S)
    assert not chart.runs
    assert "died at loading (signal SIGABRT)" in named(chart, "crash").detail


def test_a_crash_at_a_large_batch_limits_what_is_proposed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = """
import os
from worker_app.doctor import child, measuring
measured = child.Examination.emit
def emit(self):
    measured(self)
    if self.chart.sizes and self.chart.sizes[-1].rows == 8 and self.chart.doing == "speed":
        os.kill(os.getpid(), 9)
child.Examination.emit = emit
child.main()
"""
    monkeypatch.setattr(doctor, "COMMAND", (sys.executable, "-c", code))
    chart = examine(onnx_models.linear(tmp_path / "m.onnx"), "m", Record(), LONG_S)
    assert chart.runs
    assert [size.rows for size in chart.sizes] == [1, 2, 4, 8]
    assert chart.proposed["batch_size"] == 8
    assert "died at speed" in named(chart, "crash").detail


def test_time_that_runs_out_later_keeps_what_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dying(monkeypatch, "determinism", "print('there', flush=True); time.sleep(600)")

    class Impatient(subprocess.Popen[bytes]):
        """Its time is over as soon as the first process has got there."""

        heard = b""

        def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
            if self.args[-1] == GROUPS[0] and timeout is not None:  # type: ignore[index]
                assert self.stdin and self.stdout and input
                self.stdin.write(input)
                self.stdin.close()
                self.heard = b"".join(iter(self.stdout.readline, b"there\n"))
                raise subprocess.TimeoutExpired(self.args, timeout)
            if self.heard:
                self.wait()
                return self.heard, b""
            return super().communicate(input, timeout)

    monkeypatch.setattr(subprocess, "Popen", Impatient)
    chart = examine(onnx_models.linear(tmp_path / "m.onnx"), "m", Record(), LONG_S)
    assert faults(chart) == []
    assert re.search(r"stopped after \d+ s, at determinism", named(chart, "time").detail)
    assert (chart.runs, chart.proposed["batches"], chart.proposed["cached"]) == (True, False, False)


def test_what_a_worker_would_refuse_cannot_be_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = """
from worker_app.doctor import child, engine
from worker_app.providers import ModelError
def refuse(*args, **options):
    raise ModelError("no room")
engine.Engine = refuse
child.main()
"""
    monkeypatch.setattr(doctor, "COMMAND", (sys.executable, "-c", code))
    chart = examine(onnx_models.linear(tmp_path / "m.onnx"), "m", Record(), LONG_S)
    assert not chart.runs
    assert "a worker refuses it: no room" in named(chart, "engine").detail


def test_a_stage_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = """
from worker_app.doctor import child, measuring
def fail(*args):
    raise RuntimeError("no profile")
measuring.look_at_providers = fail
child.main()
"""
    monkeypatch.setattr(doctor, "COMMAND", (sys.executable, "-c", code))
    chart = examine(onnx_models.linear(tmp_path / "m.onnx"), "m", Record(), LONG_S)
    assert "it can't be told: no profile" in named(chart, "providers").detail
    assert named(chart, "engine").ok is True
    assert chart.runs


def test_nothing_is_left_behind_when_its_parent_is_killed(tmp_path: Path) -> None:
    path = faulty_models.endless(tmp_path / "m.onnx")
    code = f"from worker_app.doctor.examine import *; examine(Path({str(path)!r}), 'm', Record(), 60)"
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(doctor.PROJECT)}
    parent = os.posix_spawn(sys.executable, [sys.executable, "-c", code], environment)
    try:
        wait_until("it has a child", lambda: children_of(parent))
        child = children_of(parent)[0]
    finally:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
    wait_until("the child has ended", lambda: not is_alive(child))


def children_of(pid: int) -> list[int]:
    """Of its main thread; none if it has none, or this system does not tell."""
    text = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in text.read_text().split()] if text.exists() else []
