"""Rolling counters and histograms: what happened in the last seconds, at the price of one list increment."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

# Bucket i holds durations up to 1 µs x 1.1^i: 10 % wide, the last one (i = 199) begins at about 170 s.
_BUCKETS = 200
_STEP = 1 / math.log(1.1)
_log = math.log

# The largest duration of each bucket but the last, to six digits.
BOUNDS_S = tuple(float(f"{1.1**index / 1e6:.6g}") for index in range(_BUCKETS - 1))

# How many durations were counted in each bucket.
Buckets = Sequence[int]
EMPTY: Buckets = (0,) * _BUCKETS


class LatencyWindow:
    """Durations of the last `seconds` seconds, in buckets 10 % wide. `roll()` is to be called once a second."""

    __slots__ = ("_before", "_current", "_past", "count", "seconds", "total_s")

    def __init__(self, seconds: int = 30) -> None:
        self.seconds = seconds
        self.count = 0
        self.total_s = 0.0
        self._before: Buckets = EMPTY  # all seconds that have ended
        self._current = [0] * _BUCKETS
        self._past: deque[list[int]] = deque(maxlen=seconds)

    def add(self, duration_s: float) -> None:
        """Counts one duration."""
        self.count += 1
        self.total_s += duration_s
        micros = duration_s * 1e6
        index = int(_log(micros) * _STEP) + 1 if micros > 1 else 0
        self._current[index if index < _BUCKETS else _BUCKETS - 1] += 1

    def roll(self) -> None:
        """Ends the current second."""
        if any(self._current):
            self._before = summed([self._before, self._current])
        self._past.append(self._current)
        self._current = [0] * _BUCKETS

    @property
    def ended(self) -> Buckets:
        """The counts of the second that has ended last; not to be changed."""
        return self._past[-1] if self._past else EMPTY

    @property
    def ever(self) -> Buckets:
        """The counts since the beginning, which only grow."""
        return summed([self._before, self._current])

    def quantiles_ms(self, *quantiles: float) -> list[float | None]:
        """Upper bounds, in ms, that these parts of the durations stay below; None where nothing was counted."""
        return quantiles_ms([self], *quantiles)


def quantiles_ms(windows: Sequence[LatencyWindow], *quantiles: float) -> list[float | None]:
    """Like `LatencyWindow.quantiles_ms`, of all that these windows have counted."""
    return bucket_quantiles_ms([second for each in windows for second in (*each._past, each._current)], *quantiles)


def summed(seconds: Sequence[Buckets]) -> Buckets:
    """The counts of several seconds or windows together."""
    if len(seconds) == 1:
        return seconds[0]
    return [sum(column) for column in zip(*seconds, strict=True)] if seconds else EMPTY


def bucket_quantiles_ms(seconds: Sequence[Buckets], *quantiles: float) -> list[float | None]:
    """Like `LatencyWindow.quantiles_ms`, of the counts of these seconds."""
    totals = summed(seconds)
    count = sum(totals)
    if not count:
        return [None] * len(quantiles)
    found: list[float | None] = []
    for quantile in quantiles:
        seen, rank = 0, max(1, math.ceil(quantile * count))
        for index, total in enumerate(totals):
            seen += total
            if seen >= rank:
                found.append(round(1.1**index / 1000, 3))
                break
    return found


class RateWindow:
    """Events per second over the last `seconds` seconds of a counter that only grows. `roll(total)` once a second."""

    __slots__ = ("_totals",)

    def __init__(self, seconds: int = 5) -> None:
        self._totals: deque[int] = deque([0], maxlen=seconds + 1)

    def roll(self, total: int) -> None:
        """Notes the counter's value at the end of a second."""
        self._totals.append(total)

    def per_second(self) -> float:
        """The mean rate over the window."""
        seconds = len(self._totals) - 1
        return (self._totals[-1] - self._totals[0]) / seconds if seconds else 0.0
