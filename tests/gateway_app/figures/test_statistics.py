"""V2's statistics of a model: of all workers and of the gateway's own cache, and never less than before."""

from __future__ import annotations

import json

import pytest

from inference_site.lib import frames
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Tell
from tests.gateway_app.lineup import NAMES, Cluster
from tests.gateway_app.scripted import Server, ready
from tests.support.waiting import until


async def test_statistics_are_those_of_all_workers_and_of_the_gateways_own_cache(cluster: Cluster) -> None:
    await cluster.start()
    counts = {"success": 5, "inferences": 4, "executions": 2, "batches": {"2": [2, 100]}, "last_inference_ms": 7}
    for name, worker in cluster.workers.items():
        said = {"models": [{"number": 1, "limit": 777, "statistics": counts}, {"number": 3, "statistics": counts}]}
        await worker.open[0].send(frames.tell(Tell.STATS, 0, json.dumps(said).encode()))
        await until(lambda: cluster.gateway.links[name].stats)  # noqa: B023 it is waited for here
    for _ in range(10):
        await cluster.answer()
    found = cluster.gateway.statistics("echo", "1")
    hits = cluster.gateway.lineup.totals().hot_hits
    assert hits > 0
    assert (found.success, found.inferences, found.executions) == (15 + hits, 12, 6)
    assert (found.cache_hits, found.batches, found.last_inference_ms) == (hits, {2: (6, 300)}, 7)
    assert {route.limit for route in cluster.gateway.lineup.served["echo", "1"].router.routes.values()} == {777}
    with pytest.raises(ApiError):
        cluster.gateway.statistics("nothing", "1")


async def test_statistics_never_go_down(cluster: Cluster) -> None:
    await cluster.start()

    async def push(number: int = 1, **counts: int) -> None:
        link = cluster.gateway.links["worker_1"]
        before = link.stats
        said = {"models": [{"number": number, "statistics": counts}]}
        await cluster.workers["worker_1"].open[0].send(frames.tell(Tell.STATS, 0, json.dumps(said).encode()))
        await until(lambda: link.stats is not before)

    def told() -> tuple[int, int, int]:
        found = cluster.gateway.statistics("echo", "1")
        return found.success, found.fail, found.cache_misses

    await push(success=100, fail=5, cache_misses=50)
    assert told() == (100, 5, 50)
    router = cluster.gateway.lineup.served["echo", "1"].router
    router.second_opinions = 2  # of which the worker's numbers do not tell yet
    assert told() == (100, 5, 50)
    await push(success=100, fail=8, cache_misses=54)
    assert told() == (100, 6, 52)
    worker = cluster.workers["worker_1"]
    await cluster.servers["worker_1"].die()
    await until(lambda: "worker_1" not in cluster.numbers())
    assert told() == (100, 6, 52)
    worker.instance = "the second worker_1"
    cluster.servers["worker_1"] = Server(worker, cluster.servers["worker_1"].port)
    await until(lambda: cluster.numbers().get("worker_1"))
    assert told() == (100, 6, 52)  # its numbers are not those of the process before
    await push(success=1, fail=1, cache_misses=1)
    assert told() == (101, 7, 53)
    await cluster.tell("worker_1", ready(1, "other"))
    for name in NAMES[1:]:
        await cluster.tell(name, ready(1, "other"))
    await until(lambda: not cluster.gateway.lineup.ending)
    for name in NAMES:
        await cluster.tell(name, ready(2))
    await until(lambda: len(cluster.numbers()) == 3)
    await push(2, success=2, fail=1, cache_misses=1)
    assert told() == (102, 7, 53)  # the gateway's part of it is not forgotten
