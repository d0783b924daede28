"""The breaker against a model of its contract, with a clock that the test moves."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway_app.core.breaker import RATE_MIN_CALLS, RATE_S, Breaker, BreakerConfig, Cause, State


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Permit:
    value: int
    period: int
    probe: bool


CONFIGS = st.builds(
    BreakerConfig,
    failure_threshold=st.integers(1, 4),
    success_threshold=st.integers(1, 3),
    open_s=st.sampled_from([1.0, 5.0, 30.0]),
    error_ratio=st.just(0.0),
)


class BreakerMachine(RuleBasedStateMachine):
    """What the docstrings promise, written a second time and as plainly as possible."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.config = BreakerConfig(failure_threshold=3, success_threshold=2, open_s=5.0, error_ratio=0.0)
        self.seen: list[tuple[State, State, Cause]] = []
        told = lambda each, before, _: self.seen.append((before, each.state, each.cause))  # noqa: E731
        self.may_open = True
        self.isolated = False
        self.breaker = Breaker(self.config, self.clock, told, lambda: 1.5, lambda: self.may_open)
        self.state, self.since, self.period = State.CLOSED, self.clock.now, 0
        self.failures = self.successes = self.opens = self.failed_trials = 0
        self.expected: list[tuple[State, State, Cause]] = []
        self.permits: list[Permit] = []

    @property
    def open_for(self) -> float:
        return min(self.config.open_s * 2**self.failed_trials, 300.0) * 1.5

    def change(self, state: State, cause: Cause) -> None:
        if state is State.CLOSED:
            self.failed_trials = 0
        if state is State.OPEN and self.state is State.HALF_OPEN:
            self.failed_trials += 1
        self.expected.append((self.state, state, cause))
        self.state, self.since = state, self.clock.now
        self.period += 1
        self.failures = self.successes = 0
        self.opens += state is State.OPEN

    def pass_time(self) -> None:
        if self.state is State.OPEN and not self.isolated and self.clock.now - self.since >= self.open_for:
            self.change(State.HALF_OPEN, Cause.TIME)

    def model_failure(self) -> None:
        self.failures += 1
        if self.failures >= self.config.failure_threshold and self.may_open:
            self.change(State.OPEN, Cause.FAILURES)

    @property
    def probes(self) -> int:
        return sum(permit.probe for permit in self.permits)

    @rule()
    def acquire(self) -> None:
        self.pass_time()
        missing = self.config.success_threshold - self.successes
        room = self.state is State.CLOSED or (self.state is State.HALF_OPEN and self.probes < missing)
        assert self.breaker.routable() == room
        value = self.breaker.acquire()
        assert (value is not None) == room
        if value is not None:
            self.permits.append(Permit(value, self.period, self.state is State.HALF_OPEN))
            if self.state is State.HALF_OPEN:
                assert self.probes <= missing

    @precondition(lambda self: self.permits)
    @rule(pick=st.integers(0, 10**6))
    def succeed(self, pick: int) -> None:
        permit = self.permits.pop(pick % len(self.permits))
        self.breaker.success(permit.value)
        if permit.period != self.period:
            return
        if permit.probe:
            self.successes += 1
            if self.successes >= self.config.success_threshold:
                self.change(State.CLOSED, Cause.PROBE)
        else:
            self.failures = 0

    @precondition(lambda self: self.permits)
    @rule(pick=st.integers(0, 10**6))
    def fail(self, pick: int) -> None:
        permit = self.permits.pop(pick % len(self.permits))
        self.breaker.failure(permit.value, "it broke")
        assert self.breaker.last_error == "it broke"
        if permit.period != self.period:
            return
        if permit.probe:
            self.change(State.OPEN, Cause.PROBE)
        else:
            self.model_failure()

    @precondition(lambda self: self.permits)
    @rule(pick=st.integers(0, 10**6))
    def release(self, pick: int) -> None:
        permit = self.permits.pop(pick % len(self.permits))
        self.breaker.release(permit.value)

    @rule()
    def fail_without_a_request(self) -> None:
        self.breaker.count_failure("connection refused")
        if self.state is State.CLOSED:
            self.model_failure()

    @rule()
    def revive(self) -> None:
        self.breaker.revive("a new process")
        if self.state is State.OPEN and not self.isolated:
            self.change(State.HALF_OPEN, Cause.ALIVE)

    @rule(cause=st.sampled_from([Cause.SLOW, Cause.SILENT, Cause.OPERATOR]))
    def trip(self, cause: Cause) -> None:
        may = self.may_open or cause is Cause.OPERATOR
        assert self.breaker.trip(cause, "tripped") == (may or self.state is State.OPEN)
        if may and self.state is not State.OPEN:
            self.change(State.OPEN, cause)

    @rule()
    def reset(self) -> None:
        self.breaker.reset("all is well")
        if self.state is not State.CLOSED and not self.isolated:
            self.change(State.CLOSED, Cause.OPERATOR)
        self.failures = 0

    @rule(wanted=st.booleans())
    def isolate(self, wanted: bool) -> None:
        self.breaker.isolate(wanted)
        if wanted != self.isolated:
            self.isolated = wanted
            self.change(State.OPEN if wanted else State.HALF_OPEN, Cause.OPERATOR)

    @rule(may=st.booleans())
    def others(self, may: bool) -> None:
        """Others are well, or not."""
        self.may_open = may

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 4.999, 5.0, 30.0, 1e6]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def tick(self) -> None:
        self.breaker.tick()
        self.pass_time()

    @precondition(lambda self: self.state is State.OPEN and not self.isolated)
    @rule()
    def open_always_ends_with_time_alone(self) -> None:
        wait = self.breaker.retry_after()
        assert wait is not None
        self.clock.now += wait + 1e-6  # what a caller was told to wait is enough
        self.tick()
        assert self.breaker.state is State.HALF_OPEN

    @rule(config=CONFIGS)
    def configure(self, config: BreakerConfig) -> None:
        self.breaker.configure(config)
        self.config = config
        if self.state is State.HALF_OPEN and self.successes >= config.success_threshold:
            self.change(State.CLOSED, Cause.PROBE)

    @precondition(lambda self: self.state is State.HALF_OPEN)
    @rule()
    def half_open_is_never_stuck(self) -> None:
        """Once all permits are back, a probe is admitted."""
        for permit in self.permits:
            self.breaker.release(permit.value)
        self.permits.clear()
        assert self.breaker.routable()

    @invariant()
    def agrees_with_the_model(self) -> None:
        breaker = self.breaker
        assert breaker.state is self.state
        assert (breaker.failures, breaker.successes, breaker.opens) == (self.failures, self.successes, self.opens)
        assert breaker.probes == self.probes
        assert self.seen == self.expected
        assert breaker.since == self.since
        assert not self.isolated or self.state is State.OPEN
        if self.state is State.OPEN and not self.isolated:
            left = self.since + self.open_for - self.clock.now
            assert breaker.retry_after() == pytest.approx(max(0.0, left))
        else:
            assert breaker.retry_after() is None


BreakerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase


def opened(config: BreakerConfig | None = None) -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(config or BreakerConfig(), clock)
    for _ in range(breaker.config.failure_threshold):
        permit = breaker.acquire()
        assert permit is not None
        breaker.failure(permit, "no")
    return breaker, clock


def test_five_failures_in_a_row_open_it_four_and_a_success_do_not() -> None:
    clock = Clock()
    breaker = Breaker(BreakerConfig(), clock)
    for outcome in "ffffsffff":
        permit = breaker.acquire()
        assert permit is not None
        if outcome == "f":
            breaker.failure(permit, "no")
        else:
            breaker.success(permit)
    assert (breaker.state, breaker.failures) == (State.CLOSED, 4)
    breaker.count_failure("refused")
    assert breaker.state is State.OPEN
    assert breaker.acquire() is None


def test_two_successful_probes_close_it() -> None:
    breaker, clock = opened()
    clock.now += 29.9
    assert breaker.acquire() is None
    clock.now += 0.1
    first, second = breaker.acquire(), breaker.acquire()
    assert first is not None
    assert second is not None
    assert breaker.acquire() is None  # never more probes than successes are missing
    breaker.success(first)
    assert (breaker.state, breaker.successes) == (State.HALF_OPEN, 1)
    assert breaker.acquire() is None  # one is out, one is missing
    breaker.success(second)
    assert breaker.state is State.CLOSED


def test_an_answer_from_before_the_break_does_not_close_it() -> None:
    clock = Clock()
    breaker = Breaker(BreakerConfig(failure_threshold=1), clock)
    old = [permit for _ in range(3) if (permit := breaker.acquire()) is not None]
    breaker.failure(old[0], "no")
    clock.now += 30
    breaker.tick()
    breaker.success(old[1])
    breaker.failure(old[2], "late")
    assert (breaker.state, breaker.successes, breaker.probes) == (State.HALF_OPEN, 0, 0)


