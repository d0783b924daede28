"""What is concluded from figures; nothing here depends on how fast this machine is."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.support import onnx_models
from worker_app.doctor import measuring, memory
from worker_app.doctor.compare import NOT_FINITE, OTHER_SHAPE, compare
from worker_app.doctor.measuring import best_size, limit_ms
from worker_app.doctor.patient import Patient, profiled
from worker_app.doctor.reasons import reason_of
from worker_app.doctor.report import Chart, Size, Tensor
from worker_app.providers import CPU, CUDA


def sizes(*ms: float) -> list[Size]:
    return [Size(2**place, each, 2**place * 1e3 / each, 0.0) for place, each in enumerate(ms)]


@pytest.mark.parametrize(
    ("ms", "rows"),
    [
        ((0.1, 0.11, 0.12, 0.15, 0.2, 0.3, 0.5), 64),  # quick: the largest
        ((50, 100, 200, 400, 800, 1600, 3200), 4),  # no gain, and slow: no longer than four rows take
        ((50, 50, 51, 52, 53, 54, 55), 64),  # the same however many
        ((1, 1.2, 1.6, 2.4, 4.0, 9.0, 20.0), 16),  # beyond 5 ms others wait too long
        ((0.1, 0.11, 0.12, 0.2, 0.8, 3.0, 9.0), 8),  # larger ones fall out of the cache of the processor
        ((0.1, 0.11, 0.12, 0.15, 0.303, 0.604, 1.209), 64),  # nearly as fast, and fewer batches
        ((700,), 1),
    ],
)
def test_the_best_batch_size(ms: tuple[float, ...], rows: int) -> None:
    assert best_size(sizes(*ms)).rows == rows


def test_a_batch_may_take_four_rows_time_or_5_ms() -> None:
    assert limit_ms(sizes(0.1)) == 5
    assert limit_ms(sizes(10)) == 40


def examined(path: Path, *, batches: bool) -> tuple[Chart, Patient]:
    return Chart(file=str(path), name="m", batches=batches), Patient(path)


def names(chart: Chart) -> list[str]:
    return [finding.name for finding in chart.findings]


def test_each_size_is_sent_on_when_it_is_measured(tmp_path: Path) -> None:
    chart, patient = examined(onnx_models.linear(tmp_path / "m.onnx"), batches=True)
    seen: list[int] = []
    measuring.measure_sizes(chart, patient, lambda: seen.append(len(chart.sizes)), float("inf"))
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert names(chart) == ["warm-up", "speed", "memory"]
    assert "batch_size" in chart.proposed


def test_the_session_that_is_profiled_is_opened_as_a_worker_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[dict[str, Any]] = []

    class Opened:
        def __init__(self, path: Path, options: ort.SessionOptions, **more: Any) -> None:
            opened.append(more)

        def disable_fallback(self) -> None:
            pass

    monkeypatch.setattr(ort, "InferenceSession", Opened)
    monkeypatch.setenv("GPU_MEM_LIMIT_MIB", "512")
    for cuda in (True, False):
        profiled(tmp_path / "m.onnx", tmp_path / "profile", cuda=cuda)
    assert [each["enable_fallback"] for each in opened] == [0, 0]
    (name, options), rest = opened[0]["providers"]
    assert (name, rest, options["gpu_mem_limit"]) == (CUDA, CPU, 512 * 2**20)
    assert opened[1]["providers"] == [CPU]


def test_what_does_not_batch_is_measured_alone(tmp_path: Path) -> None:
    chart, patient = examined(onnx_models.fixed_batch(tmp_path / "m.onnx"), batches=False)
    measuring.measure_sizes(chart, patient, lambda: None, float("inf"))
    assert [size.rows for size in chart.sizes] == [1]
    assert "batch_size" not in chart.proposed


def test_no_larger_batch_is_tried_when_time_or_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    chart, patient = examined(path, batches=True)
    measuring.measure_sizes(chart, patient, lambda: None, 0.0)
    assert [size.rows for size in chart.sizes] == [1]
    assert "no larger batch was tried" in chart.findings[1].detail
    monkeypatch.setattr(memory, "available_mib", lambda: 1e-3)
    monkeypatch.setattr(memory, "forget_peak", lambda: True)
    monkeypatch.setattr(memory, "peak_mib", lambda: 1e6)
    chart = Chart(file=str(path), name="m", batches=True)
    measuring.measure_sizes(chart, patient, lambda: None, float("inf"))
    assert [size.rows for size in chart.sizes] == [1]
    assert "larger batches were not tried" in chart.findings[1].detail


def test_memory_is_what_linux_says() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc")
    forgotten, before = memory.forget_peak(), memory.resident_mib()
    with mmap.mmap(-1, 64 << 20) as held:  # not from the heap, where there may be room left
        held.write(b"1" * (64 << 20))
        assert memory.resident_mib() > before + 50
    if forgotten:
        assert memory.peak_mib() > before + 50
        assert memory.forget_peak()
        assert memory.peak_mib() < before + 50
    assert memory.available_mib() > 1


@pytest.mark.parametrize(("rates", "proposed"), [((100, 220) * 3, True), ((100, 110) * 3, False)])
def test_two_sessions_are_proposed_if_every_round_says_so(
    rates: tuple[int, ...], proposed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chart, patient = examined(onnx_models.linear(tmp_path / "m.onnx"), batches=True)
    chart.sizes = sizes(20)
    left = list(rates)
    monkeypatch.setattr(measuring, "cores", lambda: 4)
    monkeypatch.setattr(measuring, "_rate", lambda patients, feed: left.pop(0))
    measuring.look_at_sessions(chart, Path(chart.file), patient, float("inf"))
    assert left == []
    assert names(chart) == ["sessions"]
    assert ("sessions" in chart.proposed) is proposed


def test_one_round_against_is_enough_to_stay_with_one_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chart, patient = examined(onnx_models.linear(tmp_path / "m.onnx"), batches=True)
    chart.sizes = sizes(20)
    left = [100, 220, 100, 220, 200, 210]
    monkeypatch.setattr(measuring, "cores", lambda: 4)
    monkeypatch.setattr(measuring, "_rate", lambda patients, feed: left.pop(0))
    measuring.look_at_sessions(chart, Path(chart.file), patient, float("inf"))
    assert "sessions" not in chart.proposed


def test_both_sessions_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chart, patient = examined(onnx_models.linear(tmp_path / "m.onnx"), batches=True)
    chart.sizes = sizes(20)
    monkeypatch.setattr(measuring, "ROUND_S", 0.02)
    monkeypatch.setattr(measuring, "cores", lambda: 2)
    measuring.look_at_sessions(chart, Path(chart.file), patient, float("inf"))
    assert names(chart) == ["sessions"]


def test_the_nodes_of_each_provider_are_counted(tmp_path: Path) -> None:
    chart, patient = examined(onnx_models.classifier(tmp_path / "m.onnx"), batches=True)
    measuring.look_at_providers(chart, Path(chart.file), patient)
    assert chart.providers == {patient.provider: 3}
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


FLOATS = (Tensor("y", "FP32", (-1, 2), ("batch", None)),)
WHOLE = (Tensor("y", "INT64", (-1, 2), ("batch", None)),)


def test_what_counts_as_the_same_answer() -> None:
    big = np.array([[1.0, 1000.0]], np.float32)
    near = big + np.array([[0.05, 0.0]], np.float32)
    assert compare(FLOATS, [big], [near], cuda=False).within  # small beside the largest value
    assert not compare(FLOATS, [big], [near + 0.2], cuda=False).within
    assert compare(FLOATS, [big], [near + 0.2], cuda=True).within
    assert str(compare(FLOATS, [big], [big], cuda=False)) == "equal to the bit"
    assert "0.05 in 'y', 0.1 is allowed" in str(compare(FLOATS, [big], [near], cuda=False))
    assert compare(FLOATS, [big], [big[:, :1]], cuda=False).largest == OTHER_SHAPE
    odd = np.array([[1.0, np.nan]], np.float32)
    assert compare(FLOATS, [odd], [odd], cuda=False).within
    assert compare(FLOATS, [odd], [big], cuda=False).largest == NOT_FINITE
    ones = np.array([[1, 1]])
    assert compare(WHOLE, [ones], [ones], cuda=False).within
    assert compare(WHOLE, [ones], [ones * 3], cuda=False).largest == 2
    assert not compare(WHOLE, [ones], [ones * 3], cuda=False).within
    text = np.array([["a", "b"]], object)
    assert not compare(WHOLE, [text], [text[:, ::-1]], cuda=False).within


def test_reasons_leave_out_what_only_developers_need() -> None:
    assert reason_of("[ONNXRuntimeError] : 1 : FAIL : Load model from x failed") == "Load model from x failed"
    long = (
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Reshape node. Name:''"
        " Status Message: /onnx/reshape_helper.h:47 onnxruntime::ReshapeHelper(const TensorShape&) size == other was"
        " false. The input tensor cannot be reshaped."
    )
    assert reason_of(long) == "The input tensor cannot be reshaped."
    assert reason_of(ValueError()) == "ValueError"
