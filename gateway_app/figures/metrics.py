"""The gateway's numbers for Prometheus: those of `/stats`, and V2's statistics."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from gateway_app.core.breaker import State
from gateway_app.figures.stats import on_loop, totals_of
from gateway_app.served import Totals
from inference_site.lib.prometheus import Family, Samples, thinned
from inference_site.lib.window import BOUNDS_S
from inference_site.metrics import ENTRIES, REQUEST, UPTIME, UTIL, add_statistics, labels_of

if TYPE_CHECKING:
    from gateway_app.core.call import Route
    from gateway_app.gateway import Gateway
    from gateway_app.served import ServedModel

# Of all models together, by their names in /stats.
TOTALS = {
    "requests": "Requests that have come",
    "errors": "Requests that were answered with a status of 500 and above",
    "client_errors": "Requests that were answered with a status of 400 to 499",
    "hot_hits": "Requests that were answered from the gateway's own cache",
    "joined": "Requests that waited for the answer to an identical one",
    "spills": "Requests that went to another worker than their owner, which was busy or starting slowly",
    "retries": "Requests that were sent to a second worker after the first had failed",
    "hedges": "Requests that were sent to a second worker while the first still had them",
    "hedge_wins": "Requests that the second of two workers answered first",
    "budget_exhausted": "Requests that were not sent to a second worker, as too many had been",
    "expired": "Requests that ended as their time had passed",
    "cancelled": "Requests that were given up as the client had left",
    "shed": "Requests that were refused as every worker was full",
    "suspects_refused": "Requests that were refused as inputs that may end workers",
}
COUNTERS = [
    (name, Family(f"inference_gateway_{name}_total", "counter", TOTALS[name]))
    for name in (each.name for each in fields(Totals))
    if name != "hot_entries"
]
HOT_ENTRIES = Family("inference_gateway_hot_entries", "gauge", "Results in the gateway's own cache")
IN_FLIGHT = Family("inference_gateway_in_flight", "gauge", "Requests that wait for a worker's answer")
PENDING = Family("nv_inference_pending_request_count", "gauge", "Requests that wait for a worker's answer")

CONNECTED = Family("inference_worker_connected", "gauge", "1 while the worker is connected and has said what it has")
BREAKER = Family("inference_worker_breaker_state", "gauge", "1 for the state that the worker's breaker is in, else 0")
# Of a route, by its members.
WORKER_COUNTERS = {
    "requests": Family("inference_worker_requests_total", "counter", "Answers of the worker"),
    "failures": Family("inference_worker_failures_total", "counter", "Requests that the worker failed on"),
    "hits": Family("inference_worker_hits_total", "counter", "Answers from the worker's cache"),
    "spills": Family("inference_worker_spills_total", "counter", "Requests that it got in place of their owner"),
    "retried": Family("inference_worker_retries_total", "counter", "Requests that another one got after it had failed"),
    "joined": Family("inference_worker_joined_total", "counter", "Requests answered together with one of its"),
}
WORKER_IN_FLIGHT = Family("inference_worker_in_flight", "gauge", "Requests that wait for the worker's answer")
OPENS = Family("inference_worker_breaker_opens_total", "counter", "How often the worker's breaker has opened")

# Of the bounds of a LatencyWindow: from 11 µs to 142 s, each 1.46 times the one before.
_KEPT = range(25, len(BOUNDS_S), 4)


def gateway_metrics() -> str:
    """What `GET /metrics` answers, for any thread but the loop's. Raises lifecycle.NotRunning outside of a gateway."""
    return on_loop(samples_of).text()


def samples_of(gateway: Gateway) -> Samples:
    """All as it is now, on the gateway's loop. Nothing is put into words there: that would hold up requests."""
    samples, totals = Samples(), totals_of(gateway)
    for name, family in COUNTERS:
        samples.add(family, getattr(totals, name))
    samples.add(HOT_ENTRIES, totals.hot_entries)
    samples.add(IN_FLIGHT, gateway.in_flight)
    samples.add(UPTIME, round(time.monotonic() - gateway.started_at, 1))
    for name, link in gateway.links.items():
        samples.add(CONNECTED, int(link.ready), {"worker": name})
    for model in gateway.lineup:
        for name, route in model.router.routes.items():
            _add_route(samples, route, {"worker": name, **labels_of(*model.key)})
    for model in gateway.lineup.served.values():
        if model.name:  # else no worker has said yet what there is
            _add_model(samples, gateway, model)
    return samples


def _add_route(samples: Samples, route: Route, labels: dict[str, str]) -> None:
    for name, family in WORKER_COUNTERS.items():
        samples.add(family, getattr(route, name), labels)
    samples.add(WORKER_IN_FLIGHT, route.in_flight, labels)
    samples.add(OPENS, route.breaker.opens, labels)
    for state in State:
        samples.add(BREAKER, int(route.breaker.state is state), {**labels, "state": state})


def _add_model(samples: Samples, gateway: Gateway, model: ServedModel) -> None:
    labels = labels_of(*model.key)
    counted = gateway.lineup.counted(model)
    add_statistics(samples, counted.now(model, gateway.links), labels)
    latency, latency_s = counted.latency(model)
    counts, more = thinned(BOUNDS_S, latency, _KEPT)
    samples.add_histogram(REQUEST, counts, more, latency_s, labels)
    samples.add(PENDING, model.in_flight, labels)
    said = [
        found
        for name, route in model.router.routes.items()
        if (link := gateway.links.get(name)) is not None and (found := link.stats_of(route))
    ]
    samples.add(ENTRIES, sum(_number(found, "cache_size") for found in said), labels)
    samples.add(UTIL, max((_number(found, "cache_util") for found in said), default=0), labels)


def _number(found: dict[str, Any], name: str) -> float:
    """What a worker says, which may be of another version."""
    value = found.get(name)
    return value if isinstance(value, int | float) else 0
