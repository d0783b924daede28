"""What time does to requests in flight: deadlines, second attempts beside the first, probes, slow workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway_app.core.attempts import REPLAY_BYTES
from gateway_app.core.breaker import Cause, State
from gateway_app.core.budget import MINIMUM
from gateway_app.core.watch import HEDGE_FLOOR_S, PROBE_FLOOR_S, SLOW_LOOKS
from inference_site.lib.frames import Tell
from tests.gateway_app.core.fleet import PATIENT, PLAIN, RecordingCall, World

TICK_S = 1 / 32
CALM = replace(PLAIN, breaker=PATIENT)
HEDGING = replace(CALM, hedging=True)


def ticks(world: World, seconds: float) -> None:
    for _ in range(round(seconds / TICK_S)):
        world.pass_time(TICK_S)


def spread(world: World, call: RecordingCall) -> list[str]:
    """The workers that have this call now, in the order of its key."""
    have = {link.route.name for link, each in world.flying if call in (each, each.first)}
    return [name for name in world.owners() if name in have]


# Deadlines.


def test_a_call_ends_with_its_time_to_the_tick():
    world = World(["a", "b", "c"], CALM)
    calls = [world.submit(timeout_s=limit_s) for limit_s in (0.01, 0.5, 1.0, 600.0, 0.0)]
    for _ in range(400):
        world.pass_time(TICK_S)
        for call in calls:
            over = world.clock.now >= call.deadline
            assert bool(call.outcomes) == over
    assert [call.error.code for call in calls[:3]] == ["deadline_passed"] * 3
    assert "0.01 s" in calls[0].error.message
    assert "10 s" in calls[4].error.message
    assert world.router.expired == 4
    assert world.router.in_flight == 1


def test_a_client_in_a_hurry_says_nothing_about_a_worker():
    world = World(["a"])
    world.submit(timeout_s=1.0)
    ticks(world, 2)
    assert world.route("a").breaker.failures == world.route("a").failures == 0
    world.submit()
    ticks(world, 11)
    assert world.route("a").breaker.failures == world.route("a").failures == 1


def test_a_worker_that_says_that_the_time_was_over_has_done_nothing_wrong():
    world = World(["a", "b"])
    call = world.submit(timeout_s=1.0)
    world.answer(world.owners()[0], Tell.EXPIRED, b"")
    assert call.error.status == 504
    assert world.router.expired == 1
    assert all(route.breaker.failures == 0 for route in world.every_route)


# Second attempts beside the first.


def test_at_half_of_its_time_a_second_worker_is_asked_and_the_first_may_still_answer():
    world = World(["a", "b", "c"], CALM)
    call = world.submit()
    ticks(world, 4.9)
    assert spread(world, call) == list(world.owners()[:1])
    ticks(world, 0.2)
    assert spread(world, call) == list(world.owners()[:2])
    world.answer(world.owners()[0])
    assert call.outcomes == [("result", b"[2]")]
    assert (world.router.hedges, world.router.hedge_wins, world.router.in_flight) == (1, 0, 0)
    assert len(world.link(world.owners()[1]).withdrawn) == 1
    assert call.attempts == 2


def test_the_second_one_may_be_quicker_and_then_it_is_the_one_that_is_named():
    world = World(["a", "b", "c"], CALM)
    call = world.submit()
    ticks(world, 5.1)
    world.answer(world.owners()[1])
    assert call.outcomes == [("result", b"[2]")]
    assert call.route.name == world.owners()[1]
    assert (world.router.hedge_wins, world.router.in_flight) == (1, 0)
    assert all(route.breaker.failures == 0 for route in world.every_route)


def test_a_call_much_slower_than_nearly_all_gets_a_second_worker_at_once():
    world = World(["a", "b", "c"], HEDGING)
    for name in "abc":
        world.pace(name, 0.1)
    call = world.submit()
    ticks(world, 0.17)
    assert len(spread(world, call)) == 1
    ticks(world, 0.17)
    assert len(spread(world, call)) == 2
    ticks(world, 4)
    assert len(spread(world, call)) == 2  # no third


@pytest.mark.parametrize("why", ["off", "no budget", "no pace", "too large", "nobody else"])
def test_there_is_no_second_attempt_without_cause_means_or_need(why: str):
    policy = replace(HEDGING, hedging=why != "off", retry_ratio=0.0 if why == "no budget" else 0.2)
    world = World(["a"] if why == "nobody else" else ["a", "b"], policy)
    if why != "no pace":
        for name in world.router.routes:
            world.pace(name, 0.001)
    call = world.submit(payload=b"1" * (REPLAY_BYTES + 1 if why == "too large" else 1))
    ticks(world, 4.9)
    assert len(spread(world, call)) == 1
    assert world.router.hedges == 0


def test_however_quick_answers_are_a_second_worker_is_not_asked_at_once():
    world = World(["a", "b"], HEDGING)
    for name in "ab":
        world.pace(name, 1e-5)
    call = world.submit()
    world.pass_time(HEDGE_FLOOR_S * 0.9)
    assert len(spread(world, call)) == 1
    world.pass_time(HEDGE_FLOOR_S * 0.2)
    assert len(spread(world, call)) == 2


def test_second_attempts_are_a_part_of_the_requests_and_no_more():
    world = World(["a", "b", "c"], CALM)
    for _ in range(600):
        world.submit()
    ticks(world, 6)
    assert world.router.hedges == max(MINIMUM, 0.2 * 600) / 2  # the other half is left for those that failed
    first = world.owners()[0]
    for _ in range(60 + 60 + 20):  # the first 60 have their second attempt already
        world.answer(first, Tell.FAILED, b"sick")
    assert world.router.retries == max(MINIMUM, 0.2 * 600) / 2
    assert world.router.budget_exhausted == 20


@pytest.mark.parametrize("first_answer", [Tell.BUSY, Tell.FAILED])
@pytest.mark.parametrize("second_answer", [Tell.BUSY, Tell.FAILED])
def test_who_is_full_counts_for_nothing_in_a_second_attempt_either(first_answer: Tell, second_answer: Tell):
    world = World(["a", "b", "c"], CALM)
    first, second, third = world.owners()
    call = world.submit()
    ticks(world, 5.1)
    world.answer(first, first_answer, b"x")
    assert not call.outcomes
    world.answer(second, second_answer, b"x")
    if first_answer is second_answer is Tell.FAILED:
        assert call.error.code == "workers_failed"
        assert first in call.error.message
        assert second in call.error.message
    else:
        world.answer(third)
        assert call.outcomes == [("result", b"[2]")]


def test_a_second_attempt_that_fails_leaves_the_first_alone():
    world = World(["a", "b", "c"], CALM)
    call = world.submit()
    ticks(world, 5.1)
    world.kill(world.owners()[1])
    assert not call.outcomes
    world.answer(world.owners()[0])
    assert call.outcomes == [("result", b"[2]")]


def test_both_attempts_end_with_the_time():
    world = World(["a", "b", "c"], CALM)
    call = world.submit()
    ticks(world, 10.1)
    assert call.error.code == "deadline_passed"
    assert world.router.in_flight == 0
    assert not world.flying


def test_a_client_that_leaves_takes_both_attempts_along():
    world = World(["a", "b", "c"], CALM)
    call = world.submit()
    ticks(world, 5.1)
    world.cancel(call)
    assert world.router.in_flight == 0
    assert not world.flying
    assert world.router.cancelled == 1


ENDS: dict[str, Callable[[World, RecordingCall], object]] = {
    "the first answers": lambda world, call: world.answer(world.owners()[0]),
    "the second answers": lambda world, call: world.answer(world.owners()[1]),
    "both fail": lambda world, call: [world.answer(name, Tell.FAILED, b"x") for name in world.owners()[:2]],
    "its time is over": lambda world, call: ticks(world, 5.0),
    "its client leaves": lambda world, call: world.cancel(call),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_is_over_is_not_kept_by_its_second_attempt(end: str):
    world = World(["a", "b", "c"], CALM)
    call = world.submit()
    ticks(world, 5.1)
    assert call.hedge is not None
    ENDS[end](world, call)
    assert not world.flying
    assert call.hedge is None


# Silence.


def test_what_a_silent_worker_has_goes_to_another_one_once():
    world = World(["a", "b", "c"], CALM)
    first, second, _ = world.owners()
    call = world.submit()
    world.router.presence.silent(world.route(first), "not a word")
    assert spread(world, call) == [second]
    world.router.presence.silent(world.route(second), "not a word")
    assert spread(world, call) == [second]  # a third attempt there is not; it may speak again
    world.answer(second)
    assert call.outcomes == [("result", b"[2]")]


def test_a_second_attempt_on_a_worker_that_falls_silent_is_not_an_end():
    world = World(["a", "b", "c"], CALM)
    first, second, _ = world.owners()
    call = world.submit()
    ticks(world, 5.1)
    world.answer(first, Tell.FAILED, b"sick")
    world.router.presence.silent(world.route(second), "not a word")
    assert not call.outcomes
    world.answer(second)
    assert call.outcomes == [("result", b"[2]")]


# Time in which this loop was held up.


def test_a_loop_that_was_held_up_blames_no_worker_for_that():
    world = World(["a", "b"], replace(PLAIN, hedging=True))
    for name in "ab":
        world.pace(name, 0.01)
    hurried, patient = world.submit(), world.submit(timeout_s=60.0)
    world.pass_time(12.0, late_s=12.0)
    assert hurried.error.code == "deadline_passed"  # its client has waited all the same
    assert [route.breaker.failures for route in world.every_route] == [0, 0]
    assert world.router.hedges == 0
    world.pass_time(TICK_S)
    world.answer(world.owners()[0])
    assert patient.outcomes == [("result", b"[2]")]
    assert world.route(world.owners()[0]).pace.p99 < 0.1  # nor is it slow


def test_a_loop_that_was_held_up_gives_a_probe_its_time_all_the_same():
    world, first, second = trial()
    call = world.submit()
    world.pass_time(3.0, late_s=3.0)
    assert world.state(first) is State.HALF_OPEN
    assert spread(world, call) == [first]
    ticks(world, PROBE_FLOOR_S + 0.1)
    assert world.state(first) is State.OPEN
    assert spread(world, call) == [second]


# Probes.


def trial() -> tuple[World, str, str]:
    """A worker whose breaker lets probes through, and another one; both are quick."""
    world = World(["a", "b"])
    first, second = world.owners()
    for name in "ab":
        world.pace(name, 0.01)
    world.open(first)
    world.pass_time(5.0)
    return world, first, second


def test_a_probe_has_its_own_time():
    world, first, second = trial()
    call = world.submit()
    ticks(world, PROBE_FLOOR_S - 0.1)
    assert world.state(first) is State.HALF_OPEN
    ticks(world, 0.2)
    assert world.state(first) is State.OPEN
    assert "probe" in world.route(first).breaker.last_error
    assert spread(world, call) == [second]
    assert world.route(first).breaker.probes == 0


def test_a_probe_that_takes_long_is_no_error_for_its_client():
    world, first, second = trial()
    world.route(second).up = False
    call = world.submit()
    ticks(world, 3)
    assert not call.outcomes
    world.answer(first)
    assert call.outcomes == [("result", b"[2]")]


def test_the_second_attempt_of_a_call_may_be_a_slow_probe():
    world, first, second = trial()
    world.route(first).up = False
    call = world.submit()
    world.answer(second, Tell.FAILED, b"sick")
    assert call.outcomes  # nobody else is there
    world.route(first).up = True
    world.route(second).up, other = False, world.submit()
    other.attempts = 2  # as if another one had failed before
    ticks(world, 3)
    assert not other.outcomes
    assert world.route(first).breaker.probes == 0
    world.answer(first)
    assert other.outcomes == [("result", b"[2]")]


# Slow workers.


def test_a_worker_many_times_slower_than_the_others_is_sick():
    world = World(["a", "b", "c"], replace(CALM, slow_factor=5.0))
    for name, takes_s in (("a", 0.01), ("b", 0.012), ("c", 0.1)):
        world.pace(name, takes_s, 60)
    for _ in range(SLOW_LOOKS):
        assert world.state("c") is State.CLOSED
        world.pass_time(1.0)
    assert [world.state(name) for name in "abc"] == [State.CLOSED, State.CLOSED, State.OPEN]
    assert world.route("c").breaker.cause is Cause.SLOW
    assert "half of its answers" in world.route("c").breaker.last_error
    assert not world.route("c").pace.known  # it begins anew


def test_who_has_settings_of_its_own_is_not_slow_by_those_of_the_others():
    world = World(["a", "b", "c"], replace(CALM, slow_factor=5.0))
    world.configure(dict.fromkeys("abc", 1.0), apart="c")
    for name, takes_s in (("a", 0.01), ("b", 0.012), ("c", 0.1)):
        world.pace(name, takes_s, 60)
    for _ in range(SLOW_LOOKS + 1):
        world.pass_time(1.0)
    assert world.state("c") is State.CLOSED
    world.configure(dict.fromkeys("abc", 1.0))
    assert not world.route("c").pace.known  # what its own settings took says nothing any more


@pytest.mark.parametrize(
    ("factor", "usual_s", "slow_s"), [(0.0, 0.01, 10.0), (5.0, 0.01, 0.04), (5.0, 0.0001, 0.004), (50.0, 0.01, 0.1)]
)
def test_slow_is_many_times_and_noticeable_or_nothing(factor: float, usual_s: float, slow_s: float):
    world = World(["a", "b", "c"], replace(CALM, slow_factor=factor))
    for name, takes_s in (("a", usual_s), ("b", usual_s), ("c", slow_s)):
        world.pace(name, takes_s, 60)
    for _ in range(5):
        world.pass_time(1.0)
    assert world.state("c") is State.CLOSED


def test_a_worker_that_looks_slow_for_a_moment_is_not_sick():
    world = World(["a", "b", "c"], replace(CALM, slow_factor=5.0))
    for takes_s in [0.1] * (SLOW_LOOKS - 1) + [0.01] + [0.1] * (SLOW_LOOKS - 1):
        for name in "abc":
            world.pace(name, takes_s if name == "c" else 0.01, 60)
        world.pass_time(1.0)
    assert world.state("c") is State.CLOSED


def test_a_worker_that_was_drained_is_not_judged_by_what_it_did_before():
    world = World(["a", "b", "c"], replace(CALM, slow_factor=5.0))
    for name in "abc":
        world.pace(name, 0.1, 60)
    world.configure(dict.fromkeys("abc", 1.0), draining=["c"])
    for name in "ab":
        world.pace(name, 0.005, 200)
    world.configure(dict.fromkeys("abc", 1.0))
    for _ in range(5):
        world.pass_time(1.0)
    assert world.state("c") is State.CLOSED


def test_no_more_than_half_of_the_workers_are_sick_for_being_slow():
    world = World(["a", "b", "c"], replace(CALM, slow_factor=5.0))
    for name, takes_s in (("a", 0.01), ("b", 0.1), ("c", 1.0)):
        world.pace(name, takes_s, 60)
    for _ in range(5):
        world.pass_time(1.0)
    assert [world.state(name) for name in "abc"] == [State.CLOSED, State.CLOSED, State.OPEN]


def test_of_one_slow_one_alone_none_is_sick():
    world = World(["a"], replace(CALM, slow_factor=5.0))
    world.pace("a", 5.0, 60)
    for _ in range(5):
        world.pass_time(1.0)
    assert world.state("a") is State.CLOSED
