"""A circuit breaker: stops sending to a worker that fails, and lets a few probes find out when it is well again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

# The longest that repeated failures keep a breaker open, unless it is set to longer from the first.
MAX_OPEN_S = 300.0


class State(StrEnum):
    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """When a breaker opens, for how long, and what closes it."""

    failure_threshold: int = 5
    success_threshold: int = 2
    open_s: float = 30.0
    error_ratio: float = 0.2  # of the calls of the last 10 s, if they are at least 20; 0: never


class Breaker:
    """One worker's breaker. Not safe for concurrent access: it lives on one event loop.

    CLOSED counts failures in a row and opens at the threshold. OPEN refuses until `open_s` has passed, twice as long
    after each probe that failed since it was last closed, up to `MAX_OPEN_S`, times what `jitter()` gives. HALF_OPEN
    admits probes, at most as many at a time as successes are still missing; enough successes close it, one failure
    opens it again. Whoever was admitted by `acquire()` must end with exactly one of `success`, `failure`, `release`;
    an outcome counts only in the period between two changes of state that the request was admitted in. Times are
    seconds of the clock that is passed in, which must be monotonic.
    """

    __slots__ = (
        "_clock",
        "_failed_trials",
        "_jitter",
        "_period",
        "_stretch",
        "config",
        "failures",
        "last_error",
        "on_change",
        "opens",
        "probes",
        "since",
        "state",
        "successes",
    )

    def __init__(
        self,
        config: BreakerConfig,
        clock: Callable[[], float],
        on_change: Callable[[Breaker, State, str], None] | None = None,
        jitter: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.config = config
        self._clock = clock
        self.on_change = on_change
        self._jitter = jitter
        self._stretch = 1.0
        self._failed_trials = 0
        # A permit is the number of the period it was given in, negative for a probe.
        self._period = 1
        self.state = State.CLOSED
        self.since = clock()
        self.failures = 0
        self.successes = 0
        self.probes = 0
        self.opens = 0
        self.last_error = ""

    def routable(self) -> bool:
        """Whether `acquire()` would admit a request now."""
        if self.state is State.CLOSED:
            return True
        self.tick()
        return self.state is State.HALF_OPEN and self.probes < self.config.success_threshold - self.successes

    def acquire(self) -> int | None:
        """Admits one request and returns its permit, to be handed back with the outcome; None if it is refused."""
        if self.state is State.CLOSED:
            return self._period
        if not self.routable():
            return None
        self.probes += 1
        return -self._period

    def success(self, permit: int) -> None:
        """The worker answered (a 4xx is an answer too)."""
        if permit == self._period:
            self.failures = 0
        elif self._returned(permit):
            self.successes += 1
            if self.successes >= self.config.success_threshold:
                self._change(State.CLOSED, f"{self.successes} probes succeeded")

    def failure(self, permit: int, reason: str) -> None:
        """The worker failed a request; `reason` is kept as the last error."""
        self.last_error = reason
        if permit == self._period:
            self.count_failure(reason)
        elif self._returned(permit):
            self._change(State.OPEN, f"a probe failed: {reason}")

    def release(self, permit: int) -> None:
        """Neither: the client left, or the worker said that it is full or draining."""
        self._returned(permit)

    def count_failure(self, reason: str) -> None:
        """A failure that no request saw, such as a refused connection."""
        self.last_error = reason
        if self.state is State.CLOSED:
            self.failures += 1
            if self.failures >= self.config.failure_threshold:
                self._change(State.OPEN, f"{self.failures} failures in a row, the last: {reason}")

    def revive(self, reason: str) -> None:
        """A new process answers for this worker: an open breaker may probe at once."""
        if self.state is State.OPEN:
            self._change(State.HALF_OPEN, reason)

    @property
    def open_for_s(self) -> float:
        """How long this period of OPEN lasts."""
        open_s = self.config.open_s
        return min(open_s * 2.0 ** min(self._failed_trials, 20), max(MAX_OPEN_S, open_s)) * self._stretch

    def tick(self) -> None:
        """Moves OPEN to HALF_OPEN when its time has passed; called on a timer too, so that it needs no traffic."""
        if self.state is State.OPEN and self._clock() - self.since >= self.open_for_s:
            self._change(State.HALF_OPEN, f"open for {self.open_for_s:.1f} s")

    def retry_after(self) -> float | None:
        """Seconds until this breaker admits a probe; None if it is not open."""
        if self.state is not State.OPEN:
            return None
        return max(0.0, self.since + self.open_for_s - self._clock())

    def configure(self, config: BreakerConfig) -> None:
        """Takes new thresholds; the counts so far are judged by them at the next outcome."""
        self.config = config
        if self.state is State.HALF_OPEN and self.successes >= config.success_threshold:
            self._change(State.CLOSED, f"{self.successes} probes succeeded")

    def _returned(self, permit: int) -> bool:
        """Takes a probe's permit back; whether its outcome still counts."""
        if permit > 0:
            return False
        self.probes -= 1
        return permit == -self._period

    def _change(self, state: State, reason: str) -> None:
        before, self.state = self.state, state
        self.since = self._clock()
        self._period += 1
        self.failures = self.successes = 0
        if state is State.OPEN:
            self.opens += 1
            self._failed_trials += before is State.HALF_OPEN
            self._stretch = self._jitter()
        elif state is State.CLOSED:
            self._failed_trials = 0
        if self.on_change is not None:
            self.on_change(self, before, reason)
