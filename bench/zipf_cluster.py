"""Ten real workers with small caches under Zipf(1.1): hit rate and evenness as `/stats` tells them.

`python bench/zipf_cluster.py`, about two minutes. The rate is what two cores can do with twelve processes on them, so
few requests are in flight at a time: for evenness under load see `bench/zipf.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from bench.zipf import zipf
from tests.support.cluster import Cluster
from tests.support.onnx_models import mlp
from tests.support.processes import wait_until

KEYS, CACHE_ENTRIES, CONNECTIONS = 20_000, 200, 64
SYSTEMS: dict[str, dict[str, object]] = {
    "this system": {},
    "bounded load, hot cache and cap off": {"load_factor": 0.0, "hot_cache": False, "share_cap_percent": 0.0},
}


def tune(cluster: Cluster, values: Mapping[str, object]) -> None:
    """As an operator would in the admin; returns when it is in force."""
    before = cluster.stats()["gateway"]["revision"]
    change = f"t.__dict__.update({dict(values)!r})"
    script = f"from gateway_app.models import Tuning; t = Tuning.objects.get(); {change}; t.save()"
    cluster.manage("shell", "--verbosity=0", "--command", script).check_returncode()
    wait_until("the settings are in force", lambda: cluster.stats()["gateway"]["revision"] != before)


class Clients:
    """Sends requests as their times come, and counts where they were answered from."""

    def __init__(self, url: str, arrivals: Iterator[tuple[float, int]]) -> None:
        self.outcomes: Counter[str] = Counter()
        self.latencies_s: list[float] = []
        self._url = urlsplit(url)
        self._arrivals = arrivals

    async def run(self) -> None:
        """Returns when all are answered."""
        began = time.monotonic()
        await asyncio.gather(*(self._connection(began) for _ in range(CONNECTIONS)))

    async def _connection(self, began: float) -> None:
        reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        for at, key in self._arrivals:
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            values = np.random.default_rng(key).random(64).round(4).tolist()
            body = json.dumps({"request_id": "r", "input_data": values}).encode()
            writer.write(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r")[0]))
            self.latencies_s.append(time.monotonic() - began - at)
            status, cache = head.split(" ", 2)[1], head.partition("x-cache: ")[2].partition("\r")[0]
            self.outcomes[cache if status == "200" else status] += 1
        writer.close()


async def sample(cluster: Cluster, found: list[list[int]]) -> None:
    """What each worker has in flight, some times a second."""
    while True:
        stats = await asyncio.to_thread(cluster.stats)
        found.append([each["in_flight"] for each in stats["workers"]])
        await asyncio.sleep(0.05)


async def load(cluster: Cluster, per_s: float, seconds: float) -> dict[str, Any]:
    """The first half warms the caches, the second half is counted."""
    in_flight: list[list[int]] = []
    requests = int(per_s * seconds)
    await Clients(f"{cluster.gateway_url}/infer", zipf(requests // 2, per_s, seed=1, keys=KEYS)).run()
    before = cluster.stats()["workers"]
    clients = Clients(f"{cluster.gateway_url}/infer", zipf(requests // 2, per_s, seed=2, keys=KEYS))
    sampling = asyncio.create_task(sample(cluster, in_flight))
    await clients.run()
    sampling.cancel()
    answered = [
        now["requests"] - then["requests"] for now, then in zip(cluster.stats()["workers"], before, strict=True)
    ]
    means = np.array(in_flight).mean(axis=0)
    shares = {name: clients.outcomes[name] / len(clients.latencies_s) for name in ("gateway", "hit", "joined", "miss")}
    return {
        **shares,
        "errors": 1 - sum(shares.values()),
        "in_flight": float(means.mean()),
        "in_flight_max_mean": float(means.max() / means.mean()),
        "requests_max_mean": max(answered) * len(answered) / sum(answered),
        "p50_ms": float(np.percentile(clients.latencies_s, 50)) * 1000,
        "p99_ms": float(np.percentile(clients.latencies_s, 99)) * 1000,
    }


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """As Markdown."""
    lines = [
        "| | hits: gateway, workers | joined | computed | answered, max/mean | in flight, max/mean | p50, p99 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {r['gateway']:.1%}, {r['hit']:.1%} | {r['joined']:.1%} | {r['miss']:.1%} "
        f"| {r['requests_max_mean']:.2f} | {r['in_flight']:.2f}, {r['in_flight_max_mean']:.2f} "
        f"| {r['p50_ms']:.1f}, {r['p99_ms']:.1f} |"
        for name, r in results.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs them all, each on a cluster of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--per-s", type=float, default=600, help="requests a second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=40, help="for each system (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        model = mlp(Path(name) / "model.onnx", sizes=(64, 2048, 2048, 10))
        for number, (label, values) in enumerate(SYSTEMS.items()):
            with Cluster(Path(name) / str(number), workers=options.workers, model=model) as cluster:
                tune(cluster, {"cache_entries": CACHE_ENTRIES, **values})
                results[label] = asyncio.run(load(cluster, options.per_s, options.seconds))
    print(json.dumps(results, indent=1) if options.json else table(results))


if __name__ == "__main__":
    main()
