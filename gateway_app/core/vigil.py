"""Whether requests fare worse since a change: more errors, or a longer wait. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# What is judged: so many of the last seconds, as soon as there are enough of them with enough requests.
WINDOW_S, LEAST_S, LEAST_REQUESTS = 30, 5, 50
# One outlier is none: it must have shown in so many of the seconds, and be so for as long.
HOLDS_S = 3
# A p99 that is worse by less than this is noise, however small it was before.
NOISE_MS = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What is bearable: errors up to `error_percent`, and a p99 up to `p99_ms`, None for any."""

    error_percent: float
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the requests of some seconds; None where there were none."""

    requests: int = 0
    errors: int = 0
    p99_ms: float | None = None

    @property
    def error_percent(self) -> float | None:
        return 100 * self.errors / self.requests if self.requests else None


def limits_of(error_points: float, p99_factor: float, base_error_percent: float, base_p99_ms: float | None) -> Limits:
    """What may be had after a change, by what was before."""
    p99_ms = None if base_p99_ms is None else max(p99_factor * base_p99_ms, base_p99_ms + NOISE_MS)
    return Limits(base_error_percent + error_points, p99_ms)


class Vigil:
    """Takes the figures second by second, from the change on. Not safe for concurrent access."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.seen = Figures()  # of the window, as last judged
        self.requests = 0  # since the change
        self._seconds: deque[Figures] = deque(maxlen=WINDOW_S)
        self._worse_for_s = 0

    @property
    def window_s(self) -> int:
        """How many seconds belong to the window that is judged next, the one that has just ended among them."""
        return min(WINDOW_S, len(self._seconds) + 1)

    @property
    def is_open(self) -> bool:
        """Whether it looks worse now, and is not certain yet."""
        return 0 < self._worse_for_s < HOLDS_S

    def judge(self, second: Figures, window: Figures) -> str:
        """What has become worse, in words; "" for nothing (yet). `window` is of the last `window_s` seconds."""
        self._seconds.append(second)
        self.requests += second.requests
        self.seen = window
        worse = ""
        if len(self._seconds) >= LEAST_S and window.requests >= LEAST_REQUESTS:
            worse = self._errors(window) or self._p99(window)
        self._worse_for_s = self._worse_for_s + 1 if worse else 0
        return worse if self._worse_for_s >= HOLDS_S else ""

    def _errors(self, window: Figures) -> str:
        found, limit = window.error_percent or 0.0, self.limits.error_percent
        if found <= limit or _count(self._seconds, lambda second: (second.error_percent or 0.0) > limit) < HOLDS_S:
            return ""
        return f"{found:.1f} % of {window.requests:,} requests failed, the limit was {limit:.1f} %"

    def _p99(self, window: Figures) -> str:
        found, limit = window.p99_ms, self.limits.p99_ms
        if found is None or limit is None or found <= limit:
            return ""
        if _count(self._seconds, lambda second: second.p99_ms is not None and second.p99_ms > limit) < HOLDS_S:
            return ""
        return f"p99 was {found:.1f} ms over {window.requests:,} requests, the limit was {limit:.1f} ms"


def _count(seconds: Iterable[Figures], is_worse: Callable[[Figures], bool]) -> int:
    return sum(is_worse(second) for second in seconds)
