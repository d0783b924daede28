"""The gateway's numbers, each from the one place that counts it: the page, `/stats` and `/health` read them here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from gateway_app.catalog import UNLOADED
from gateway_app.core.breaker import Breaker
from gateway_app.core.call import Route
from gateway_app.core.table import Table
from gateway_app.events import Event
from gateway_app.gateway import Gateway
from gateway_app.links import WorkerLink
from gateway_app.modelstats import model_rows
from gateway_app.served import ServedModel
from gateway_app.snapshot import WorkerEntry
from inference_site import lifecycle
from inference_site.lib.window import quantiles_ms

# Of the breakers' events, how many are shown.
EVENTS = 20
TIMEOUT_S = 5.0


def gateway_stats() -> dict[str, Any]:
    """What `GET /stats` answers, for any thread but the loop's. Raises lifecycle.NotRunning outside of a gateway."""
    _shares(lifecycle.service().gateway.table)  # counted here, where it holds up nobody
    return _on_loop(_stats)


def gateway_health() -> dict[str, Any]:
    """What `GET /health` answers, for any thread but the loop's.

    Healthy while one worker can take a request, or could if there were a model that anybody wants served.
    """
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
        "total_workers": len(gateway.links),
        "circuit_breakers": [
            _breaker(entry, route.breaker, gateway.lineup.label(model))
            for entry in entries
            for model in _models(gateway)
            if (route := model.router.routes.get(entry.name)) is not None
        ],
        "workers": _workers(gateway, entries),
        "models": model_rows(gateway),
        "gateway": _totals(gateway),
        "events": [_event(event) for event in list(gateway.events.recent)[-EVENTS:]],
    }


def _models(gateway: Gateway) -> list[ServedModel]:
    """Those that are served, the one of a plain /infer first."""
    default = gateway.lineup.default
    return sorted(gateway.lineup.served.values(), key=lambda model: (model is not default, model.name, model.version))


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
    routable = sum(any(route.routable for route in gateway.lineup.routes(name)) for name in gateway.links)
    no_model = no_model_wanted(gateway)
    well = sum(_is_well(entry, gateway.links.get(entry.name)) for entry in gateway.snapshot.workers)
    idle = well if no_model and not routable else 0
    return {
        "healthy": routable + idle > 0,
        "total_workers": len(gateway.links),
        "routable_workers": routable,
        "idle_workers": idle,
        "no_model": no_model,
        "revision": gateway.snapshot.revision,
        "config_error": gateway.watcher.error,
        "uptime_s": round(time.monotonic() - gateway.started_at, 1),
    }


def no_model_wanted(gateway: Gateway) -> str:
    """Why there is nothing to serve though nothing is wrong; "" if there is, or if a model is missing."""
    catalog = gateway.lineup.catalog
    if catalog.serving:
        return ""
    infos = catalog.known()
    if any(info.reason != UNLOADED for info in infos):  # broken, being loaded, or with workers that are away
        return ""
    if infos:
        names = ", ".join(sorted({info.name for info in infos}))
        return f"unloaded: {names}; load one in the admin, or by POST v2/repository/models/NAME/load"
    return "the workers have found no model; put one into MODEL_REPOSITORY, then load it"


def _is_well(entry: WorkerEntry, link: WorkerLink | None) -> bool:
    """Whether a worker would take requests if it had a model."""
    kept_out = not entry.enabled or entry.draining or entry.isolated
    return not kept_out and link is not None and link.ready and not link.leaving


def _breaker(entry: WorkerEntry, breaker: Breaker, model: str) -> dict[str, Any]:
    retry_after = breaker.retry_after()
    return {
        "node": entry.address,
        "state": breaker.state,
        "failures": breaker.failures,
        "successes": breaker.successes,
        "name": entry.name,
        "model": model,
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
    routes = {entry.name: gateway.lineup.routes(entry.name) for entry in entries}
    answered = sum(route.requests for found in routes.values() for route in found)
    no_model = bool(no_model_wanted(gateway))
    return [
        _worker(
            entry, routes[entry.name], gateway.links.get(entry.name), shares.get(entry.name, 0.0), answered, no_model
        )
        for entry in entries
    ]


def _worker(
    entry: WorkerEntry, routes: list[Route], link: WorkerLink | None, key_share: float, answered: int, no_model: bool
) -> dict[str, Any]:
    requests = sum(route.requests for route in routes)
    routable = any(route.routable for route in routes)
    return {
        "name": entry.name,
        "address": entry.address,
        "weight": entry.weight,
        "enabled": entry.enabled,
        "draining": entry.draining or (link is not None and link.leaving),
        "isolated": entry.isolated,
        "silent": any(route.silent for route in routes),
        "connected": link is not None and link.ready,
        "routable": routable,
        "idle": no_model and not routable and _is_well(entry, link),
        "in_flight": sum(route.in_flight for route in routes),
        "limit": sum(route.limit for route in routes if route.up or len(routes) == 1),
        "requests": requests,
        "failures": sum(route.failures for route in routes),
        "key_share": round(key_share, 4),
        "traffic_share": round(requests / answered, 4) if answered else 0.0,
        "last_error": link.last_error if link is not None else "",
        "stats_age_s": round(time.monotonic() - link.stats_at, 1)
        if link is not None and link.stats is not None
        else None,
        "node": link.stats if link is not None else None,
    }


def _totals(gateway: Gateway) -> dict[str, Any]:
    p50, p95, p99 = quantiles_ms([model.inference.latency for model in gateway.lineup], 0.5, 0.95, 0.99)
    totals = asdict(gateway.lineup.totals())
    totals["requests"] += gateway.malformed
    totals["client_errors"] += gateway.malformed
    return {
        **totals,
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
