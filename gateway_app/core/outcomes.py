"""What a breaker has been told of late, so that it can be told again: to one with other settings."""

from __future__ import annotations

from collections import deque
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

KEPT_S = 3600.0
# So many outcomes are kept one by one at a time, and so many a second in the long run; beyond that, failures of one
# second are kept as one, so that a worker that keeps failing takes some MB, and the log still reaches back.
BURST, PER_S = 1_000.0, 4.0
MAX_OUTCOMES = 20_000
# Nothing but successes is kept as one outcome for this long, and what is repeated while a breaker is open.
MERGED_S, REPEATED_S = 300.0, 60.0


class Kind(StrEnum):
    """What a breaker was told, and at the end what state it took."""

    SECOND = "a second of its window has passed"
    FAILURE = "failure"
    FAILURES = "failures among successes"
    COUNTED = "a failure that no request saw"
    CONTRADICTED = "a released answer was wrong"
    PROBE_SUCCESS = "a probe succeeded"
    PROBE_FAILURE = "a probe failed"
    LATE_SUCCESS = "success of a request from before the last change"
    LATE_FAILURE = "failure of a request from before the last change"
    TRIP = "trip"
    REVIVE = "revive"
    RESET = "reset"
    ISOLATED = "isolated"
    FREED = "no longer isolated"
    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


_REPEATABLE = frozenset((Kind.FAILURE, Kind.COUNTED, Kind.LATE_FAILURE))
STATES = frozenset((Kind.CLOSED, Kind.OPEN, Kind.HALF_OPEN))


@dataclass(slots=True)
class Outcome:
    """First `rolls` seconds of the breaker's window passed, then `ok` requests succeeded, then this, `times` times.

    All of it between `since` and `at`, on the breaker's clock. `alone`: the breaker was not allowed to open. Of
    FAILURES `run` came in a row at the most, and `among` is how many requests between them succeeded.
    """

    at: float
    since: float
    rolls: int
    ok: int
    kind: Kind
    times: int = 1
    alone: bool = False
    cause: str = ""
    reason: str = ""
    run: int = 0
    among: int = 0


class Record(NamedTuple):
    """A breaker's outcomes between two times, the oldest first, and the state that it had at the first."""

    outcomes: tuple[Outcome, ...]
    since: float
    until: float
    state: Kind = Kind.CLOSED


class OutcomeLog:
    """The outcomes of one breaker in the last hour. Not safe for concurrent access.

    It costs nothing while requests succeed: the breaker tells their number once a second, and at each failure. Seconds
    are kept one by one where a failure came within `window` of them, so that rates of errors can be found again;
    others are merged. Times are seconds of the breaker's clock.
    """

    __slots__ = ("_began", "_outcomes", "_quiet", "_rolls", "_run", "_since", "_spare", "_start", "_state", "_window")

    def __init__(self, now: float, window: int) -> None:
        """window: how many seconds an error rate is judged over."""
        self._window = window
        self._outcomes: deque[Outcome] = deque()
        self._quiet: deque[Outcome] = deque()  # the newest seconds, since when there was nothing else
        self._rolls = 0  # seconds without anything since the last outcome
        self._spare = BURST  # outcomes that may be kept one by one
        self._run = 0  # failures in a row
        self._since = self._began = now
        self._state = self._start = Kind.CLOSED

    def rolled(self, now: float, ok: int, seconds: int) -> None:
        """So many seconds have passed, in the first of which that many requests succeeded that it was not told of."""
        if ok:
            self._quiet.append(Outcome(now, self._since, self._rolls, ok, Kind.SECOND))
            self._rolls = seconds - 1
            self._run = 0
            if len(self._quiet) > self._window:
                self._merge(self._quiet.popleft())
        else:
            self._rolls += seconds
        self._since = now
        self._spare = min(self._spare + seconds * PER_S, BURST)

    def add(self, kind: Kind, now: float, ok: int, alone: bool, cause: str, reason: str, times: int = 1) -> None:
        """The breaker is told something, and before it of `ok` successes more."""
        self._run = 1 if ok else self._run + 1
        if not self._repeats(kind, now, ok, alone, cause, reason) and not self._joins(kind, now, ok, alone):
            if kind is Kind.FAILURE:
                self._spare -= 1
            self._outcomes.extend(self._quiet)
            self._quiet.clear()
            outcome = Outcome(now, self._since, min(self._rolls, self._window), ok, kind, times, alone, cause, reason)
            self._outcomes.append(outcome)
        if kind in STATES:
            self._state = kind
        self._since, self._rolls = now, 0
        self._forget(now)

    def record(self, now: float, ok: int) -> Record:
        """What is known of the last hour; `ok`: successes that it was not told of yet."""
        self._forget(now)
        outcomes = [*self._outcomes, *self._quiet]
        if self._outcomes:  # this one may grow
            outcomes[len(self._outcomes) - 1] = copy(self._outcomes[-1])
        if ok:
            outcomes.append(Outcome(now, self._since, self._rolls, ok, Kind.SECOND))
        return Record(tuple(outcomes), self._began, now, self._start)

    def _repeats(self, kind: Kind, now: float, ok: int, alone: bool, cause: str, reason: str) -> bool:
        """Adds it to the last outcome if that is the same; while the breaker is not closed, seconds between them do
        not matter."""
        last = self._outcomes[-1] if self._outcomes and not self._quiet and kind in _REPEATABLE and not ok else None
        if last is None or kind is not last.kind or reason != last.reason or cause != last.cause:
            return False
        if alone != last.alone or now - last.since > REPEATED_S or (self._rolls and self._state is Kind.CLOSED):
            return False
        last.at = now
        last.times += 1
        return True

    def _joins(self, kind: Kind, now: float, ok: int, alone: bool) -> bool:
        """Adds a failure to those of the same second if there are too many to keep each."""
        last = self._outcomes[-1] if self._outcomes and kind is Kind.FAILURE and self._spare < 1 else None
        if last is None or self._quiet or self._rolls or last.kind not in (kind, Kind.FAILURES):
            return False
        if last.kind is kind:
            last.kind, last.run = Kind.FAILURES, last.times
        last.at, last.alone = now, alone
        last.times += 1
        last.run = max(last.run, min(self._run, last.times))
        last.among += ok
        return True

    def _merge(self, second: Outcome) -> None:
        """Keeps a second that is long enough before whatever comes next."""
        last = self._outcomes[-1] if self._outcomes else None
        if last is not None and last.kind is Kind.SECOND and second.at - last.since <= MERGED_S:
            last.at = second.at
            last.ok += second.ok
        else:
            self._outcomes.append(second)
        self._forget(second.at)

    def _forget(self, now: float) -> None:
        outcomes = self._outcomes
        while outcomes and (outcomes[0].at < now - KEPT_S or len(outcomes) > MAX_OUTCOMES):
            first = outcomes.popleft()
            self._began = first.at
            if first.kind in STATES:
                self._start = first.kind
        while self._quiet and self._quiet[0].at < now - KEPT_S:
            self._began = self._quiet.popleft().at
        self._began = max(self._began, now - KEPT_S)
