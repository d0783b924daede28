"""The gateway's numbers, each from the one place that counts it: the page, `/stats` and `/health` read them here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from gateway_app.core.breaker import Breaker
from gateway_app.core.call import Route
from gateway_app.core.table import Table
from gateway_app.events import Event
from gateway_app.gateway import Gateway
from gateway_app.links import WorkerLink
from gateway_app.snapshot import WorkerEntry
from inference_site import lifecycle

# Of the breakers' events, how many are shown.
EVENTS = 20
TIMEOUT_S = 5.0
# What the router counts, and is shown under the same name.
COUNTS = (
    "retries", "hedges", "hedge_wins", "budget_exhausted", "expired", "cancelled", "shed", "suspects_refused",
)  # fmt: skip


def gateway_stats() -> dict[str, Any]:
    """What `GET /stats` answers, for any thread but the loop's. Raises lifecycle.NotRunning outside of a gateway."""
    _shares(lifecycle.service().gateway.table)  # counted here, where it holds up nobody
    return _on_loop(_stats)


def gateway_health() -> dict[str, Any]:
    """What `GET /health` answers, for any thread but the loop's; healthy while one worker can take a request."""
    return _on_loop(_health)


def _on_loop(report: Callable[[Gateway], dict[str, Any]]) -> dict[str, Any]:
    """Takes the numbers where they change, so that they are all of one moment."""
    service = lifecycle.service()

    async def take() -> dict[str, Any]:
        return report(service.gateway)

    return asyncio.run_coroutine_threadsafe(take(), service.loop).result(TIMEOUT_S)


@lru_cache(maxsize=1)
def _shares(table: Table) -> dict[str, float]:
    """The part of all keys that each worker owns: a table never changes, and has 65,536 slots to count."""
    return table.shares()


def _stats(gateway: Gateway) -> dict[str, Any]:
    entries = gateway.snapshot.workers
    return {
        "total_workers": len(gateway.router.routes),
        "circuit_breakers": [
            _breaker(entry, route.breaker)
            for entry in entries
            if (route := gateway.router.routes.get(entry.name)) is not None
        ],
        "workers": _workers(gateway, entries),
        "gateway": _totals(gateway),
        "events": [_event(event) for event in list(gateway.events.recent)[-EVENTS:]],
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "at": event.at.isoformat(timespec="milliseconds"),
        "age_s": round(time.monotonic() - event.since, 1),
        "worker": event.worker,
        "before": event.before,
        "after": event.after,
        "reason": event.reason,
    }


def _health(gateway: Gateway) -> dict[str, Any]:
    routable = sum(route.routable for route in gateway.router.routes.values())
    return {
        "healthy": routable > 0,
        "total_workers": len(gateway.router.routes),
        "routable_workers": routable,
        "revision": gateway.snapshot.revision,
        "config_error": gateway.watcher.error,
        "uptime_s": round(time.monotonic() - gateway.started_at, 1),
    }


def _breaker(entry: WorkerEntry, breaker: Breaker) -> dict[str, Any]:
    retry_after = breaker.retry_after()
    return {
        "node": entry.address,
        "state": breaker.state,
        "failures": breaker.failures,
        "successes": breaker.successes,
        "name": entry.name,
        "since_s": round(time.monotonic() - breaker.since, 1),
        "retry_after_s": None if retry_after is None else round(retry_after, 1),
        "opens": breaker.opens,
        "failure_threshold": breaker.config.failure_threshold,
        "success_threshold": breaker.config.success_threshold,
        "last_error": breaker.last_error,
        "cause": breaker.cause,
    }


def _workers(gateway: Gateway, entries: tuple[WorkerEntry, ...]) -> list[dict[str, Any]]:
    shares = _shares(gateway.table)
    answered = sum(route.requests for route in gateway.router.routes.values())
    return [
        _worker(
            entry,
            gateway.router.routes.get(entry.name),
            gateway.links.get(entry.name),
            shares.get(entry.name, 0.0),
            answered,
        )
        for entry in entries
    ]


def _worker(
    entry: WorkerEntry, route: Route | None, link: WorkerLink | None, key_share: float, answered: int
) -> dict[str, Any]:
    def of_route(name: str, default: Any) -> Any:
        return getattr(route, name) if route is not None else default

    return {
        "name": entry.name,
        "address": entry.address,
        "weight": entry.weight,
        "enabled": entry.enabled,
        "draining": entry.draining or of_route("leaving", False),
        "isolated": entry.isolated,
        "silent": of_route("silent", False),
        "connected": of_route("up", False),
        "routable": of_route("routable", False),
        "in_flight": of_route("in_flight", 0),
        "limit": of_route("limit", 0),
        "requests": of_route("requests", 0),
        "failures": of_route("failures", 0),
        "key_share": round(key_share, 4),
        "traffic_share": round(of_route("requests", 0) / answered, 4) if answered else 0.0,
        "last_error": link.last_error if link is not None else "",
        "stats_age_s": round(time.monotonic() - link.stats_at, 1)
        if link is not None and link.stats is not None
        else None,
        "node": link.stats if link is not None else None,
    }


def _totals(gateway: Gateway) -> dict[str, Any]:
    p50, p95, p99 = gateway.inference.latency.quantiles_ms(0.5, 0.95, 0.99)
    return {
        "requests": gateway.inference.requests,
        "errors": gateway.inference.errors,
        "client_errors": gateway.inference.client_errors,
        "hot_hits": gateway.inference.hot.hits,
        "hot_entries": len(gateway.inference.hot),
        "joined": gateway.inference.joined,
        "spills": gateway.router.spills,
        **{name: getattr(gateway.router, name) for name in COUNTS},
        "in_flight": gateway.in_flight,
        "requests_per_s": round(gateway.rate.per_second(), 1),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "uptime_s": round(time.monotonic() - gateway.started_at, 1),
        "revision": gateway.snapshot.revision,
        "config_error": gateway.watcher.error,
        "draining": gateway.draining,
    }
