"""Measures the Open Inference Protocol: large inputs beside nginx, a model bound by computation beside ONNX Runtime
alone, texts of mixed lengths, gRPC. Part of `make bench`; alone: `python bench/protocol.py --only images compute`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench.yardstick import BenchError, compare, cpu_seconds, nginx, tool, write_bodies, write_load, wrk
from tests.support.cluster import Cluster
from tests.support.http import request
from tests.support.onnx_models import mlp
from tests.support.repository import publish

Row = tuple[str, str]
IMAGE = (1, 3, 224, 224)
COMPUTE = (512, 2048, 2048, 100)
BATCHES = (1, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = (4, 96)  # tokens of a sentence
BUCKETS = (16, 32, 48, 64, 96, 128)
TOLERANCE = 1e-4
NOTHING_KEPT: Mapping[str, object] = {"cached": False}


def binary_body(tensors: Mapping[str, NDArray[Any]], ident: str, head_bytes: int) -> bytes:
    """A request with these tensors; its JSON is filled up to `head_bytes`, so that one header fits all bodies."""
    types = {"float32": "FP32", "int64": "INT64"}
    inputs = [
        {
            "name": name,
            "shape": list(values.shape),
            "datatype": types[values.dtype.name],
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, values in tensors.items()
    ]
    head = json.dumps({"id": ident, "inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    if len(head) > head_bytes:
        raise BenchError(f"the head of a request has {len(head)} bytes, more than {head_bytes}")
    return head.ljust(head_bytes) + b"".join(values.tobytes() for values in tensors.values())


def write_binary(directory: Path, requests: Iterable[Mapping[str, NDArray[Any]]], head_bytes: int = 400) -> Path:
    """A wrk script that posts these in turn."""
    bodies = (binary_body(tensors, f"r{number}", head_bytes) for number, tensors in enumerate(requests))
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(head_bytes)}
    return write_bodies(directory, bodies, headers)


def infer_url(cluster: Cluster, model: str) -> str:
    return f"{cluster.gateway_url}/v2/models/{model}/infer"


def ask(url: str, tensors: Mapping[str, NDArray[Any]], output: str) -> NDArray[np.float32]:
    """One answer's output."""
    body = binary_body(tensors, "check", 400)
    status, answer = request("POST", url, body, {"Inference-Header-Content-Length": "400"}, timeout_s=30)
    if status != 200:
        raise BenchError(f"{url} answered {status}: {answer[:300]!r}")
    # The header is not kept by this helper: the raw tensors are what follows the JSON.
    head, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    rest, position = answer[end:], 0
    for each in head["outputs"]:
        size = each["parameters"]["binary_data_size"]
        if each["name"] == output:
            return np.frombuffer(rest[position : position + size], np.float32).reshape(each["shape"])
        position += size
    raise BenchError(f"{url} gave no {output}: {head}")


# --- Large inputs beside nginx -----------------------------------------------------------------------------------


def images(directory: Path, pairs: int, seconds: int) -> list[Row]:
    """A model that does next to nothing with an image, so that moving it is what is measured."""
    rows: list[Row] = []
    repository = directory / "images"
    publish(repository, "image", 1, pooled)
    publish(repository, "unkept", 1, pooled, NOTHING_KEPT)
    rng = np.random.default_rng(1)
    arguments = ("--repository", str(repository))
    with Cluster(directory / "cluster-images", arguments=arguments) as cluster, nginx(directory) as yardstick:
        pid = cluster.pids()["gateway"]
        binary = write_binary(
            directory / "binary", ({"input": rng.random(IMAGE, np.float32)} for _ in range(10)), head_bytes=200
        )
        text = write_load(directory / "text", 10, int(np.prod(IMAGE)))
        for label, url, script in (
            ("binary, repeated", infer_url(cluster, "image"), binary),
            ("binary, the model run each time", infer_url(cluster, "unkept"), binary),
            ("JSON (/infer), repeated", f"{cluster.gateway_url}/infer", text),
        ):
            size_mb = (script.parent / "body0").stat().st_size / 1e6
            found = compare(url, pid, script, yardstick, pairs=pairs, seconds=seconds)
            rows.append(
                (
                    f"1×3×224×224 float32, {label}: requests/s, MB/s, of nginx's",
                    f"{found.per_s:,.0f}, {found.per_s * size_mb:,.0f}, **{found.ratio:.2f}** (nginx "
                    f"{found.nginx_per_s:,.0f}; p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms, "
                    f"{found.errors} errors, gateway {found.cpu_us:.0f} µs CPU each)",
                )
            )
    return rows


