"""What a model runs on: CUDA or the CPU, which device, with how many threads."""

from __future__ import annotations

import ctypes
import logging
import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # recent wheels open a telemetry database otherwise

import onnxruntime as ort

logger = logging.getLogger(__name__)

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_CGROUPS = Path("/sys/fs/cgroup")
_said: set[str] = set()


class ModelError(Exception):
    """A model that can't be served; the message names the file, the cause and the fix."""


def create_session(path: Path, *, threads: int = 1, device: int = 0) -> tuple[ort.InferenceSession, str]:
    """A session of the model on CUDA if that works, else on the CPU, and why it is not CUDA ("" if it is).

    `device` is the number of the GPU. Raises ModelError.
    """
    (session,), reason = create_sessions(path, 1, threads=threads, device=device)
    return session, reason


def create_sessions(
    path: Path, count: int, *, threads: int = 1, device: int = 0
) -> tuple[list[ort.InferenceSession], str]:
    """Likewise, `count` sessions that run at the same time, with `threads` threads each, all on the same provider."""
    sessions: list[ort.InferenceSession] = []
    reason = why_no_cuda()
    if not reason:
        providers, options = cuda_providers(device), _session_options(threads)
        try:
            ort.preload_dlls()
            sessions = [open_session(path, options, providers) for _ in range(count)]
            if any(CUDA not in each.get_providers() for each in sessions):
                reason = f"ONNX Runtime chose {sessions[-1].get_providers()[0]}; its log says why"
        except ModelError as error:
            reason = str(error)
    if reason:
        say_fallback(reason)
        sessions = create_cpu_sessions(path, count, threads=threads)
    return sessions, reason


def create_cpu_sessions(path: Path, count: int, *, threads: int = 1) -> list[ort.InferenceSession]:
    """`count` sessions on the CPU, whatever else there is. Raises ModelError."""
    options = _session_options(threads)
    return [open_session(path, options, [CPU]) for _ in range(count)]


def say_fallback(reason: str) -> None:
    """Logs why it is not CUDA, once in a process, however many models it loads."""
    if reason not in _said:
        _said.add(reason)
        logger.warning("CUDA failed to load: %s", reason)
        logger.warning("Falling back to CPU Provider...")


def why_no_cuda() -> str:
    """Why CUDA need not be tried at all; "" if it may work."""
    if CUDA not in ort.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"no NVIDIA driver: {error}"
    return ""


def device_count() -> int:
    """How many GPUs this process may use."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if found else 0


def device_of(node_id: str, count: int) -> int:
    """The GPU of a worker: worker_1 has the first, and so on round; a name without a number at its end, the first."""
    number = re.search(r"(\d+)$", node_id)
    return (int(number[1]) - 1) % count if number and count > 0 else 0


def plan_threads(workers: int, sessions: int = 1) -> int:
    """Threads of one session where `workers` processes on this machine have `sessions` each, at least 1."""
    return max(1, cores() // max(1, workers * sessions))


def cores(cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """The cores that this process may really use: those of its affinity, or its group's quota if that is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, int(min(_quotas(cgroups, own), default=allowed))))


def _quotas(cgroups: Path, own: Path) -> list[float]:
    """What every group that this process is in may use, in cores."""
    files = [(cgroups / "cpu/cpu.cfs_quota_us", cgroups / "cpu/cpu.cfs_period_us")]
    try:
        group = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
        folder = cgroups / group.lstrip("/")
        folders = [folder, *folder.parents[: len(folder.relative_to(cgroups).parts)]]
    except (OSError, StopIteration, ValueError):
        folders = [cgroups]
    texts = [_text(folder / "cpu.max") for folder in folders]
    texts += [f"{_text(quota)} {_text(period)}" for quota, period in files]
    found = [re.fullmatch(r"(\d+) (\d+)", text) for text in texts]  # "max" and -1 are no quota
    return [int(each[1]) / int(each[2]) for each in found if each and int(each[2])]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def cuda_providers(device: int) -> list[Any]:
    """CUDA, with options that suit inputs whose shapes vary, and the CPU for what it leaves. Raises ModelError."""
    limit = os.environ.get("GPU_MEM_LIMIT_MIB", "") or "0"
    if not re.fullmatch(r"[0-9]{1,9}", limit):
        raise ModelError(f"GPU_MEM_LIMIT_MIB is {limit!r}; set a whole number of MiB, or 0 for no limit")
    options: dict[str, Any] = {
        "device_id": device,
        # The default tries every algorithm anew for each shape it meets, for seconds.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles what it holds, and other workers share the device.
        "arena_extend_strategy": "kSameAsRequested",
        # The default multiplies floats with 10 bits (TF32) from Ampere on; workers on the CPU share cached results.
        "use_tf32": 0,
    }
    if int(limit):
        options["gpu_mem_limit"] = int(limit) * 2**20
    return [(CUDA, options), CPU]


def open_session(path: Path, options: ort.SessionOptions, providers: list[Any]) -> ort.InferenceSession:
    """A session on these providers and no others. Raises ModelError."""
    try:
        # Without both, a GPU failure in the middle of serving would silently move to the CPU.
        session = ort.InferenceSession(path, options, providers=providers, enable_fallback=0)
        session.disable_fallback()
        return session
    except Exception as error:
        first = providers[0] if isinstance(providers[0], str) else providers[0][0]
        raise ModelError(f"{path} can't be loaded on {first}: {error}") from error


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that spins takes the core from another worker, or from the gateway.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
