"""The last two minutes, second by second: for charts, for guards and for forecasts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from gateway_app.figures.reports import Reported, Reports
from gateway_app.figures.seconds import Second, WorkerSecond
from inference_site.lib.window import bucket_quantiles_ms, summed

if TYPE_CHECKING:
    from gateway_app.core.call import Route
    from gateway_app.gateway import Gateway

KEPT_S = 120
# Over so many seconds the figures are taken that are shown as those of now.
RECENT_S = 10

# Of a route: answers, hits, computed, and how many seconds these were away and in the worker.
_Counts = tuple[int, int, int, float, float]
_NONE: _Counts = (0, 0, 0, 0.0, 0.0)


class History:
    """Takes differences of counters that only grow, once a second; lives on the gateway's loop.

    What comes and goes (workers, models, their counters) begins with its next second: no figure is ever negative.
    """

    def __init__(self) -> None:
        self.seconds: deque[Second] = deque(maxlen=KEPT_S)  # oldest first
        self._reports = Reports()
        self._routes: dict[Route, _Counts] = {}
        self._totals = (0, 0, 0)
        self._at = time.monotonic()

    def tick(self, gateway: Gateway) -> None:
        """Ends a second: to be called once in each, after the windows of the models have been rolled."""
        now, totals = time.monotonic(), gateway.lineup.totals()
        took_s, self._at = max(now - self._at, 1e-3), now
        before, self._totals = self._totals, (totals.requests + gateway.malformed, totals.errors, totals.hot_hits)
        requests, errors, hot_hits = (max(0, new - old) for new, old in zip(self._totals, before, strict=True))
        at = int(time.time())
        self.seconds.append(
            Second(
                # Never the same twice, though ticks jitter around the beginning of a second.
                at=max(self.seconds[-1].at + 1, at) if self.seconds else at,
                took_s=took_s,
                requests=requests,
                errors=errors,
                hot_hits=hot_hits,
                latency=summed([model.inference.latency.ended for model in gateway.lineup]),
                workers=self._workers(gateway),
            )
        )

    @property
    def points(self) -> list[dict[str, Any]]:
        """Every second as the page charts it, oldest first."""
        return [second.point() for second in self.seconds]

    @property
    def point(self) -> dict[str, Any] | None:
        """The last whole second; None in the first one."""
        return self.seconds[-1].point() if self.seconds else None

    def last(self, seconds: int = RECENT_S) -> list[Second]:
        """The newest ones, oldest first."""
        return list(islice(self.seconds, max(0, len(self.seconds) - seconds), None))

    def recent(self, seconds: int) -> dict[str, Any]:
        """Of the last so many whole seconds: requests, errors (5xx), both in all; None is what no request tells."""
        found = self.last(seconds)
        requests, errors = sum(each.requests for each in found), sum(each.errors for each in found)
        return {
            "requests": requests,
            "errors": errors,
            "error_percent": error_percent(found),
            "p99_ms": bucket_quantiles_ms([each.latency for each in found], 0.99)[0],
        }

    def arrivals(self, worker: str, seconds: int = 60, model: tuple[str, str] | None = None) -> list[float]:
        """Requests per second that a worker has computed, of all gateways: one number for each of the last seconds in
        which it has reported, oldest first; of one version of a model, or of all."""
        reports = [found.reported for second in self.last(seconds) if (found := second.workers.get(worker)) is not None]
        return [
            round(sum(each.rates.values()) if model is None else each.rates.get(model, 0.0), 3)
            for each in reports
            if each is not None
        ]

    def _workers(self, gateway: Gateway) -> dict[str, WorkerSecond]:
        counts: dict[Route, _Counts] = {}
        found = {}
        for name, link in gateway.links.items():
            reported = self._reports.take(link)
            found[name] = self._worker(link.routes, counts, reported)
        self._routes = counts
        self._reports.keep(gateway.links.values())
        return found

    def _worker(self, routes: Sequence[Route], counts: dict[Route, _Counts], reported: Reported | None) -> WorkerSecond:
        second = WorkerSecond(reported)
        for route in routes:
            now = (route.requests, route.hits, route.computed, route.sent_s, route.worker_s)
            counts[route] = now
            second.in_flight += route.in_flight
            before = self._routes.get(route, _NONE)
            if now != before:
                second.add(now, before)
                if now[2] != before[2] and route.pace.known:
                    second.p99_s = max(second.p99_s or 0.0, route.pace.p99)
        return second


def encoded(history: History) -> bytes:
    """What `GET /history` answers. Any thread may call it: what has ended does not change."""
    return orjson.dumps({"step_s": 1, "points": [orjson.Fragment(each.encoded) for each in tuple(history.seconds)]})


def error_percent(seconds: Sequence[Second]) -> float | None:
    """5xx among all requests that came; None if none came."""
    requests, errors = sum(each.requests for each in seconds), sum(each.errors for each in seconds)
    return round(100 * errors / requests, 3) if requests else None


def hit_rate(seconds: Sequence[Second]) -> float | None:
    """Of the results of these seconds, the part that came from a cache, the gateway's or a worker's; who joined another
    one's request counts as neither. None without a result."""
    workers = [worker for each in seconds for worker in each.workers.values()]
    hits = sum(each.hot_hits for each in seconds) + sum(each.hits for each in workers)
    found = hits + sum(each.computed for each in workers)
    return round(hits / found, 4) if found else None