def pooled(path: Path) -> Path:
    """`input` float [batch, 3, 224, 224] -> `output` float [batch, 3, 1, 1], the means."""
    import onnx
    from onnx import TensorProto, helper

    shapes: dict[str, list[int | str]] = {"input": ["batch", 3, 224, 224], "output": ["batch", 3, 1, 1]}
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    node = helper.make_node("GlobalAveragePool", ["input"], ["output"])
    graph = helper.make_graph([node], "pooled", [info["input"]], [info["output"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


# --- A model bound by computation, beside ONNX Runtime alone -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Alone:
    """The best that ONNX Runtime reaches without a server."""

    per_s: float
    batch: int
    processes: int
    threads: int


def alone(model: Path, width: int, seconds: float = 1.5) -> Alone:
    """On all cores: one process with all of them or one per core, each batch size."""
    cores = len(os.sched_getaffinity(0))
    found = [
        Alone(
            sum(_in_processes(model, width, batch, processes, cores // processes, seconds)), batch, processes, threads
        )
        for processes, threads in sorted({(1, cores), (cores, 1)})
        for batch in BATCHES
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
        yield rates.get(timeout=60)
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


def compute(directory: Path, seconds: int) -> list[Row]:
    """256 connections, binary bodies, every input new, a worker per core: with the gateway and the clients on the
    workers' cores, and with the workers on half of the cores and all else on the others."""
    cores = sorted(os.sched_getaffinity(0))
    model = mlp(directory / "mlp.onnx", COMPUTE)
    rows = []
    for part, rest, label in (
        (set(cores), set(cores), "all on the same cores"),
        (
            set(cores[len(cores) // 2 :]),
            set(cores[: len(cores) // 2]),
            "workers on half of the cores, all else on the others",
        ),
    ):
        with on_cores(part):
            best = alone(model, COMPUTE[0])
        rows += [
            _beside(directory / f"compute-{len(part)}-{each}", model, best, part, rest, each, label, seconds)
            for each in ((1, 8) if part == rest else (1,))
        ]
    return rows


def _beside(
    directory: Path, model: Path, best: Alone, part: set[int], rest: set[int], each: int, label: str, seconds: int
) -> Row:
    """Workers on the cores `part`, gateway and clients on `rest`, requests of `each` rows, and what is alone best."""
    repository = directory / "models"
    batch = min(256 * each // len(part), 256)
    publish(repository, "mlp", 1, _linked(model), {**NOTHING_KEPT, "batch_size": batch})
    rng = np.random.default_rng(1)
    requests = [{"input": rng.random((each, COMPUTE[0]), np.float32)} for _ in range(4000 // each)]
    script = write_binary(directory / "bodies", requests, head_bytes=200)
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
            wrk(url, script, connections=256, seconds=2)
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


# --- Texts of mixed lengths --------------------------------------------------------------------------------------


def sentence(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Ids of a sentence as a tokenizer would give them, each length as likely as another."""
    length = int(rng.integers(*LENGTHS))
    return {
        "input_ids": rng.integers(1000, 30_000, (1, length), np.int64),
        "attention_mask": np.ones((1, length), np.int64),
        "token_type_ids": np.zeros((1, length), np.int64),
    }


def sentences(directory: Path, seconds: int) -> list[Row]:
    """The same sentences one by one, in batches of equal lengths, and in batches of buckets; every input new."""
    from tests.support.minilm import build

    repository = directory / "sentences"
    padding = {"dimension": "sequence", "buckets": BUCKETS, "mask": "attention_mask"}
    records: dict[str, dict[str, object]] = {
        "one by one": {"batches": False},
        "batches of equal length": {},
        "batches with buckets": {"padding": padding},
    }
    first = directory / "minilm.onnx"
    build(first)
    for number, record in enumerate(records.values()):
        publish(repository, f"m{number}", 1, _linked(first), {**NOTHING_KEPT, **record})
    rng = np.random.default_rng(1)
    requests = [sentence(rng) for _ in range(2000)]
    script = write_binary(directory / "texts", requests, head_bytes=600)
    session = ort.InferenceSession(first, providers=["CPUExecutionProvider"])
    rates, lines = [], []
    arguments = ("--repository", str(repository))
    workers = len(os.sched_getaffinity(0))
    with Cluster(directory / "cluster-sentences", workers=workers, arguments=arguments) as cluster:
        for number, label in enumerate(records):
            url = infer_url(cluster, f"m{number}")
            worst = max(
                float(np.abs(ask(url, each, "sentence_embedding") - session.run(["sentence_embedding"], each)[0]).max())
                for each in requests[:50]
            )
            if worst > TOLERANCE:
                raise BenchError(f"{label}: an answer differs from ONNX Runtime's own by {worst}")
            load = wrk(url, script, connections=64, seconds=3 * seconds)
            rates.append(load.per_s)
            lines.append(f"{label} {load.per_s:,.0f} (largest difference {worst:.0e}, {load.errors} errors)")
    return [
        (
            f"sentences of {LENGTHS[0]} to {LENGTHS[1] - 1} tokens at 64 connections: sentences/s",
            f"{'; '.join(lines)}; buckets gain **{rates[2] / rates[1]:.2f}** over equal lengths, "
            f"{rates[2] / rates[0]:.2f} over one by one",
        )
    ]


def _linked(file: Path) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        os.link(file, path)
        return path

    return make


# --- gRPC --------------------------------------------------------------------------------------------------------


def grpc(directory: Path, seconds: int) -> list[Row]:
    """64 floats through tritonclient, whose own process is another core's work."""
    from tests.support.ports import free_ports

    repository = directory / "grpc"
    publish(repository, "small", 1, lambda path: mlp(path, (64, 128, 10)))
    port = free_ports(1)[0]
    arguments = ("--repository", str(repository), "--grpc-port", str(port))
    with Cluster(directory / "cluster-grpc", arguments=arguments) as cluster:
        pid = cluster.pids()["gateway"]
        before = cpu_seconds(pid)
        count = asyncio.run(_ask_by_grpc(f"127.0.0.1:{port}", 2 * seconds))
        cpu_us = (cpu_seconds(pid) - before) / max(1, count) * 1e6
    return [
        (
            "gRPC, 64 floats, 50 in flight: requests/s",
            f"{count / (2 * seconds):,.0f} (gateway {cpu_us:.0f} µs CPU each; the client, tritonclient's asyncio one, "
            "is on the same cores)",
        )
    ]


async def _ask_by_grpc(address: str, seconds: float) -> int:
    """How many requests were answered; each input is asked a few times."""
    import tritonclient.grpc.aio as triton

    rng = np.random.default_rng(1)
    answered = 0
    async with triton.InferenceServerClient(address) as client:
        give_up_at = time.monotonic() + seconds

        async def one_after_the_other() -> None:
            nonlocal answered
            tensor = triton.InferInput("input", [1, 64], "FP32")
            while time.monotonic() < give_up_at:
                tensor.set_data_from_numpy(rng.random((1, 64), np.float32))
                await client.infer("small", [tensor])
                answered += 1

        await asyncio.gather(*(one_after_the_other() for _ in range(50)))
    return answered


def rows(directory: Path, pairs: int, seconds: int, only: Iterable[str] = ()) -> list[Row]:
    """All of it, or the parts named."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "images": lambda: images(directory, pairs, seconds),
        "compute": lambda: compute(directory, seconds),
        "sentences": lambda: sentences(directory, seconds),
        "grpc": lambda: grpc(directory, seconds),
    }
    return [row for name in (only or parts) for row in parts[name]()]


def main() -> None:
    """Runs it alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=(), choices=("images", "compute", "sentences", "grpc"))
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind beside nginx (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="length of a run (default: %(default)s)")
    options = parser.parse_args()
    for needed in ("wrk", "nginx"):
        tool(needed)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # nginx's workers may be another user
        for label, result in rows(directory, options.pairs, options.seconds, options.only):
            print(f"| {label} | {result} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(str(error))
