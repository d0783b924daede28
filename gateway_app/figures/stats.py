"""The gateway's numbers, each from the one place that counts it: the page, `/stats` and `/health` read them here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from gateway_app.canaries.canarycompare import compare
from gateway_app.eventlog.events import Event
from gateway_app.figures.history import RECENT_S, error_percent, hit_rate
from gateway_app.figures.hottest import hottest
from gateway_app.figures.modelstats import model_rows
from gateway_app.figures.seconds import Second, split_ms
from gateway_app.figures.workerstats import breaker_rows, is_well, key_shares, no_model_wanted, worker_rows
from inference_site import lifecycle
from inference_site.lib.trace import text_of
from inference_site.lib.window import quantiles_ms

if TYPE_CHECKING:
    from gateway_app.gateway import Gateway
    from gateway_app.served import Totals

# Of the events, how many are shown.
EVENTS = 50
# Of the newest traces, so many are looked at.
SAMPLE = 50

T = TypeVar("T")


def gateway_stats() -> dict[str, Any]:
    """What `GET /stats` answers, for any thread but the loop's. Raises lifecycle.NotRunning outside of a gateway."""
    key_shares(lifecycle.service().gateway.table)  # counted here, where it holds up nobody
    return on_loop(stats_of)


def gateway_health() -> dict[str, Any]:
    """What `GET /health` answers, for any thread but the loop's.

    Healthy while one worker can take a request, or could if there were a model that anybody wants served.
    """
    return on_loop(health_of)


def on_loop(report: Callable[[Gateway], T]) -> T:
    """Takes the numbers where they change, so that they are all of one moment; for any thread but the loop's."""
    gateway: Gateway = lifecycle.service().gateway
    return lifecycle.on_loop(lambda: report(gateway))


def stats_of(gateway: Gateway) -> dict[str, Any]:
    """What `GET /stats` answers, on the gateway's loop."""
    events = gateway.events.recent
    return {
        "total_workers": len(gateway.links),
        "circuit_breakers": breaker_rows(gateway),
        "workers": worker_rows(gateway),
        "models": model_rows(gateway),
        "gateway": _totals(gateway),
        "hottest": hottest(gateway.lineup, gateway.table),
        "point": gateway.history.point,
        "canary": compare(gateway),
        "guard": gateway.guards.told(),
        "events": [_event(event) for event in islice(events, max(0, len(events) - EVENTS), None)],
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "at": event.at.isoformat(timespec="milliseconds"),
        "age_s": round(time.monotonic() - event.since, 1),
        "kind": event.kind,
        "worker": event.worker,
        "model": event.model,
        "before": event.before,
        "after": event.after,
        "reason": event.reason,
        "author": event.author,
    }


def health_of(gateway: Gateway) -> dict[str, Any]:
    """What `GET /health` answers, on the gateway's loop."""
    routable = sum(any(route.routable for route in gateway.lineup.routes(name)) for name in gateway.links)
    no_model = no_model_wanted(gateway)
    well = sum(is_well(entry, gateway.links.get(entry.name)) for entry in gateway.snapshot.workers)
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


def totals_of(gateway: Gateway) -> Totals:
    """What has been counted since this gateway started, also of requests that no model has got."""
    totals = gateway.lineup.totals()
    totals.requests += gateway.malformed
    totals.client_errors += gateway.malformed
    return totals


def _totals(gateway: Gateway) -> dict[str, Any]:
    p50, p95, p99 = quantiles_ms([model.inference.latency for model in gateway.lineup], 0.5, 0.95, 0.99)
    recent, revision = gateway.history.last(), gateway.snapshot.revision
    connected = [link for link in gateway.links.values() if link.ready]
    return {
        **asdict(totals_of(gateway)),
        "in_flight": gateway.in_flight,
        "requests_per_s": round(gateway.rate.per_second(), 1),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "uptime_s": round(time.monotonic() - gateway.started_at, 1),
        "revision": revision,
        "config_error": gateway.watcher.error,
        "draining": gateway.draining,
        "processes": 1 + len(connected),
        "processes_current": 1 + sum(link.revision == revision for link in connected),
        "hit_rate": hit_rate(recent),
        "error_percent": error_percent(recent),
        "split_ms": _split_ms(gateway, recent),
    }


def _split_ms(gateway: Gateway, seconds: Sequence[Second]) -> dict[str, float | None] | None:
    """As of the workers; the gateway's own part, with waiting for another attempt, is the mean of a sample."""
    since = text_of(datetime.now(UTC) - timedelta(seconds=RECENT_S))
    sample = [
        trace.parts_ms.gateway + trace.parts_ms.waiting
        for trace in gateway.traces.newest(SAMPLE)
        if trace.kept == "sampled" and trace.cache == "miss" and trace.at >= since
    ]
    split = {
        "gateway": round(fmean(sample), 3) if sample else None,
        **split_ms(worker for second in seconds for worker in second.workers.values()),
    }
    return split if any(part is not None for part in split.values()) else None
