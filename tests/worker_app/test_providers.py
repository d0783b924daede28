"""What a model runs on: CUDA if it works, else the CPU and why; threads for the cores that are really there."""

import ctypes
import logging
import os
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from inference_site.lib.record import Record
from tests.support import onnx_models, onnx_types
from tests.support.engines import load
from worker_app import providers
from worker_app.providers import CPU, CUDA, ModelError, cores, device_count, device_of, plan_threads


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_said", set())


def test_without_a_driver_it_says_why_and_runs_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_driver(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    with caplog.at_level(logging.INFO):
        engine = load(onnx_models.linear(tmp_path / "m.onnx"))
        load(onnx_models.linear(tmp_path / "n.onnx"))
    assert engine.provider == CPU
    assert "libcuda.so.1: cannot open" in engine.fallback_reason
    assert sum("CUDA failed to load: no NVIDIA driver" in line for line in caplog.messages) == 1
    assert caplog.messages.count("Falling back to CPU Provider...") == 1
    assert device_count() == 0


def test_what_it_runs_on_is_said_once_for_all_sessions_and_the_reason_once_for_all_models(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        engine = load(onnx_models.linear(tmp_path / "m.onnx"), Record(sessions=3))
        load(onnx_models.linear(tmp_path / "n.onnx"))
    for name in ("m", "n"):
        assert sum(f"{name} 1 runs on {engine.provider}" in line for line in caplog.messages) == 1
    assert sum("Falling back" in line for line in caplog.messages) == (engine.provider == CPU)


def test_a_build_without_cuda_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    assert (engine.provider, engine.fallback_reason) == (CPU, "this build of ONNX Runtime has no CUDA provider")


class Opened:
    """Stands in for InferenceSession: notes how it was opened; CUDA works, or fails as it is told."""

    providers: list[Any]
    more: dict[str, Any]
    fails = ""

    def __init__(self, path: Path, options: ort.SessionOptions, providers: list[Any], **more: Any) -> None:
        Opened.providers, Opened.more = providers, more
        if self.fails and len(providers) > 1:
            raise RuntimeError(self.fails)
        self.fell_back = True
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)

    def get_providers(self) -> list[str]:
        return [each if isinstance(each, str) else each[0] for each in Opened.providers]

    def disable_fallback(self) -> None:
        self.fell_back = False


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> type[Opened]:
    monkeypatch.setattr(providers, "why_no_cuda", lambda: "")
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", Opened)
    monkeypatch.setattr(Opened, "fails", "")
    monkeypatch.delenv("GPU_MEM_LIMIT_MIB", raising=False)
    return Opened


def test_cuda_has_the_options_that_suit_varying_shapes(opened: type[Opened], monkeypatch: pytest.MonkeyPatch) -> None:
    session, reason = providers.create_session(Path("m.onnx"), threads=3, device=2)
    assert reason == ""
    assert opened.more == {"enable_fallback": 0}  # else a failure while serving would move to the CPU unsaid
    assert not session.fell_back
    options = {
        "device_id": 2,
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": 0,  # else a GPU's answers would not be those of the CPU, and they share caches
    }
    assert opened.providers == [(CUDA, options), CPU]
    monkeypatch.setenv("GPU_MEM_LIMIT_MIB", "512")
    providers.create_session(Path("m.onnx"), threads=3)
    assert opened.providers == [(CUDA, options | {"device_id": 0, "gpu_mem_limit": 512 * 2**20}), CPU]


@pytest.mark.parametrize("value", ["much", "-1", "1.5", "²"])
def test_a_wrong_memory_limit_is_named(opened: type[Opened], monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GPU_MEM_LIMIT_MIB", value)
    with pytest.raises(ModelError, match=r"GPU_MEM_LIMIT_MIB is .*whole number of MiB"):
        providers.create_session(Path("m.onnx"), threads=3)


def test_cuda_that_fails_at_creation_falls_back(opened: type[Opened], caplog: pytest.LogCaptureFixture) -> None:
    opened.fails = "CUDA error 35: driver too old"
    session, reason = providers.create_session(Path("m.onnx"), threads=3)
    assert session.get_providers() == [CPU]
    assert "driver too old" in reason
    assert "Falling back to CPU Provider..." in caplog.messages


def test_cuda_that_is_not_chosen_is_not_passed_off_as_it(opened: type[Opened], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Opened, "get_providers", lambda self: [CPU])
    session, reason = providers.create_session(Path("m.onnx"), threads=3)
    assert session.get_providers() == [CPU]
    assert "ONNX Runtime chose CPUExecutionProvider" in reason


def test_what_opens_on_cuda_and_does_not_run_there_runs_on_the_cpu(
    tmp_path: Path, no_cudnn: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load(onnx_types.pooled(tmp_path / "m.onnx"), Record(sessions=2))
    assert (engine.provider, engine.cold, engine.sessions) == (CPU, False, 2)
    assert engine.fallback_reason == f"m.onnx opens on CUDA but does not run there: {no_cudnn}"
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [f"CUDA failed to load: {engine.fallback_reason}", "Falling back to CPU Provider..."]
    for session in range(2):
        assert isinstance(engine.run([engine.read(engine.probe)], session).results[0], bytes)
    engine.shrink()


def test_what_runs_neither_on_cuda_nor_on_the_cpu_is_cold_on_cuda(
    tmp_path: Path, no_cudnn: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load(onnx_types.pooled(tmp_path / "m.onnx", size=300))
    assert (engine.provider, engine.cold, engine.fallback_reason) == (CUDA, True, "")
    assert "does not run on zeros: too small (on the CPU: " in caplog.text
    assert "Falling back" not in caplog.text
    with pytest.raises(ModelError, match=r"does not run on zeros: .*cuDNN.* \(on the CPU: "):
        load(onnx_types.pooled(tmp_path / "n.onnx", size=300), Record(warm_up=({"image": (1, 2, 8, 8)},)))


@pytest.mark.parametrize("fails", [1, 2])
def test_what_runs_on_neither_for_lack_of_sessions_is_cold_on_cuda(
    tmp_path: Path, no_cudnn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: int
) -> None:
    calls, real = [0], providers.create_cpu_sessions

    def scarce(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == fails:
            raise ModelError("no memory left")
        return real(*args, **more)

    monkeypatch.setattr("worker_app.engine.create_cpu_sessions", scarce)
    engine = load(onnx_types.pooled(tmp_path / "m.onnx"), Record(sessions=2))
    assert (engine.provider, engine.cold, engine.fallback_reason) == (CUDA, True, "")
    assert "no memory left" in caplog.text
    assert "does not run on zeros: too small" in caplog.text


@pytest.mark.parametrize(
    ("node_id", "count", "device"),
    [
        ("worker_1", 4, 0),
        ("worker_2", 4, 1),
        ("worker_5", 4, 0),
        ("worker_3", 1, 0),
        ("worker_3", 0, 0),
        ("worker_0", 4, 3),
        ("n12b", 4, 0),
        ("gpu", 4, 0),
        ("node-007", 8, 6),
    ],
)
def test_the_number_of_a_worker_chooses_its_device(node_id: str, count: int, device: int) -> None:
    assert device_of(node_id, count) == device


def test_threads_share_the_cores_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "cores", lambda: 16)
    assert [plan_threads(*each) for each in ((1,), (3,), (3, 2), (16,), (40,), (0, 0))] == [16, 5, 2, 1, 1, 16]


@pytest.mark.parametrize(
    ("files", "group", "expected"),
    [
        ({}, "0::/\n", 8),
        ({"cpu.max": "max 100000"}, "0::/\n", 8),
        ({"cpu.max": "250000 100000"}, "0::/\n", 2),
        ({"cpu.max": "50000 100000"}, "0::/\n", 1),
        ({"cpu.max": "6000000 100000"}, "0::/\n", 8),
        ({"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 3),
        ({"a/cpu.max": "max 100000", "a/b/cpu.max": "200000 100000"}, "1:x:/\n0::/a/b\n", 2),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/x\n", 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/x\n", 8),
        ({"cpu.max": "nonsense"}, "", 8),
        ({"cpu.max": "300000 100000"}, None, 3),
    ],
)
def test_the_cores_are_those_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], group: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    own = tmp_path / "own"
    if group is not None:
        own.write_text(group)
    assert cores(tmp_path, own) == expected
