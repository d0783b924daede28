"""What happened within one second, in the gateway and at each worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import orjson

from gateway_app.figures.reports import Reported
from inference_site.lib.window import Buckets, bucket_quantiles_ms


class WorkerSecond:
    """What a gateway has had of one worker. Sums over the models; durations are of what was computed."""

    __slots__ = ("answered", "computed", "hits", "in_flight", "p99_s", "reported", "sent_s", "worker_s")

    def __init__(self, reported: Reported | None = None) -> None:
        self.reported = reported  # by itself; None: it has sent no numbers in this second
        self.answered = 0
        self.hits = 0  # answered from its cache
        self.computed = 0
        self.sent_s = 0.0  # from sending to the answer
        self.worker_s = 0.0  # of that, by the worker's own clock
        self.in_flight = 0  # at the end
        self.p99_s: float | None = None  # of what it computes, of late; None if it has computed nothing, or too little

    def add(self, now: tuple[int, int, int, float, float], before: tuple[int, int, int, float, float]) -> None:
        """What a route has counted until now and until the second before."""
        self.answered += max(0, now[0] - before[0])
        self.hits += max(0, now[1] - before[1])
        self.computed += max(0, now[2] - before[2])
        self.sent_s += max(0.0, now[3] - before[3])
        self.worker_s += max(0.0, now[4] - before[4])


class Second:
    """One second of a gateway; nothing of it changes once it has ended."""

    def __init__(
        self,
        at: int,
        took_s: float,
        requests: int,
        errors: int,
        hot_hits: int,
        latency: Buckets,
        workers: Mapping[str, WorkerSecond],
    ) -> None:
        self.at = at  # in seconds since 1970, when it ended
        self.took_s = took_s  # for ticks jitter
        self.requests = requests
        self.errors = errors
        self.hot_hits = hot_hits
        self.latency = latency
        self.workers = workers

    def point(self) -> dict[str, Any]:
        """As the page charts it: rates are per second, latencies in ms and None where there was nothing."""
        # Imported here: the history is made of seconds.
        from gateway_app.figures.history import hit_rate

        p50, p95, p99 = bucket_quantiles_ms([self.latency], 0.5, 0.95, 0.99)
        return {
            "t": self.at,
            "rate": round(self.requests / self.took_s, 1),
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "errors": round(self.errors / self.took_s, 1),
            "hit_rate": hit_rate([self]),
            **split_ms(self.workers.values()),
            "workers": {
                name: {
                    "rate": round(each.answered / self.took_s, 1),
                    "p99": None if each.p99_s is None else round(1000 * each.p99_s, 2),
                    "in_flight": each.in_flight,
                }
                for name, each in self.workers.items()
            },
        }

    @cached_property
    def encoded(self) -> bytes:
        """The point as JSON, made once."""
        return orjson.dumps(self.point())


def split_ms(seconds: Iterable[WorkerSecond]) -> dict[str, float | None]:
    """Where the time of computed requests went, as means in ms; None where nothing is known.

    network: from sending it to the answer, without what the worker had it, by the worker's clock. queue and compute are
    what the workers report, of the requests of all gateways.
    """
    computed = counted = 0
    sent_s = worker_s = queue_s = compute_s = 0.0
    for each in seconds:
        if each.computed:
            computed += each.computed
            sent_s += each.sent_s
            worker_s += each.worker_s
        if each.reported is not None and each.reported.computed:
            counted += each.reported.computed
            queue_s += each.reported.queue_s
            compute_s += each.reported.compute_s
    return {
        "network": _mean_ms(max(0.0, sent_s - worker_s), computed),
        "queue": _mean_ms(queue_s, counted),
        "compute": _mean_ms(compute_s, counted),
    }


def _mean_ms(total_s: float, count: int) -> float | None:
    return round(1000 * total_s / count, 3) if count else None
