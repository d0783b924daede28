"""How large batches become, and how long requests take in them, at a given rate of arrival."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass
from itertools import accumulate

from worker_app.core.batcher import Batcher

# So many requests are simulated, and the first of them are not counted: the queue is empty then.
REQUESTS, WARM_UP = 12_000, 1_000
# A batch that is due is due for this long before it is looked at: sums of times are not exact.
_AFTER_S = 1e-9


@dataclass(frozen=True, slots=True)
class BatchForecast:
    """What is to be expected of one model on one worker.

    Times are from a request's arrival at the queue to the end of its batch, in ms; None if there is no traffic, or if
    it is saturated: more comes than the engine can do, so that the queue fills until requests are refused.
    `utilisation` is the part of their time that the engine's sessions run, `saturates_at` the requests per second from
    which on it is all of it.
    """

    mean_size: float
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    utilisation: float
    saturated: bool
    saturates_at: float


def batches(
    arrivals_per_s: float,
    fixed_s: float,
    each_s: float,
    sessions: int = 1,
    size: int = 32,
    wait_s: float = 0.02,
    eager: bool = True,
    seed: int = 1,
) -> BatchForecast:
    """Simulates requests of one row that arrive at random moments (Poisson), by the worker's own rules of batching.

    A batch of n takes `fixed_s + n * each_s`, as the worker measures it. `size`, `wait_s` and `eager` are its settings.
    Equal arguments give equal forecasts.
    """
    saturates_at = sessions * size / max(fixed_s + size * each_s, _AFTER_S)
    if arrivals_per_s <= 0:
        return BatchForecast(0.0, None, None, None, None, 0.0, False, saturates_at)
    if arrivals_per_s >= saturates_at:
        return BatchForecast(float(size), None, None, None, None, 1.0, True, saturates_at)
    rng = random.Random(seed)
    arrivals = list(accumulate(rng.expovariate(arrivals_per_s) for _ in range(REQUESTS)))
    sizes, took_s = _simulate(arrivals, fixed_s, each_s, sessions, size, wait_s, eager)
    counted = sorted(took_s[WARM_UP:])
    mean_size = REQUESTS / len(sizes)
    busy_s = fixed_s * len(sizes) + each_s * REQUESTS
    return BatchForecast(
        mean_size=mean_size,
        mean_ms=1000 * math.fsum(counted) / len(counted),
        p50_ms=1000 * _quantile(counted, 0.50),
        p95_ms=1000 * _quantile(counted, 0.95),
        p99_ms=1000 * _quantile(counted, 0.99),
        utilisation=min(1.0, arrivals_per_s * busy_s / REQUESTS / sessions),
        saturated=False,
        saturates_at=saturates_at,
    )


class _Clock:
    """Simulated time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _simulate(
    arrivals: list[float], fixed_s: float, each_s: float, sessions: int, size: int, wait_s: float, eager: bool
) -> tuple[list[int], list[float]]:
    """The sizes of the batches, and how long each request took."""
    clock = _Clock()
    batcher: Batcher[int] = Batcher(clock, max_size=size, wait_s=wait_s, eager=eager, limit=len(arrivals) + 1)
    ends: list[float] = []  # of the batches that run, the next first
    sizes: list[int] = []
    took_s = [0.0] * len(arrivals)
    number = 0
    while number < len(arrivals) or len(batcher):
        arrival = arrivals[number] if number < len(arrivals) else math.inf
        end = ends[0] if ends else math.inf
        due_in = batcher.due_in() if len(ends) < sessions else None
        due = math.inf if due_in is None else clock.now + due_in + (_AFTER_S if due_in else 0.0)
        if end <= arrival and end <= due:
            clock.now = heapq.heappop(ends)
        elif arrival <= due:
            clock.now = arrival
            batcher.put(number)
            number += 1
        else:
            clock.now = due
            batch = batcher.take()
            end = clock.now + fixed_s + each_s * len(batch)
            heapq.heappush(ends, end)
            sizes.append(len(batch))
            for item in batch:
                took_s[item] = end - arrivals[item]
    return sizes, took_s


def _quantile(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]
