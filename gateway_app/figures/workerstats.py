"""The gateway's numbers of each worker and of its breakers."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gateway_app.catalog import UNLOADED
from gateway_app.figures.seconds import Second, WorkerSecond, split_ms

if TYPE_CHECKING:
    from gateway_app.core.breaker import Breaker
    from gateway_app.core.call import Route
    from gateway_app.core.table import Table
    from gateway_app.gateway import Gateway
    from gateway_app.served import ServedModel
    from gateway_app.snapshot import WorkerEntry
    from gateway_app.streams.links import WorkerLink

# A worker's requests per second are those of so many seconds, as the gateway's.
RATE_S = 5


def breaker_rows(gateway: Gateway) -> list[dict[str, Any]]:
    """One row for each worker and each model that is served."""
    models = _models(gateway)
    return [
        _breaker(entry, route.breaker, gateway.lineup.label(model))
        for entry in gateway.snapshot.workers
        for model in models
        if (route := model.router.routes.get(entry.name)) is not None
    ]


def worker_rows(gateway: Gateway) -> list[dict[str, Any]]:
    """One row for each worker that is configured, by name."""
    shares = key_shares(gateway.table)
    entries = gateway.snapshot.workers
    routes = {entry.name: gateway.lineup.routes(entry.name) for entry in entries}
    answered = sum(route.requests for found in routes.values() for route in found)
    no_model = bool(no_model_wanted(gateway))
    seconds = gateway.history.last()
    return [
        {
            **_worker(
                entry,
                routes[entry.name],
                gateway.links.get(entry.name),
                shares.get(entry.name, 0.0),
                answered,
                no_model,
            ),
            **_recent(seconds, entry.name),
            **_reported(gateway.links.get(entry.name)),
        }
        for entry in entries
    ]


@lru_cache(maxsize=1)
def key_shares(table: Table) -> dict[str, float]:
    """The part of all keys that each worker owns: a table never changes, and has 65,536 slots to count."""
    return table.shares()


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


def is_well(entry: WorkerEntry, link: WorkerLink | None) -> bool:
    """Whether a worker would take requests if it had a model."""
    kept_out = not entry.enabled or entry.draining or entry.isolated
    return not kept_out and link is not None and link.ready and not link.leaving


def _models(gateway: Gateway) -> list[ServedModel]:
    """Those that are served, the one of a plain /infer first."""
    default = gateway.lineup.default
    return sorted(gateway.lineup.served.values(), key=lambda model: (model is not default, model.name, model.version))


def _breaker(entry: WorkerEntry, breaker: Breaker, model: str) -> dict[str, Any]:
    retry_after, now = breaker.retry_after(), time.monotonic()
    return {
        "node": entry.address,
        "state": breaker.state,
        "failures": breaker.failures,
        "successes": breaker.successes,
        "name": entry.name,
        "model": model,
        "since_s": round(now - breaker.since, 1),
        "retry_after_s": None if retry_after is None else round(retry_after, 1),
        "opens": breaker.opens,
        "failure_threshold": breaker.config.failure_threshold,
        "success_threshold": breaker.config.success_threshold,
        "last_error": breaker.last_error,
        "last_error_age_s": round(now - breaker.last_error_at, 1) if breaker.last_error else None,
        "cause": breaker.cause,
        "reason": breaker.why,
    }


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
        "draining": entry.draining or (link is not None and link.up and link.leaving),
        "leaving": link is not None and link.leaving,
        "isolated": entry.isolated,
        "silent": any(route.silent for route in routes),
        "connected": link is not None and link.ready,
        "connection_s": None if link is None else round(time.monotonic() - link.since, 1),
        "routable": routable,
        "idle": no_model and not routable and is_well(entry, link),
        "in_flight": sum(route.in_flight for route in routes),
        "limit": sum(route.limit for route in routes if route.up or len(routes) == 1),
        "requests": requests,
        "failures": sum(route.failures for route in routes),
        "key_share": round(key_share, 4),
        "traffic_share": round(requests / answered, 4) if answered else 0.0,
        "last_error": link.last_error if link is not None else "",
    }


def _recent(seconds: list[Second], name: str) -> dict[str, Any]:
    """Of these seconds: requests per second, hits among the results, and where the time of the computed ones went."""
    took_s = answered = 0.0
    for second in seconds[-RATE_S:]:
        took_s += second.took_s
        if (found := second.workers.get(name)) is not None:
            answered += found.answered
    mine = [found for second in seconds if (found := second.workers.get(name)) is not None]
    split = split_ms(mine)
    return {
        "requests_per_s": round(answered / took_s, 1) if took_s else 0.0,
        "recent_hit_rate": _hit_rate(mine),
        "split_ms": split if any(part is not None for part in split.values()) else None,
    }


def _hit_rate(seconds: list[WorkerSecond]) -> float | None:
    hits = sum(each.hits for each in seconds)
    found = hits + sum(each.computed for each in seconds)
    return round(hits / found, 4) if found else None


def _reported(link: WorkerLink | None) -> dict[str, Any]:
    """What the worker says itself, without what is shown in another place."""
    stats = link.stats if link is not None else None
    if link is None or stats is None:
        return {"revision": None, "batches": [], "stats_age_s": None, "node": None}
    models, sizes = (found if isinstance(found := stats.get(key), list) else [] for key in ("models", "batch_sizes"))
    return {
        "revision": link.revision if link.ready else None,
        "batches": sizes,
        "stats_age_s": round(time.monotonic() - link.stats_at, 1),
        "node": {
            **_without(stats, "batch_sizes"),
            "models": [_without(each, "statistics") for each in models if isinstance(each, dict)],
        },
    }


def _without(found: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != name}
