"""A worker's numbers for Prometheus: those of `/health`, and V2's statistics."""

from __future__ import annotations

from typing import Any

from inference_site import lifecycle
from inference_site.lib.prometheus import Family, Samples
from inference_site.metrics import ENTRIES, PENDING, REQUEST, UPTIME, UTIL, add_spread, add_statistics, labels_of
from worker_app.node import Node
from worker_app.stats import node_stats

# Of all models together, by their names in /health.
TOTALS = {
    "total_requests": Family("inference_requests_total", "counter", "Requests that have come"),
    "joined": Family("inference_joined_total", "counter", "Requests that waited for an identical one's result"),
    "abandoned": Family("inference_abandoned_total", "counter", "Inputs that nobody waited for any more at their turn"),
    "kept": Family("inference_results_taken_over_total", "counter", "Results that came from other workers"),
}


def worker_metrics() -> str:
    """What `GET /metrics` answers, for any thread but the loop's. Raises lifecycle.NotRunning outside of a worker."""
    node: Node = lifecycle.service().plane.node
    return lifecycle.on_loop(lambda: samples_of(node)).text()


def samples_of(node: Node) -> Samples:
    """All as it is now, on the worker's loop."""
    samples, stats = Samples(), node_stats(node)
    for name, family in TOTALS.items():
        samples.add(family, stats[name])
    samples.add(UPTIME, stats["uptime_s"])
    versions: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for model in stats["models"]:  # while a file takes the place of another one, both are loaded
        versions.setdefault((model["name"], model["version"]), []).append(model)
    for (name, version), models in versions.items():
        found, labels = node.statistics(name, version), labels_of(name, version)
        add_statistics(samples, found, labels)
        add_spread(samples, REQUEST, found.success_spread, found.success_ns, labels)
        samples.add(PENDING, sum(model["queue"] for model in models), labels)
        samples.add(ENTRIES, sum(model["cache_size"] for model in models), labels)
        samples.add(UTIL, max(model["cache_util"] for model in models), labels)
    return samples
