"""Measures the whole system as its users meet it and prints a table: `make bench`.

Starts a cluster of three workers of its own for each model. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnxruntime as ort
from xxhash import xxh3_64_intdigest

from bench import dashboards, protocol, zipf
from bench.yardstick import BenchError, compare, nginx, resident_mb, workplace, write_load, wrk
from bench.zipf_cluster import tune
from gateway_app.core.table import Table
from tests.support.cluster import Cluster
from tests.support.onnx_models import mlp

Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of each is measured."""

    pairs: int
    seconds: int
    requests: int  # for the memory
    simulated: int
    distinct: int = 20_000  # cold inputs
    lone: int = 2000
    spread: int = 100_000
    runbench: int = 10_000
    kills: int = 20  # of workers that are watched


QUICK = Scale(
    pairs=1, seconds=1, requests=100, simulated=1000, distinct=500, lone=50, spread=2000, runbench=200, kills=1
)


def throughput(directory: Path, model: Path, scale: Scale) -> list[Row]:
    """Hot, cold and close beside nginx; a lone request; memory after a long run."""
    rows: list[Row] = []
    with Cluster(directory / "cluster", model=model) as cluster, nginx(directory) as yardstick:
        url, pids = f"{cluster.gateway_url}/infer", cluster.pids()
        modes = (("hot", 10), ("cold", scale.distinct), ("close", 10), ("hot, the gateway's own cache off", 10))
        for mode, distinct in modes:
            if "off" in mode:
                tune(cluster, {"hot_cache": False})
            script = write_load(directory / mode.partition(",")[0], distinct, 64, close=mode == "close")
            found = compare(url, pids["gateway"], script, yardstick, pairs=scale.pairs, seconds=scale.seconds)
            rows.append(
                (
                    f"{mode}: requests/s, of nginx's",
                    f"{found.per_s:,.0f}, **{found.ratio:.2f}** (p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms, "
                    f"{found.errors} errors, gateway {found.cpu_us:.0f} µs CPU each)",
                )
            )
        rows += lone(url, model, scale.lone)
        first = {name: resident_mb(pid) for name, pid in pids.items()}
        done = 0
        while done < scale.requests:
            seconds = 10 if scale.requests > 100_000 else 1
            done += wrk(url, directory / "cold" / "load.lua", seconds=seconds).requests
        then = {name: resident_mb(pid) for name, pid in pids.items()}
        text = ", ".join(f"{name} {first[name]:.0f} → {then[name]:.0f}" for name in pids)
        rows.append((f"resident memory in MB, before and after {done:,} more requests", text))
    return rows


def lone(url: str, model: Path, count: int) -> list[Row]:
    """One request at a time, never seen before, less what ONNX Runtime itself takes."""
    where, rng = urlsplit(url), random.Random()
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    ours, alone = [], []
    for number in range(count):
        values = [rng.random() for _ in range(64)]
        body = json.dumps({"request_id": f"r{number}", "input_data": values})
        began = time.perf_counter()
        connection.request("POST", where.path, body)
        answer = connection.getresponse()
        answer.read()
        ours.append(time.perf_counter() - began)
        if answer.status != 200 or answer.headers["X-Cache"] != "miss":
            raise BenchError(f"a lone request got {answer.status}, X-Cache {answer.headers['X-Cache']}")
        sample = np.array([values], np.float32)
        began = time.perf_counter()
        session.run(None, {name: sample})
        alone.append(time.perf_counter() - began)
    p50, p99 = ((np.percentile(ours, share) - np.percentile(alone, share)) * 1000 for share in (50, 99))
    return [("a lone request, cache miss, above ONNX Runtime's own time", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms")]


def balance(inputs: int) -> list[Row]:
    """How evenly random inputs spread over workers at 150 virtual nodes."""
    rng = random.Random(1)
    keys = [xxh3_64_intdigest(json.dumps([rng.random() for _ in range(8)]).encode()) for _ in range(inputs)]
    rows = []
    for workers in (3, 10, 100):
        table = Table({f"worker_{n}": 1.0 for n in range(1, workers + 1)}, 150, xxh3_64_intdigest)
        counts = dict.fromkeys(table.nodes, 0)
        for key in keys:
            counts[table.owners(key)[0]] += 1
        rows.append(
            (
                f"share of {inputs:,} random inputs, {workers} workers",
                f"max/mean {max(counts.values()) * workers / inputs:.3f}",
            )
        )
    return rows


def batches(directory: Path, scale: Scale) -> list[Row]:
    """Mean batch size with a model that is bound by computation, at 100 connections, every input new."""
    model = mlp(directory / "compute.onnx", sizes=(512, 2048, 2048, 100))
    with Cluster(directory / "compute", model=model) as cluster:
        script = write_load(directory / "512", min(5000, scale.distinct), 512)
        load = wrk(f"{cluster.gateway_url}/infer", script, connections=100, seconds=2 * scale.seconds)
        sizes = [cluster.health(name)["batch_processor"]["avg_batch_size"] for name in cluster.names]
    text = f"{', '.join(map(str, sizes))} ({load.per_s:,.0f} requests/s, {load.errors} errors)"
    return [("mean batch size of each worker, 512→2048→2048→100 at 100 connections", text)]


def runbench(directory: Path, requests: int) -> str:
    """The report of `runbench` on the bundled model."""
    with Cluster(directory / "runbench") as cluster:
        arguments = ("--gateway", cluster.gateway_url, "--requests", str(requests), "--threads", "50")
        return cluster.manage("runbench", *arguments).stdout


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind beside nginx (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="length of a run (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=1_000_000, help="for the memory (default: %(default)s)")
    parser.add_argument("--simulated", type=int, default=300_000, help="requests of each system (default: %(default)s)")
    parser.add_argument("--without-protocol", action="store_true", help="leaves out what bench/protocol.py measures")
    parser.add_argument(
        "--without-dashboards", action="store_true", help="leaves out what bench/dashboards.py measures"
    )
    parser.add_argument("--quick", action="store_true", help="of each only enough to see that it works")
    options = parser.parse_args()
    scale = QUICK if options.quick else Scale(options.pairs, options.seconds, options.requests, options.simulated)
    with workplace() as directory:
        model = mlp(directory / "mlp64.onnx", sizes=(64, 128, 10))
        rows = throughput(directory, model, scale)
        rows += balance(scale.spread) + batches(directory, scale)
        if not options.without_protocol:
            rows += protocol.rows(directory, scale.pairs, scale.seconds, quick=options.quick)
        if not options.without_dashboards:
            rows += dashboards.rows(directory, scale.pairs, scale.seconds, scale.kills)
        print("| measured | result |\n|---|---|")
        for label, result in rows:
            print(f"| {label} | {result} |")
        print(f"\n{runbench(directory, scale.runbench)}")
    print("Simulated: ten workers with 1,000 cache entries each, Zipf(1.1) over 100,000 inputs, 25,000 requests/s\n")
    print(zipf.table([zipf.simulate(system, scale.simulated, per_s=25_000) for system in zipf.SYSTEMS]))


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(str(error))
