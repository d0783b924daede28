"""What clients of a simulated fleet saw, and how its work was spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np


class Tally:
    """Counts answers; `restart` when the caches are warm."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets what was counted so far."""
        self.outcomes: Counter[str] = Counter()
        self.latencies_s: list[float] = []
        self._in_flight: list[Sequence[int]] = []

    def answered(self, status: int, head: bytes, latency_s: float) -> None:
        """A client has its answer."""
        self.outcomes[_cache_state(head) if status == 200 else str(status)] += 1
        self.latencies_s.append(latency_s)

    def sample(self, in_flight: Sequence[int]) -> None:
        """What each worker has in flight at some moment."""
        self._in_flight.append(in_flight)

    @property
    def requests(self) -> int:
        """How many were answered."""
        return len(self.latencies_s)

    def share(self, *outcomes: str) -> float:
        """The part of the answers that were one of these: hit, miss, joined, gateway, or a status other than 200."""
        return sum(self.outcomes[each] for each in outcomes) / max(1, self.requests)

    @property
    def failed(self) -> int:
        """How many answers were not 200."""
        return sum(number for outcome, number in self.outcomes.items() if outcome.isdigit())

    @property
    def errors(self) -> float:
        """The part of the answers that were not 200."""
        return self.failed / max(1, self.requests)

    def ms(self, percentile: float) -> float:
        """Latency in milliseconds; 0 if nothing was answered."""
        return float(np.percentile(self.latencies_s, percentile)) * 1000 if self.latencies_s else 0.0

    def peak(self) -> int:
        """The most that one worker had in flight."""
        return max(map(max, self._in_flight), default=0)

    def unevenness(self) -> tuple[float, float]:
        """Of what is in flight, max/mean over the workers: of their averages over time, and the p99 of moments.

        The moments are those with at least one request in flight per worker: of less than that, a ratio says nothing.
        """
        samples = np.array(self._in_flight, float)
        means = samples.mean(axis=0)
        busy = samples[samples.mean(axis=1) >= 1]
        moments = busy.max(axis=1) / busy.mean(axis=1)
        return float(means.max() / means.mean()), float(np.percentile(moments, 99)) if len(busy) else float("nan")


@cache
def _cache_state(head: bytes) -> str:
    return head.decode().partition("x-cache: ")[2].partition("\r")[0]
