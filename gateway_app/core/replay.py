"""What a breaker with other settings would have done: a real one, told again what happened, in no time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gateway_app.core.breaker import Breaker, BreakerConfig, Cause, State
from gateway_app.core.outcomes import STATES, Kind, Outcome, Record


@dataclass(frozen=True, slots=True)
class Replay:
    """What would have happened within `covered_s` seconds, until when the record ends.

    `opens`: how often it would have opened, `by_operator` of these by order; `open_s`, `longest_s`: for how long in
    all, and at the longest, the present period included. `blind_s`: for so long nothing is known, for the real breaker
    was open while this one would not have been. `requests`, of them `failures`: what is known to have come in, of which
    `kept_away` would have gone elsewhere, or been refused. `first_s`, `first`: how long before the end of the record
    it would have opened for the first time, and why.
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
        for number in range(1, outcome.times + 1):
            if kind is Kind.LATE_SUCCESS:
                break
            self._advance(outcome.since + (outcome.at - outcome.since) * number / outcome.times)
            match kind:
                case Kind.FAILURE | Kind.PROBE_FAILURE:
                    self._fail(reason, cause)
                case Kind.LATE_FAILURE if self._still_counts():
                    self._fail(reason, cause)
                case Kind.PROBE_SUCCESS:
                    self._request(1)
                case Kind.COUNTED:
                    breaker.count_failure(reason, cause)
                case Kind.CONTRADICTED:
                    breaker.contradicted(reason)
        self._advance(outcome.at)
        match kind:
            case Kind.LATE_SUCCESS if self._still_counts():
                self._request(outcome.times)
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

    def _succeed(self, outcome: Outcome) -> None:
        """The successes before an outcome, spread evenly over its time."""
        done, step_s = 0, (outcome.at - outcome.since) / outcome.ok
        while done < outcome.ok:
            self._advance(outcome.since + step_s * (done + 1))
            count = 1
            if self.breaker.state is State.CLOSED:
                count = outcome.ok - done
            elif self.breaker.state is State.OPEN:
                left_s = self.breaker.retry_after()
                gone = outcome.ok if left_s is None or not step_s else math.ceil(left_s / step_s)
                count = max(1, min(gone, outcome.ok - done))
            self._request(count)
            done += count
        self._advance(outcome.at)

    def _request(self, count: int) -> None:
        """So many requests that succeeded, and no more than one if they are probes."""
        self.requests += count
        permit = self.breaker.acquire()
        if permit is None:
            self.kept_away += count
        else:
            self.breaker.success(permit, count)

    def _fail(self, reason: str, cause: Cause) -> None:
        self.requests += 1
        self.failures += 1
        permit = self.breaker.acquire()
        if permit is None:
            self.kept_away += 1
        else:
            self.breaker.failure(permit, reason, cause)

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
