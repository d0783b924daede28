"""What V2 says of the server and of its models, as JSON has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference_site.lib.catalog import ModelInfo, State, Statistics, TensorInfo

NAME, VERSION = "inference-site", "0.1.0"
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
# Those that are whole.
EXTENSIONS = ("binary_tensor_data", "statistics", "model_configuration", "model_repository")


def server() -> dict[str, Any]:
    """GET v2."""
    return {"name": NAME, "version": VERSION, "extensions": EXTENSIONS}


def metadata(info: ModelInfo, versions: Sequence[str]) -> dict[str, Any]:
    """GET v2/models/M; `versions` are those that can be asked."""
    return {
        "name": info.name,
        "versions": versions,
        "platform": PLATFORM,
        "inputs": info.inputs,
        "outputs": info.outputs,
    }


def config(info: ModelInfo) -> dict[str, Any]:
    """GET v2/models/M/config. As always there, dims leave out the axis of the batch if there is one."""
    first = 1 if info.batches else 0
    return {
        "name": info.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "version_policy": {"specific": {"versions": [int(info.version)]}} if info.version.isdigit() else {},
        "max_batch_size": info.max_batch_size,
        "input": [_tensor(each, first) for each in info.inputs],
        "output": [_tensor(each, first) for each in info.outputs],
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": info.max_wait_us},
        "response_cache": {"enable": info.cached},
        "model_transaction_policy": {"decoupled": False},
    }


def model_statistics(info: ModelInfo, found: Statistics) -> dict[str, Any]:
    """An item of GET v2/models/stats. Durations are in nanoseconds, summed.

    The queue's count has cache hits too: perf_analyzer knows by its growth which version it has asked.
    """
    return {
        "name": info.name,
        "version": info.version,
        "last_inference": found.last_inference_ms,
        "inference_count": found.inferences,
        "execution_count": found.executions,
        "inference_stats": {
            "success": _duration(found.success, found.success_ns),
            "fail": _duration(found.fail, found.fail_ns),
            "queue": _duration(found.success, found.queue_ns),
            "compute_input": _duration(found.computed, found.compute_input_ns),
            "compute_infer": _duration(found.computed, found.compute_infer_ns),
            "compute_output": _duration(found.computed, found.compute_output_ns),
            "cache_hit": _duration(found.cache_hits, found.cache_hit_ns),
            "cache_miss": _duration(found.cache_misses, found.cache_miss_ns),
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": _duration(count, ns)}
            for size, (count, ns) in sorted(found.batches.items())
        ],
    }


def index(models: Sequence[ModelInfo], ready_only: bool) -> list[dict[str, Any]]:
    """POST v2/repository/index: each version once, also while one takes the place of another of the same name."""
    versions: dict[tuple[str, str], list[ModelInfo]] = {}
    for each in models:
        versions.setdefault((each.name, each.version), []).append(each)
    found = []
    for (name, version), same in versions.items():
        reasons = [each.reason for each in same if each.reason]
        state = _state_of(same)
        if state is State.UNAVAILABLE and not reasons:
            reasons = ["unloaded"]
        if state is State.READY or not ready_only:
            found.append({"name": name, "version": version, "state": state, "reason": "; ".join(reasons)})
    return found


def _state_of(same: Sequence[ModelInfo]) -> State:
    if any(each.state is State.READY and each.current for each in same):
        return State.READY
    return State.LOADING if any(each.state is State.LOADING for each in same) else State.UNAVAILABLE


def _tensor(info: TensorInfo, first: int) -> dict[str, Any]:
    kind = "TYPE_STRING" if info.datatype == "BYTES" else f"TYPE_{info.datatype}"
    return {"name": info.name, "data_type": kind, "dims": info.shape[first:]}


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
