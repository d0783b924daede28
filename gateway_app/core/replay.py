"""What a breaker with other settings would have done: a real one, told again what happened, in no time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gateway_app.core.breaker import Breaker, BreakerConfig, Cause, State
from gateway_app.core.outcomes import STATES, Kind, Outcome, Record

# However many failures came at a time, they are told in so many steps.
STEPS = 20


@dataclass(frozen=True, slots=True)
class Replay:
    """What would have happened within `covered_s` seconds, until when the record ends.

    `opens`: how often it would have opened, `by_operator` of these by order; `open_s`, `longest_s`: for how long in
    all, and at the longest, with the period that goes on. `blind_s`: for so long nothing is known, for the real breaker
    was open while this one would not have been. `requests`, of them `failures`: what is known to have come in, with the
    gateway's own checks; of these `kept_away` would have gone elsewhere, or been refused. `first_s`, `first`: how long
    before the end of the record it would have opened for the first time, and why.
    """

    opens: int
    by_operator: int
    open_s: float
    longest_s: float
    blind_s: float
    requests: int
    failures: int
    kept_away: int
    first_s: float | None
    first: str
    covered_s: float


def replay(record: Record, config: BreakerConfig) -> Replay:
    """Tells a breaker with these settings all that is in a record.

    While it is OPEN, what comes in is skipped; HALF_OPEN takes it as probes. It stays open for exactly as long as it is
    set to, where a real one varies that by a fifth. Whether it could be done without another worker is as it was then.
    """
    return _Replay(record, config).run()


class _Replay:
    def __init__(self, record: Record, config: BreakerConfig) -> None:
        self.record = record
        self.now = record.since
        self.alone = False
        self.real, self.real_since = record.state, record.since
        self.opened_at = 0.0
        self.spans: list[float] = []
        self.first: tuple[float, str] | None = None
        self.by_operator = self.requests = self.failures = self.kept_away = 0
        self.blind_s = 0.0
        self.breaker = Breaker(config, lambda: self.now, self._changed, may_open=lambda: not self.alone)

    def run(self) -> Replay:
        for outcome in self.record.outcomes:
            self.alone = outcome.alone
            self.breaker.roll(outcome.rolls)
            if outcome.ok:
                self._succeed(outcome)
            self._replay(outcome)
        self._advance(self.record.until)
        if self.breaker.state is State.OPEN:
            self.spans.append(self.now - self.opened_at)
        return Replay(
            opens=len(self.spans),
            by_operator=self.by_operator,
            open_s=math.fsum(self.spans),
            longest_s=max(self.spans, default=0.0),
            blind_s=self.blind_s,
            requests=self.requests,
            failures=self.failures,
            kept_away=self.kept_away,
            first_s=self.record.until - self.first[0] if self.first is not None else None,
            first=self.first[1] if self.first is not None else "",
            covered_s=self.record.until - self.record.since,
        )

    def _replay(self, outcome: Outcome) -> None:
        kind, breaker = outcome.kind, self.breaker
        cause, reason = Cause(outcome.cause), outcome.reason
        match kind:
            case Kind.FAILURE | Kind.PROBE_FAILURE:
                self._fail(outcome, outcome.times)
            case Kind.FAILURES:
                self._fail(outcome, outcome.run)
                self._mix(outcome, outcome.among, outcome.times - outcome.run)
            case Kind.LATE_FAILURE if self._still_counts():
                self._fail(outcome, outcome.times)
            case Kind.COUNTED:
                for at in self._spread(outcome, outcome.times):
                    self._advance(at)
                    breaker.count_failure(reason, cause)
        self._advance(outcome.at)
        match kind:
            case Kind.PROBE_SUCCESS:
                self._succeeded(1)
            case Kind.LATE_SUCCESS if self._still_counts():
                self._succeeded(outcome.times)
            case Kind.CONTRADICTED:
                breaker.contradicted(reason)
            case Kind.SECOND:
                breaker.roll(1)
            case Kind.TRIP:
                breaker.trip(cause, reason)
            case Kind.REVIVE:
                breaker.revive(reason, cause)
            case Kind.RESET:
                breaker.reset(reason)
            case Kind.ISOLATED | Kind.FREED:
                breaker.isolate(kind is Kind.ISOLATED)
        if kind in STATES:
            self.real, self.real_since = kind, outcome.at

    def _fail(self, outcome: Outcome, times: int) -> None:
        """So many failures in a row."""
        steps = min(times, STEPS)
        for step, at in enumerate(self._spread(outcome, steps)):
            self._advance(at)
            self._failed(outcome, times * (step + 1) // steps - times * step // steps)

    def _mix(self, outcome: Outcome, ok: int, failed: int) -> None:
        """So many successes and failures, evenly mixed."""
        for step, at in enumerate(self._spread(outcome, STEPS)):
            self._advance(at)
            passed, broken = (times * (step + 1) // STEPS - times * step // STEPS for times in (ok, failed))
            if self.breaker.state is State.CLOSED and broken:
                self.requests += passed + broken
                self.failures += broken
                self.breaker.several(self.breaker.acquire() or 0, passed, broken, outcome.reason)
            else:
                self._failed(outcome, broken)
                self._succeeded(passed)

    def _failed(self, outcome: Outcome, count: int) -> None:
        """So many failures at one moment."""
        self.failures += count
        cause = Cause(outcome.cause)
        self._ended(count, lambda permit, told: self.breaker.failure(permit, outcome.reason, cause, told))

    def _succeeded(self, count: int) -> None:
        """So many successes at one moment."""
        self._ended(count, self.breaker.success)

    def _ended(self, count: int, tell: Callable[[int, int], None]) -> None:
        """The breaker is told of so many requests, but for those that it keeps away."""
        self.requests += count
        while count:
            told = 1 if self.breaker.state is State.HALF_OPEN else count
            permit = self.breaker.acquire()
            if permit is None:
                self.kept_away += told
            else:
                tell(permit, told)
            count -= told

    @staticmethod
    def _spread(outcome: Outcome, times: int) -> Iterator[float]:
        """So many moments of an outcome's time, the last one its end."""
        return (outcome.since + (outcome.at - outcome.since) * number / times for number in range(1, times + 1))

    def _succeed(self, outcome: Outcome) -> None:
        """The successes before an outcome, spread evenly over its time."""
        done, step_s = 0, (outcome.at - outcome.since) / outcome.ok
        while done < outcome.ok:
            self._advance(outcome.since + step_s * (done + 1))
            count = 1  # a probe
            if self.breaker.state is State.CLOSED:
                count = outcome.ok - done
            elif self.breaker.state is State.OPEN:
                left_s = self.breaker.retry_after()
                gone = outcome.ok if left_s is None or not step_s else math.ceil(left_s / step_s)
                count = max(1, min(gone, outcome.ok - done))
            self._succeeded(count)
            done += count
        self._advance(outcome.at)

    def _still_counts(self) -> bool:
        """Whether a request from before the last change of the real breaker is one of this breaker's present period."""
        return self.breaker.state is State.CLOSED and self.breaker.since < self.real_since

    def _advance(self, to: float) -> None:
        """Lets time pass; an open breaker gets to probe at the moment when it may."""
        left_s = self.breaker.retry_after()
        if left_s is not None and self.now + left_s <= to:
            self._pass(self.now + left_s)
            while not self.breaker.routable():  # sums of times are not exact
                self._pass(math.nextafter(self.now, math.inf))
            self.breaker.tick()
        self._pass(to)

    def _pass(self, to: float) -> None:
        if to > self.now:
            if self.real is Kind.OPEN and self.breaker.state is not State.OPEN:
                self.blind_s += to - self.now
            self.now = to

    def _changed(self, breaker: Breaker, before: State, reason: str) -> None:
        if before is State.OPEN:
            self.spans.append(self.now - self.opened_at)
        if breaker.state is State.OPEN:
            self.opened_at = self.now
            self.by_operator += breaker.cause is Cause.OPERATOR
            if self.first is None:
                self.first = (self.now, reason)
