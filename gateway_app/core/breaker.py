"""A circuit breaker: stops sending to a worker that fails, and lets a few probes find out when it is well again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from gateway_app.core.outcomes import Kind, OutcomeLog, Record

# The longest that repeated failures keep a breaker open, unless it is set to longer from the first.
MAX_OPEN_S = 300.0
# An error rate is judged over these many seconds, the shorter for a worker that was well until now, and only when there
# were this many calls.
RATE_S, RATE_SHORT_S, RATE_MIN_CALLS = 10, 3, 20


class State(StrEnum):
    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


class Cause(StrEnum):
    """What the last change of state was for."""

    NONE = ""
    FAILURES = "failures in a row"
    UNREACHABLE = "unreachable"
    ERROR_RATE = "error rate"
    SLOW = "slow"
    SILENT = "silent"
    PROBE = "probe"
    TIME = "time"
    ALIVE = "alive"
    LAST = "nobody else"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """When a breaker opens, for how long, and what closes it."""

    failure_threshold: int = 5
    success_threshold: int = 2
    open_s: float = 30.0
    error_ratio: float = 0.2  # of the calls of the last 10 s, if they are at least 20; 0: never


class Breaker:
    """One worker's breaker. Not safe for concurrent access: it lives on one event loop.

    CLOSED counts failures in a row and their part of all calls, and opens when there are too many of either. OPEN
    refuses until `open_s` has passed, twice as long after each probe that failed since it was last closed, up to
    `MAX_OPEN_S`, times what `jitter()` gives. HALF_OPEN admits probes, at most as many at a time as successes are
    still missing; enough successes close it, one failure opens it again. Whoever was admitted by `acquire()` must end
    with exactly one of `success`, `failure`, `release`; an outcome counts only in the period between two changes of
    state that the request was admitted in. While `may_open()` says no, only an operator opens it. What it is told is
    kept in `outcomes`, if that is given. Times are seconds of the clock that is passed in, which must be monotonic.
    """

    __slots__ = (
        "_calls",
        "_clock",
        "_failed",
        "_jitter",
        "_late",
        "_noted",
        "_past",
        "_period",
        "_rolled_at",
        "_stretch",
        "cause",
        "config",
        "failed_trials",
        "failures",
        "isolated",
        "last_error",
        "last_error_at",
        "may_open",
        "on_change",
        "opens",
        "outcomes",
        "probes",
        "since",
        "state",
        "successes",
        "why",
    )

    def __init__(
        self,
        config: BreakerConfig,
        clock: Callable[[], float],
        on_change: Callable[[Breaker, State, str], None] | None = None,
        jitter: Callable[[], float] = lambda: 1.0,
        may_open: Callable[[], bool] = lambda: True,
        outcomes: OutcomeLog | None = None,
    ) -> None:
        self.config = config
        self._clock = clock
        self.on_change = on_change
        self._jitter = jitter
        self.may_open = may_open
        self.outcomes = outcomes
        self._stretch = 1.0
        self.failed_trials = 0
        # A permit is the number of the period it was given in, negative for a probe.
        self._period = 1
        self.state = State.CLOSED
        self.cause = Cause.NONE
        self.isolated = False
        self.since = self._rolled_at = clock()
        self.failures = 0
        self.successes = 0
        self.probes = 0
        self.opens = 0
        self.why = ""  # of its last change, in words
        self.last_error, self.last_error_at = "", 0.0
        self._calls = self._failed = 0  # of the current second; those of the seconds before are in _past
        self._past: deque[tuple[int, int]] = deque(maxlen=RATE_S - 1)
        self._noted = 0  # successes of the current second that are among the outcomes
        self._late = 0  # successes that did not count, and are not among them yet

    def routable(self) -> bool:
        """Whether `acquire()` would admit a request now. Changes nothing."""
        if self.state is State.CLOSED:
            return True
        if self.state is State.OPEN and not self._is_over():
            return False
        return self.probes < self.config.success_threshold - self.successes

    def acquire(self) -> int | None:
        """Admits one request and returns its permit, to be handed back with the outcome; None if it is refused."""
        if self.state is State.CLOSED:
            return self._period
        self.tick()
        if self.state is State.OPEN or not self.routable():
            return None
        self.probes += 1
        return -self._period

    def success(self, permit: int, count: int = 1) -> None:
        """The worker answered (a 4xx is an answer too); `count`: so many requests at once, but for probes."""
        if permit == self._period:
            self._calls += count
            self.failures = 0
        elif self._returned(permit):
            self._note(Kind.PROBE_SUCCESS)
            self.successes += 1
            if self.successes >= self.config.success_threshold:
                self._change(State.CLOSED, Cause.PROBE, f"{self.successes} probes succeeded")
        elif permit:
            self._late += count

    def failure(self, permit: int, reason: str, cause: Cause = Cause.FAILURES, count: int = 1) -> None:
        """The worker failed a request; `reason` is kept as the last error, `cause` as for `count_failure`, `count` as
        for `success`."""
        self._erred(reason)
        if permit == self._period:
            self._note(Kind.FAILURE, cause, reason)
            self._calls += count
            self._failed += count
            self.failures += count - 1
            self._count(reason, cause)
        elif self._returned(permit):
            self._note(Kind.PROBE_FAILURE, cause, reason)
            self._change(State.OPEN, Cause.PROBE, f"a probe failed: {reason}")
        elif permit:
            self._note(Kind.LATE_FAILURE, cause, reason)

    def several(self, permit: int, ok: int, failed: int, reason: str) -> None:
        """What became of many requests at once, for replays: of those that failed, no two came in a row."""
        if permit == self._period:
            self._calls += ok + failed
            self._failed += failed
            self.failures = 0
            self._count(reason, Cause.FAILURES)

    def release(self, permit: int) -> None:
        """Neither: the client left, or the worker said that it is full or draining."""
        self._returned(permit)

    def count_failure(self, reason: str, cause: Cause = Cause.FAILURES) -> None:
        """A failure that no request saw, such as a refused connection; `cause`: for what it opens if it is the last."""
        self._note(Kind.COUNTED, cause, reason)
        self._count(reason, cause)

    def contradicted(self, reason: str) -> None:
        """An answer that was released, as neither success nor failure, has turned out to be wrong."""
        self._note(Kind.CONTRADICTED, Cause.FAILURES, reason)
        if self.state is State.CLOSED:
            self._calls += 1
            self._failed += 1
        self._count(reason, Cause.FAILURES)

    def trip(self, cause: Cause, reason: str) -> bool:
        """Opens, for what else is known of the worker; whether it is open now."""
        self._note(Kind.TRIP, cause, reason)
        if self.state is not State.OPEN and (cause is Cause.OPERATOR or self.may_open()):
            if cause is not Cause.OPERATOR:
                self._erred(reason)
            self._change(State.OPEN, cause, reason)
        return self.state is State.OPEN

    def revive(self, reason: str, cause: Cause = Cause.ALIVE) -> None:
        """There is reason to hope: an open breaker may probe at once."""
        self._note(Kind.REVIVE, cause, reason)
        if self.state is State.OPEN and not self.isolated:
            self._change(State.HALF_OPEN, cause, reason)

    def reset(self, reason: str) -> None:
        """An operator says that all is well."""
        self._note(Kind.RESET, Cause.OPERATOR, reason)
        if self.state is not State.CLOSED and not self.isolated:
            self._change(State.CLOSED, Cause.OPERATOR, reason)
        self.failures = 0

    def isolate(self, isolated: bool) -> None:
        """An operator keeps it open, or ends that."""
        if isolated and not self.isolated:
            self._note(Kind.ISOLATED, Cause.OPERATOR)
            self.isolated = True
            self._change(State.OPEN, Cause.OPERATOR, "isolated by an operator")
        elif self.isolated and not isolated:
            self._note(Kind.FREED, Cause.OPERATOR)
            self.isolated = False
            if self.state is State.OPEN:
                self._change(State.HALF_OPEN, Cause.OPERATOR, "no longer isolated")

    @property
    def open_for_s(self) -> float:
        """How long this period of OPEN lasts."""
        open_s = self.config.open_s
        return min(open_s * 2.0 ** min(self.failed_trials, 20), max(MAX_OPEN_S, open_s)) * self._stretch

    def tick(self) -> None:
        """Moves OPEN to HALF_OPEN when its time has passed; called on a timer too, so that it needs no traffic."""
        now = self._clock()
        if now - self._rolled_at >= 1:
            self.roll(int(now - self._rolled_at))
            self._rolled_at = now
        if self.state is State.OPEN and self._is_over():
            self._change(State.HALF_OPEN, Cause.TIME, f"open for {self.open_for_s:.1f} s")

    def roll(self, seconds: int) -> None:
        """So many seconds of those have passed that an error rate is judged over: `tick` calls it in time."""
        if self.outcomes is not None:
            self._note_late()
            self.outcomes.rolled(self._clock(), self._calls - self._failed - self._noted, seconds)
        for _ in range(min(RATE_S, seconds)):
            self._past.append((self._calls, self._failed))
            self._calls = self._failed = self._noted = 0

    def record(self) -> Record | None:
        """What it has been told in the last hour, if that is kept."""
        if self.outcomes is None:
            return None
        self._note_late()
        return self.outcomes.record(self._clock(), self._calls - self._failed - self._noted)

    def retry_after(self) -> float | None:
        """Seconds until this breaker admits a probe; None if it is not open, or held open by an operator."""
        if self.state is not State.OPEN or self.isolated:
            return None
        return max(0.0, self.since + self.open_for_s - self._clock())

    def configure(self, config: BreakerConfig) -> None:
        """Takes new thresholds; the counts so far are judged by them at the next outcome."""
        self.config = config
        if self.state is State.HALF_OPEN and self.successes >= config.success_threshold:
            self._change(State.CLOSED, Cause.PROBE, f"{self.successes} probes succeeded")

    def _count(self, reason: str, cause: Cause) -> None:
        self._erred(reason)
        if self.state is not State.CLOSED:
            return
        self.failures += 1
        if self.failures >= self.config.failure_threshold:
            if self.may_open():
                count = "1 failure" if self.failures == 1 else f"{self.failures} failures"
                self._change(State.OPEN, cause, f"{count} in a row, the last: {reason}")
        elif self.config.error_ratio:
            self._judge_rate(reason)

    def _erred(self, reason: str) -> None:
        self.last_error, self.last_error_at = reason, self._clock()

    def _judge_rate(self, reason: str) -> None:
        seconds = [(self._calls, self._failed), *reversed(self._past)]
        for span_s in (RATE_SHORT_S, RATE_S):
            calls, failed = map(sum, zip(*seconds[:span_s], strict=True))
            if calls >= RATE_MIN_CALLS and failed >= self.config.error_ratio * calls and self.may_open():
                said = f"{failed} of {calls} requests failed within {span_s} s, the last: {reason}"
                self._change(State.OPEN, Cause.ERROR_RATE, said)
                return

    def _is_over(self) -> bool:
        return not self.isolated and self._clock() - self.since >= self.open_for_s

    def _returned(self, permit: int) -> bool:
        """Takes a probe's permit back; whether its outcome still counts."""
        if permit >= 0:
            return False
        self.probes -= 1
        return permit == -self._period

    def _change(self, state: State, cause: Cause, reason: str) -> None:
        self._note_late()
        before, self.state = self.state, state
        self.cause, self.why = cause, reason
        self.since = self._clock()
        self._period += 1
        self.failures = self.successes = 0
        self._calls = self._failed = self._noted = 0
        self._past.clear()
        self._note(Kind(state), cause)
        if state is State.OPEN:
            self.opens += 1
            self.failed_trials += before is State.HALF_OPEN
            self._stretch = self._jitter()
        elif state is State.CLOSED:
            self.failed_trials = 0
        if self.on_change is not None:
            self.on_change(self, before, reason)

    def _note(self, kind: Kind, cause: Cause = Cause.NONE, reason: str = "", count: int = 1) -> None:
        """Keeps what it is told, with the successes that it was told before; to be called before it acts."""
        if self.outcomes is not None:
            ok = self._calls - self._failed - self._noted
            self._noted += ok
            self.outcomes.add(kind, self._clock(), ok, not self.may_open(), cause, reason, count)

    def _note_late(self) -> None:
        late, self._late = self._late, 0
        if late:
            self._note(Kind.LATE_SUCCESS, count=late)
