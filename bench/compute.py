"""A model that is bound by computation, served and beside what ONNX Runtime alone reaches on the same cores."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bench.bodies import NOTHING_KEPT, TOLERANCE, ask, infer_url, linked, write_binary
from bench.yardstick import BenchError, cpu_seconds, wrk
from tests.support.cluster import Cluster
from tests.support.onnx_models import mlp
from tests.support.repository import publish
from tests.support.waiting import PATIENCE_S

Row = tuple[str, str]
COMPUTE = (512, 2048, 2048, 100)
BATCHES = (1, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Alone:
    """The best that ONNX Runtime reaches without a server."""

    per_s: float
    batch: int
    processes: int
    threads: int


def alone(model: Path, width: int, batches: Sequence[int] = BATCHES, seconds: float = 1.5) -> Alone:
    """On all cores: one process with all of them or one per core, each batch size."""
    cores = len(os.sched_getaffinity(0))
    found = [
        Alone(
            sum(_in_processes(model, width, batch, processes, cores // processes, seconds)), batch, processes, threads
        )
        for processes, threads in sorted({(1, cores), (cores, 1)})
        for batch in batches
    ]
    return max(found, key=lambda each: each.per_s)


def _in_processes(model: Path, width: int, batch: int, processes: int, threads: int, seconds: float) -> Iterator[float]:
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=_run_alone, args=(model, width, batch, threads, seconds, barrier, rates))
        for _ in range(processes)
    ]
    for process in started:
        process.start()
    for _ in started:
        yield rates.get(timeout=PATIENCE_S)
    for process in started:
        process.join()


def _run_alone(model: Path, width: int, batch: int, threads: int, seconds: float, barrier: Barrier, rates: Any) -> None:
    """Rows per second of one session."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    sample = np.random.default_rng(1).random((batch, width), np.float32)
    for _ in range(3):
        session.run(None, {"input": sample})
    barrier.wait()
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        session.run(None, {"input": sample})
        runs += 1
    rates.put(runs * batch / (time.perf_counter() - began))


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """This process, and all that it starts meanwhile, runs on these."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compute(directory: Path, seconds: int, *, quick: bool = False) -> list[Row]:
    """256 connections, binary bodies, every input new, a worker per core: with the gateway and the clients on the
    workers' cores, and with the workers on half of the cores and all else on the others."""
    cores = sorted(os.sched_getaffinity(0))
    model = mlp(directory / "mlp.onnx", COMPUTE)
    rows = []
    cases = (
        (set(cores), set(cores), "all on the same cores"),
        (
            set(cores[len(cores) // 2 :]),
            set(cores[: len(cores) // 2]),
            "workers on half of the cores, all else on the others",
        ),
    )
    for part, rest, label in cases[:1] if quick else cases:
        with on_cores(part):
            best = alone(model, COMPUTE[0], (64,), 0.2) if quick else alone(model, COMPUTE[0])
        rows += [
            _beside(directory / f"compute-{len(part)}-{each}", model, best, part, rest, each, label, seconds)
            for each in ((1, 8) if part == rest and not quick else (1,))
        ]
    return rows


def _beside(
    directory: Path, model: Path, best: Alone, part: set[int], rest: set[int], each: int, label: str, seconds: int
) -> Row:
    """Workers on the cores `part`, gateway and clients on `rest`, requests of `each` rows, and what is alone best."""
    repository = directory / "models"
    batch = min(256 * each // len(part), 256)
    publish(repository, "mlp", 1, linked(model), {**NOTHING_KEPT, "batch_size": batch})
    rng = np.random.default_rng(1)
    requests = [{"input": rng.random((each, COMPUTE[0]), np.float32)} for _ in range(4000 // each)]
    script = write_binary(directory / "bodies", requests)
    arguments = ("--repository", str(repository))
    with on_cores(part):  # a worker plans its threads by the cores that it may use
        cluster = Cluster(directory / "cluster", workers=len(part), arguments=arguments).__enter__()
    try:
        url, pids = infer_url(cluster, "mlp"), cluster.pids()
        for thread in Path(f"/proc/{pids['gateway']}/task").iterdir():
            os.sched_setaffinity(int(thread.name), rest)
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        for tensors in requests[:20]:
            if np.abs(ask(url, tensors, "output") - session.run(None, tensors)[0]).max() > TOLERANCE:
                raise BenchError("an answer is not what ONNX Runtime alone gives")
        with on_cores(rest):
            wrk(url, script, connections=256, seconds=min(2, seconds))
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            load = wrk(url, script, connections=256, seconds=2 * seconds)
        spent = {name: (cpu_seconds(pid) - before[name]) / max(1, load.requests) * 1e6 for name, pid in pids.items()}
        sizes = [cluster.health(name)["batch_processor"]["avg_batch_size"] for name in cluster.names]
    finally:
        cluster.__exit__()
    cpu = ", ".join(f"{name} {us:.0f}" for name, us in spent.items())
    per_s = load.per_s * each
    return (
        f"512→2048→2048→100, 256 connections, binary, rows per request: {each}, {label}: rows/s, of ONNX Runtime's",
        f"{per_s:,.0f}, **{per_s / best.per_s:.2f}** of {best.per_s:,.0f} (alone, {best.processes} × {best.threads} "
        f"threads, batches of {best.batch}); mean batch {', '.join(map(str, sizes))}; p50 {load.p50_ms:.0f} ms, p99 "
        f"{load.p99_ms:.0f} ms, {load.errors} errors; µs CPU per request: {cpu}",
    )
