"""A replay with the settings that were in force finds what really happened; with others, what they would have done."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_app.core.breaker import RATE_S, Breaker, BreakerConfig, Cause, State
from gateway_app.core.outcomes import OutcomeLog
from gateway_app.core.replay import Replay, replay

TICK_S = 0.025


class Worker:
    """A real breaker under a clock, as a router uses it, with its outcomes kept."""

    def __init__(self, config: BreakerConfig, start: float = 1000.0) -> None:
        self.now = start
        self.may_open = True
        self.log = OutcomeLog(start, RATE_S)
        self.opened: list[tuple[float, str]] = []
        self.open_s = 0.0
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
        return replay(self.log.record(self.now), config or self.breaker.config)


CONFIGS = st.builds(
    BreakerConfig,
    failure_threshold=st.integers(1, 6),
    success_threshold=st.integers(1, 3),
    open_s=st.sampled_from([0.5, 1.0, 5.0]),
    error_ratio=st.sampled_from([0.0, 0.1, 0.2, 0.5]),
)
NUMBERS = st.integers(0, 50)
STEPS = st.tuples(
    st.sampled_from([0.0, 0.0, 0.01, 0.3, 0.99, 1.0, 2.5, 8.0]),
    st.one_of(
        st.tuples(st.just("succeed"), NUMBERS),
        st.tuples(st.just("fail"), st.integers(1, 4)),
        st.tuples(
            st.sampled_from(["acquire", "success", "failure", "release", "count", "contradict", "may_open"]), NUMBERS
        ),
        st.tuples(st.sampled_from(["slow", "silent", "alive", "last", "trip", "reset", "isolate", "free"]), NUMBERS),
    ),
)


def act(worker: Worker, what: str, number: int) -> None:
    breaker, permits = worker.breaker, worker.permits
    match what:
        case "succeed":
            worker.succeed(number)
        case "fail":
            worker.fail(number, f"reason {number}")
        case "acquire":
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
            worker.may_open = number % 4 > 0
        case "slow" | "silent" | "trip":
            breaker.trip({"slow": Cause.SLOW, "silent": Cause.SILENT, "trip": Cause.OPERATOR}[what], what)
        case "alive" | "last":
            breaker.revive(what, Cause.ALIVE if what == "alive" else Cause.LAST)
        case "reset":
            breaker.reset("an operator says so")
        case "isolate" | "free":
            breaker.isolate(what == "isolate")


@settings(max_examples=400, deadline=None)
@given(config=CONFIGS, steps=st.lists(STEPS, max_size=60))
def test_with_the_settings_in_force_it_finds_what_really_happened(
    config: BreakerConfig, steps: list[tuple[float, tuple[str, int]]]
):
    worker = Worker(config)
    for wait_s, (what, number) in steps:
        worker.wait(wait_s)
        act(worker, what, number)
    found = worker.replay()
    assert found.opens == worker.breaker.opens == len(worker.opened)
    if worker.opened:
        at, reason = worker.opened[0]
        assert found.first_s == pytest.approx(worker.now - at)
        assert found.first == reason
    really_s = worker.open_s + (worker.now - worker.opened[-1][0] if worker.breaker.state is State.OPEN else 0.0)
    assert found.open_s == pytest.approx(really_s, abs=1.01 * TICK_S * max(1, found.opens))
    assert found.blind_s <= 1.01 * TICK_S * max(1, found.opens)
