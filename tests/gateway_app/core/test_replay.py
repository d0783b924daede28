"""A replay with the settings that were in force finds what really happened; with others, what they would have done."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_app.core.breaker import RATE_S, Breaker, BreakerConfig, Cause, State
from gateway_app.core.outcomes import OutcomeLog, Record
from gateway_app.core.replay import Replay, replay

TICK_S = 0.025


class Worker:
    """A real breaker under a clock, as a router uses it, with its outcomes kept."""

    def __init__(self, config: BreakerConfig, start: float = 1000.0) -> None:
        self.now = start
        self.may_open = True
        self.log = OutcomeLog(start, RATE_S)
        self.opened: list[tuple[float, str]] = []
        self.open_s = self.stalled_s = 0.0
        self.breaker = Breaker(
            config, lambda: self.now, self.changed, may_open=lambda: self.may_open, outcomes=self.log
        )
        self.permits: list[int] = []

    def changed(self, breaker: Breaker, before: State, reason: str) -> None:
        if before is State.OPEN:
            self.open_s += self.now - self.opened[-1][0]
        if breaker.state is State.OPEN:
            self.opened.append((self.now, reason))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + TICK_S)
            self.breaker.tick()

    def acquire(self) -> None:
        permit = self.breaker.acquire()
        if permit is not None:
            self.permits.append(permit)

    def succeed(self, times: int = 1) -> None:
        for _ in range(times):
            permit = self.breaker.acquire()
            if permit is not None:
                self.breaker.success(permit)

    def fail(self, times: int = 1, reason: str = "it broke") -> None:
        for _ in range(times):
            permit = self.breaker.acquire()
            if permit is not None:
                self.breaker.failure(permit, reason)

    def replay(self, config: BreakerConfig | None = None) -> Replay:
        return replay(self.record(), config or self.breaker.config)

    def record(self) -> Record:
        found = self.breaker.record()
        assert found is not None
        return found


CONFIGS = st.builds(
    BreakerConfig,
    failure_threshold=st.sampled_from([1, 3, 5, 30]),
    success_threshold=st.integers(1, 3),
    open_s=st.sampled_from([0.5, 1.0, 5.0]),
    error_ratio=st.sampled_from([0.0, 0.1, 0.2, 0.5]),
)
# What happens, how often each, and up to how many times: mostly traffic of which a part fails.
HAPPENINGS = {
    "succeed": (40, 25),
    "fail": (30, 4),
    "acquire": (10, 8),
    "success": (15, 50),
    "failure": (10, 50),
    "release": (2, 50),
    "count": (3, 1),
    "contradict": (2, 1),
    "may_open": (2, 50),
    "stall": (1, 12),
    **dict.fromkeys(("slow", "silent", "alive", "last", "trip", "reset", "isolate", "free"), (0.5, 1)),
}
WAITS_S = (0.0, 0.0, 0.0, 0.01, 0.05, 0.3, 0.6, 0.99, 1.0, 2.5, 8.0)


def act(worker: Worker, what: str, number: int) -> None:
    breaker, permits = worker.breaker, worker.permits
    match what:
        case "succeed":
            worker.succeed(number)
        case "fail":
            worker.fail(number)
        case "acquire":
            for _ in range(number):
                worker.acquire()
        case "success" if permits:
            breaker.success(permits.pop(number % len(permits)))
        case "failure" if permits:
            breaker.failure(permits.pop(number % len(permits)), "late or not", Cause.UNREACHABLE)
        case "release" if permits:
            breaker.release(permits.pop(number % len(permits)))
        case "count":
            breaker.count_failure("refused", Cause.UNREACHABLE)
        case "contradict":
            breaker.contradicted("it was wrong")
        case "may_open":
            worker.may_open = number % 3 > 0
        case "stall":
            worker.now += number
            worker.stalled_s += number
            breaker.tick()
        case "slow" | "silent" | "trip":
            breaker.trip({"slow": Cause.SLOW, "silent": Cause.SILENT, "trip": Cause.OPERATOR}[what], what)
        case "alive" | "last":
            breaker.revive(what, Cause.ALIVE if what == "alive" else Cause.LAST)
        case "reset":
            breaker.reset("an operator says so")
        case "isolate" | "free":
            breaker.isolate(what == "isolate")


@settings(max_examples=300, deadline=None)
@given(config=CONFIGS, seed=st.integers(0, 2**32), steps=st.sampled_from([10, 300]))
def test_with_the_settings_in_force_it_finds_what_really_happened(config: BreakerConfig, seed: int, steps: int):
    worker, rng = Worker(config), Random(seed)
    kinds, weights = list(HAPPENINGS), [weight for weight, _ in HAPPENINGS.values()]
    for what in rng.choices(kinds, weights, k=steps):
        worker.wait(rng.choice(WAITS_S))
        act(worker, what, rng.randint(1, HAPPENINGS[what][1]))
    found = worker.replay()
    assert found.opens == worker.breaker.opens == len(worker.opened)
    if worker.opened:
        at, reason = worker.opened[0]
        assert found.first_s == pytest.approx(worker.now - at)
        assert found.first == reason
    late_s = 1.01 * TICK_S * max(1, found.opens) + worker.stalled_s
    really_s = worker.open_s + (worker.now - worker.opened[-1][0] if worker.breaker.state is State.OPEN else 0.0)
    assert found.open_s == pytest.approx(really_s, abs=late_s)
    assert found.blind_s <= late_s


DEFAULTS = BreakerConfig(failure_threshold=3, success_threshold=2, open_s=10.0, error_ratio=0.0)


def healthy(worker: Worker, seconds: int, per_s: int = 10) -> None:
    for _ in range(seconds * 4):
        worker.succeed(per_s // 4)
        worker.wait(0.25)


def test_a_breaker_that_opens_later_does_not_know_what_happened_while_the_real_one_was_open():
    worker = Worker(DEFAULTS)
    healthy(worker, 5)
    worker.fail(3)
    worker.wait(10)
    worker.succeed(2)
    healthy(worker, 5)
    found = worker.replay(BreakerConfig(4, 2, 10.0, 0.0))
    assert (found.opens, found.open_s, found.first_s, found.first) == (0, 0.0, None, "")
    assert found.blind_s == pytest.approx(10, abs=0.05)
    assert (found.requests, found.failures, found.kept_away) == (8 * 10 + 3 + 2, 3, 0)  # 2 each quarter of a second


def test_one_that_opens_sooner_keeps_requests_away_until_its_probes_succeed():
    worker = Worker(DEFAULTS)
    healthy(worker, 30)
    worker.fail(1, "out of memory")
    healthy(worker, 40, per_s=40)
    found = worker.replay(BreakerConfig(1, 2, 12.0, 0.0))
    assert (found.opens, found.first) == (1, "1 failure in a row, the last: out of memory")
    assert found.longest_s == found.open_s == 12.0
    assert found.first_s == pytest.approx(40, abs=0.1)
    assert found.kept_away == pytest.approx(12 * 40, abs=40)
    assert found.blind_s == 0.0
    assert worker.replay().opens == 0


def test_probes_that_fail_double_its_time():
    worker = Worker(BreakerConfig(1000, 2, 1.0, 0.0))
    for _ in range(120):  # nine out of ten fail
        worker.fail(9)
        worker.succeed(1)
        worker.wait(1)
    found = worker.replay(BreakerConfig(5, 2, 10.0, 0.0))
    assert found.opens == 4  # after 10, 20 and 40 s each, and then for 80
    assert found.longest_s == pytest.approx(50, abs=4)  # of which the record has not the end
    assert found.open_s == pytest.approx(120, abs=6)
    assert found.kept_away > 1100


def test_the_operators_orders_stay_and_are_counted_apart():
    worker = Worker(DEFAULTS)
    worker.breaker.trip(Cause.OPERATOR, "tripped by an operator")
    worker.wait(3)
    worker.breaker.reset("reset by an operator")
    healthy(worker, 3)
    worker.breaker.isolate(True)
    worker.wait(60)
    found = worker.replay(BreakerConfig(1, 1, 30.0, 0.0))
    assert (found.opens, found.by_operator) == (2, 2)
    assert found.longest_s == pytest.approx(60)
    assert found.open_s == pytest.approx(63, abs=0.05)


def test_a_worker_without_another_one_stays_in_use():
    worker = Worker(DEFAULTS)
    worker.may_open = False
    worker.fail(100)
    assert worker.replay(BreakerConfig(1, 1, 30.0, 0.0)).opens == 0
    worker.may_open = True
    worker.fail(1)
    assert worker.replay(BreakerConfig(1, 1, 30.0, 0.0)).opens == 1


def test_an_error_rate_is_judged_over_the_very_seconds_of_the_window():
    worker = Worker(BreakerConfig(30, 2, 30.0, 0.2))
    healthy(worker, 8, per_s=400)
    for _ in range(RATE_S - 1):
        worker.succeed(2)
        worker.wait(1)
    worker.succeed(1)
    worker.fail(4)
    assert worker.breaker.opens == worker.replay().opens == 0
    worker.fail(1)  # the fifth of 24 within ten seconds
    assert worker.breaker.opens == worker.replay().opens == 1
    assert worker.replay(BreakerConfig(30, 2, 30.0, 0.5)).opens == 0


def test_a_loop_that_was_held_up_does_not_keep_old_successes_in_the_window():
    worker = Worker(BreakerConfig(30, 2, 30.0, 0.2))
    worker.succeed(50)
    worker.now += RATE_S + 2
    worker.breaker.tick()
    for _ in range(5):
        worker.fail(1)
        worker.succeed(4)
    worker.fail(1)
    assert worker.breaker.opens == worker.replay().opens == 1


def test_more_failures_than_are_kept_one_by_one_are_replayed_by_their_numbers():
    worker = Worker(BreakerConfig(30, 2, 30.0, 0.0))
    for _ in range(40):
        for _ in range(50):
            worker.succeed(8)
            worker.fail(2)
        worker.wait(1)
    record = worker.record()
    assert len(record.outcomes) < 1400
    found = worker.replay()
    assert (found.opens, found.requests, found.failures) == (0, 40 * 500, 40 * 100)
    assert worker.replay(BreakerConfig(30, 2, 30.0, 0.25)).opens == 0
    assert worker.replay(BreakerConfig(30, 2, 3.0, 0.15)).opens > 3
    assert worker.replay(BreakerConfig(3, 2, 30.0, 0.0)).opens == 0
    assert worker.replay(BreakerConfig(2, 2, 3.0, 0.0)).opens > 3