def test_a_probe_of_an_earlier_half_open_period_counts_no_more() -> None:
    breaker, clock = opened()
    clock.now += 30
    first, second = breaker.acquire(), breaker.acquire()
    assert first is not None
    assert second is not None
    breaker.failure(first, "still sick")
    clock.now += 60
    breaker.tick()
    breaker.success(second)
    assert (breaker.state, breaker.successes, breaker.probes) == (State.HALF_OPEN, 0, 0)


def test_each_failed_trial_doubles_the_time_up_to_a_limit_and_success_ends_that() -> None:
    breaker, clock = opened()
    times = []
    for _ in range(6):
        wait = breaker.retry_after()
        assert wait is not None
        times.append(wait)
        clock.now += wait
        permit = breaker.acquire()
        assert permit is not None
        breaker.failure(permit, "still sick")
    assert times == [30, 60, 120, 240, 300, 300]
    clock.now += 300
    for _ in range(breaker.config.success_threshold):
        permit = breaker.acquire()
        assert permit is not None
        breaker.success(permit)
    for _ in range(breaker.config.failure_threshold):
        breaker.count_failure("sick again")
    assert breaker.retry_after() == 30


def test_the_change_is_told_with_its_reason() -> None:
    told: list[tuple[State, State, str]] = []
    breaker = Breaker(
        BreakerConfig(failure_threshold=1), Clock(), lambda each, before, why: told.append((before, each.state, why))
    )
    breaker.count_failure("connection refused")
    assert told == [(State.CLOSED, State.OPEN, "1 failure in a row, the last: connection refused")]


def feed(breaker: Breaker, outcomes: str) -> None:
    for outcome in outcomes:
        permit = breaker.acquire()
        assert permit is not None
        if outcome == "f":
            breaker.failure(permit, "no")
        else:
            breaker.success(permit)


def test_a_fifth_of_the_calls_failing_opens_it_however_many_succeed_in_between() -> None:
    clock = Clock()
    said: list[str] = []
    breaker = Breaker(BreakerConfig(), clock, lambda each, before, reason: said.append(reason))
    feed(breaker, "ssssf" * 3 + "ssss")
    assert breaker.state is State.CLOSED  # too few to judge by
    feed(breaker, "f")
    assert (breaker.state, breaker.cause) == (State.OPEN, Cause.ERROR_RATE)
    assert "4 of 20" in said[0]


def test_failures_of_more_than_ten_seconds_ago_are_forgotten() -> None:
    clock = Clock()
    breaker = Breaker(BreakerConfig(error_ratio=0.2), clock)
    feed(breaker, "sf" * 9)
    for _ in range(RATE_S + 1):
        clock.now += 1
        breaker.tick()
    feed(breaker, "s" * 9 + "sf")
    assert breaker.state is State.CLOSED


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.0, 0.3, 1.0, 3.0, 20.0]), st.booleans()), max_size=150),
    st.sampled_from([0.2, 0.5, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_the_error_rate_opens_it_when_it_is_reached_and_not_before(
    outcomes: list[tuple[float, bool]], ratio: float
) -> None:
    clock = Clock()
    breaker = Breaker(BreakerConfig(failure_threshold=10**6, error_ratio=ratio), clock)
    told: list[tuple[float, bool]] = []
    for seconds, good in outcomes:
        clock.now += seconds
        breaker.tick()
        feed(breaker, "s" if good else "f")
        told.append((clock.now, good))

        def judged(window_s: float) -> bool:
            calls = [each for at, each in told if clock.now - at < window_s]
            return len(calls) >= RATE_MIN_CALLS and calls.count(False) >= ratio * len(calls)

        if breaker.state is State.OPEN:
            assert not good
            # Seconds are counted as wholes, and a part of one may be missing or too much.
            assert any(judged(window_s / 10) for window_s in range(10 * RATE_S - 20, 10 * RATE_S + 11))
            return
        assert good or not all(judged(window_s / 10) for window_s in range(10 * RATE_S - 20, 10 * RATE_S + 11))


def test_an_operator_opens_even_the_last_one_and_isolation_lasts() -> None:
    clock = Clock()
    breaker = Breaker(BreakerConfig(), clock, may_open=lambda: False)
    assert not breaker.trip(Cause.SILENT, "silent")
    assert breaker.trip(Cause.OPERATOR, "by hand")
    assert breaker.state is State.OPEN
    breaker.isolate(True)
    clock.now += 1e9
    breaker.tick()
    breaker.revive("a new process")
    breaker.reset("all is well")
    assert (breaker.state, breaker.acquire(), breaker.retry_after()) == (State.OPEN, None, None)
    breaker.isolate(False)
    assert breaker.state.value == "HALF_OPEN"
