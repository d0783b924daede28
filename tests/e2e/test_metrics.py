"""`GET /metrics` on a real cluster: what it says is what /stats, /health and V2's statistics say."""

import random
from typing import Any

from tests.support.cluster import Cluster
from tests.support.http import request
from tests.support.processes import wait_until
from tests.support.scrape import Scrape

DIGITS = {"model": "digits", "version": "1"}
STATISTICS = {
    "success": ("nv_inference_request_success", "nv_inference_request_duration_us"),
    "cache_hit": ("nv_cache_num_hits_per_model", None),
    "cache_miss": ("nv_cache_num_misses_per_model", None),
    "queue": (None, "nv_inference_queue_duration_us"),
    "compute_infer": (None, "nv_inference_compute_infer_duration_us"),
}
REQUESTS, REPEATS = 12, 3


def scrape(url: str) -> Scrape:
    status, body = request("GET", f"{url}/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert status == 200
    return Scrape(body.decode())


def statistics(cluster: Cluster, url: str) -> dict[str, Any]:
    (found,) = cluster.get("/v2/models/digits/versions/1/stats", url=url)["model_stats"]
    assert isinstance(found, dict)
    return found


def says_the_same(found: Scrape, said: dict[str, Any]) -> bool:
    """As V2's statistics."""
    stats = said["inference_stats"]
    same = [
        found("nv_inference_count", **DIGITS) == said["inference_count"],
        found("nv_inference_exec_count", **DIGITS) == said["execution_count"],
        found.total("nv_inference_request_failure", **DIGITS) == stats["fail"]["count"],
        found("inference_batch_size_count", **DIGITS) == said["execution_count"],
    ]
    for name, (count, duration) in STATISTICS.items():
        same += [count is None or found(count, **DIGITS) == stats[name]["count"]]
        same += [duration is None or found(duration, **DIGITS) == stats[name]["ns"] // 1000]
    return all(same)


def says_what_stats_say(cluster: Cluster) -> bool:
    """Both at once can't be asked for, so what changes in between is not the same at the first try."""
    found, stats = scrape(cluster.gateway_url), cluster.stats()
    counted = [name for name in found.kinds if name.startswith("inference_gateway_") and name.endswith("_total")]
    assert len(counted) > 10
    same = [
        found(name) == stats["gateway"][name.removeprefix("inference_gateway_").removesuffix("_total")]
        for name in counted
    ]
    for row in stats["workers"]:
        name = row["name"]
        same += [found("inference_worker_requests_total", worker=name, **DIGITS) == row["requests"]]
        same += [found("inference_worker_failures_total", worker=name, **DIGITS) == row["failures"]]
        same += [found("inference_worker_connected", worker=name) == row["connected"]]
    for row in stats["circuit_breakers"]:
        labels = {"worker": row["name"], **DIGITS}
        same += [found("inference_worker_breaker_state", state=row["state"], **labels) == 1]
        same += [found("inference_worker_breaker_opens_total", **labels) == row["opens"]]
    return all(same)


def says_what_health_says(cluster: Cluster, worker: str) -> bool:
    url = cluster.worker_urls[worker]
    found, health = scrape(url), cluster.health(worker)
    same = [
        found("inference_requests_total") == health["total_requests"],
        found("inference_joined_total") == health["joined"],
        found("nv_cache_num_entries", **DIGITS) == health["cache_size"],
        found("nv_inference_pending_request_count", **DIGITS) == health["queue"],
    ]
    return all(same) and says_the_same(found, statistics(cluster, url))


def test_it_says_what_the_other_reports_say(cluster: Cluster) -> None:
    gateway = cluster.gateway_url
    before = scrape(gateway)
    inputs = [[random.uniform(0, 16) for _ in range(64)] for _ in range(REQUESTS)]
    for values in inputs * REPEATS:
        assert cluster.infer(values)[0] == 200
    assert request("POST", f"{gateway}/infer", b'{"request_id": "r", "input_data": "no list"}')[0] == 400
    found = scrape(gateway)

    def grown(name: str, **labels: str) -> float:
        return found(name, **labels) - before(name, **labels)

    assert grown("inference_gateway_requests_total") == REQUESTS * REPEATS + 1
    assert grown("inference_gateway_client_errors_total") == 1
    assert grown("inference_gateway_errors_total") == 0
    assert grown("inference_request_duration_seconds_count", **DIGITS) == REQUESTS * REPEATS
    assert grown("inference_request_duration_seconds_sum", **DIGITS) > 0
    for key, value in before.counters().items():
        assert found.counters()[key] >= value, key
    wait_until("it says what /stats says", lambda: says_what_stats_say(cluster))

    def has_all() -> bool:
        """Workers push their numbers, a little later than their answers."""
        nonlocal found
        found = scrape(gateway)
        everything = grown("nv_inference_request_success", **DIGITS) >= REQUESTS * REPEATS
        return everything and says_the_same(found, statistics(cluster, gateway))

    wait_until("it says what V2's statistics say", has_all)
    for name in cluster.worker_urls:
        wait_until(f"{name} says what its /health says", lambda: says_what_health_says(cluster, name))  # noqa: B023


def test_it_is_served_as_the_other_reports_are(cluster: Cluster) -> None:
    for url in (cluster.gateway_url, cluster.worker_urls["worker_1"]):
        status, body = request("POST", f"{url}/metrics", b"{}")
        assert (status, b"method_not_allowed" in body) == (405, True)
        assert request("HEAD", f"{url}/metrics") == (200, b"")
    status, body = request("GET", f"{cluster.gateway_url}/metrics", headers={"Host": "evil.example"})
    assert (status, b"invalid_host" in body) == (400, True)
