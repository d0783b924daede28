"""Measures the Open Inference Protocol: large inputs beside nginx, a model bound by computation beside ONNX Runtime
alone, texts of mixed lengths, gRPC. Part of `make bench`; alone: `python bench/protocol.py --only images compute`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench.bodies import NOTHING_KEPT, TOLERANCE, ask, infer_url, linked, write_binary
from bench.compute import compute
from bench.yardstick import BenchError, compare, cpu_seconds, nginx, workplace, write_load, wrk
from tests.support.cluster import Cluster
from tests.support.onnx_models import mlp
from tests.support.repository import publish

Row = tuple[str, str]
IMAGE = (1, 3, 224, 224)
LENGTHS = (4, 96)  # tokens of a sentence
BUCKETS = (16, 32, 48, 64, 96, 128)


# --- Large inputs beside nginx -----------------------------------------------------------------------------------


def images(directory: Path, pairs: int, seconds: int, *, quick: bool = False) -> list[Row]:
    """A model that does next to nothing with an image, so that moving it is what is measured."""
    rows: list[Row] = []
    repository = directory / "images"
    publish(repository, "image", 1, pooled)
    publish(repository, "unkept", 1, pooled, NOTHING_KEPT)
    rng = np.random.default_rng(1)
    arguments = ("--repository", str(repository))
    with Cluster(directory / "cluster-images", arguments=arguments) as cluster, nginx(directory) as yardstick:
        pid = cluster.pids()["gateway"]
        binary = write_binary(directory / "binary", ({"input": rng.random(IMAGE, np.float32)} for _ in range(10)))
        text = write_load(directory / "text", 10, int(np.prod(IMAGE)), model="image")
        modes = (
            ("binary, repeated", infer_url(cluster, "image"), binary),
            ("binary, the model run each time", infer_url(cluster, "unkept"), binary),
            ("JSON (/infer), repeated", f"{cluster.gateway_url}/infer", text),
        )
        for label, url, script in modes[-1:] if quick else modes:
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


# --- Texts of mixed lengths --------------------------------------------------------------------------------------


def sentence(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Ids of a sentence as a tokenizer would give them, each length as likely as another."""
    length = int(rng.integers(*LENGTHS))
    return {
        "input_ids": rng.integers(1000, 30_000, (1, length), np.int64),
        "attention_mask": np.ones((1, length), np.int64),
        "token_type_ids": np.zeros((1, length), np.int64),
    }


def sentences(directory: Path, seconds: int, *, quick: bool = False) -> list[Row]:
    """The same sentences one by one, in batches of equal lengths, and in batches of buckets; every input new."""
    from tests.support.minilm import build

    repository = directory / "sentences"
    padding = {"dimension": "sequence", "buckets": BUCKETS[:1] if quick else BUCKETS, "mask": "attention_mask"}
    records: dict[str, dict[str, object]] = {
        "one by one": {"batches": False},
        "batches of equal length": {},
        "batches with buckets": {"padding": padding},
    }
    if quick:
        records = {label: records[label] for label in list(records)[1:]}
    first = directory / "minilm.onnx"
    build(first)
    for number, record in enumerate(records.values()):
        publish(repository, f"m{number}", 1, linked(first), {**NOTHING_KEPT, **record})
    rng = np.random.default_rng(1)
    requests = [sentence(rng) for _ in range(200 if quick else 2000)]
    script = write_binary(directory / "texts", requests, "sentence_embedding")
    session = ort.InferenceSession(first, providers=["CPUExecutionProvider"])
    rates, lines = [], []
    arguments = ("--repository", str(repository))
    workers = len(os.sched_getaffinity(0))
    with Cluster(directory / "cluster-sentences", workers=workers, arguments=arguments) as cluster:
        for number, label in enumerate(records):
            url = infer_url(cluster, f"m{number}")
            worst = max(
                float(np.abs(ask(url, each, "sentence_embedding") - session.run(["sentence_embedding"], each)[0]).max())
                for each in requests[: 5 if quick else 50]
            )
            if worst > TOLERANCE:
                raise BenchError(f"{label}: an answer differs from ONNX Runtime's own by {worst}")
            load = wrk(url, script, connections=64, seconds=seconds if quick else 3 * seconds)
            rates.append(load.per_s)
            lines.append(f"{label} {load.per_s:,.0f} (largest difference {worst:.0e}, {load.errors} errors)")
    return [
        (
            f"sentences of {LENGTHS[0]} to {LENGTHS[1] - 1} tokens at 64 connections: sentences/s",
            f"{'; '.join(lines)}; buckets gain **{rates[-1] / rates[-2]:.2f}** over equal lengths, "
            f"{rates[-1] / rates[0]:.2f} over the first",
        )
    ]


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


def rows(directory: Path, pairs: int, seconds: int, only: Iterable[str] = (), *, quick: bool = False) -> list[Row]:
    """All of it, or the parts named; quick: of each only enough to see that it works."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "images": lambda: images(directory, pairs, seconds, quick=quick),
        "compute": lambda: compute(directory, seconds, quick=quick),
        "sentences": lambda: sentences(directory, seconds, quick=quick),
        "grpc": lambda: grpc(directory, seconds),
    }
    return [row for name in (only or parts) for row in parts[name]()]


def main() -> None:
    """Runs it alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=(), choices=("images", "compute", "sentences", "grpc"))
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind beside nginx (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="length of a run (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="of each only enough to see that it works")
    options = parser.parse_args()
    with workplace() as directory:
        for label, result in rows(directory, options.pairs, options.seconds, options.only, quick=options.quick):
            print(f"| {label} | {result} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(str(error))
