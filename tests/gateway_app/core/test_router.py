"""Which worker gets a call, and what is said when none can take it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from xxhash import xxh3_64_intdigest

from gateway_app.core import call as call_module
from gateway_app.core.breaker import BreakerConfig, Cause, State
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring
from gateway_app.core.router import Router
from inference_site.lib.frames import Tell
from tests.gateway_app.core.fleet import PATIENT, PLAIN, TIMEOUT_S, Clock, World


def test_the_owner_of_the_key_gets_the_call() -> None:
    world = World(["a", "b", "c"])
    for key in range(0, 2**64, 2**64 // 50):
        call = world.submit(key)
        assert call.sent_to == [world.route(world.owners(key)[0])]


def test_what_computed_answers_took_is_added_up_by_both_clocks() -> None:
    world = World(["a"])
    for took_s, by_worker_us in ((0.5, 400_000), (0.25, 100_000)):
        world.submit()
        world.clock.now += took_s
        world.answer("a", time_us=by_worker_us)
    world.submit()
    world.answer("a", Tell.REFUSED, b'{"error":"x","code":"y"}')
    route = world.route("a")
    assert (route.computed, route.sent_s) == (2, 0.75)
    assert route.worker_s == pytest.approx(0.5)


def test_five_hundred_malformed_requests_open_no_breaker() -> None:
    world = World(["a", "b", "c"], replace(PLAIN, breaker=BreakerConfig()))
    for key in range(0, 2**64, 2**64 // 500):
        world.submit(key)
        world.answer(world.owners(key)[0], Tell.REFUSED, b'{"error":"x","code":"y"}')
    for route in world.router.routes.values():
        assert (route.breaker.state, route.breaker.failures, route.failures) == (State.CLOSED, 0, 0)


def test_a_worker_that_is_full_is_passed_over() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    for route in world.every_route:
        route.limit = 2
    calls = [world.submit() for _ in range(5)]
    assert [len(world.link(first).calls), len(world.link(second).calls)] == [2, 2]
    assert calls[4].error.code == "overloaded"
    assert calls[4].attempts == 0
    assert World(["a"]).route("a").limit == call_module.MAX_IN_FLIGHT


def test_a_worker_with_more_than_its_part_passes_calls_on_and_none_is_refused_for_it() -> None:
    world = World(["a", "b", "c"], replace(PLAIN, breaker=PATIENT, load_factor=1.25, load_floor=2))
    calls = [world.submit() for _ in range(300)]  # one key: a single owner
    in_flight = [route.in_flight for route in world.router.routes.values()]
    assert sum(in_flight) == 300
    assert max(in_flight) <= 1.25 * 100 + 1
    assert world.router.spills > 0
    assert not any(call.outcomes for call in calls)
    third = world.owners()[2]
    for route in world.every_route:
        route.up = route.name == third
    more = [world.submit() for _ in range(300)]
    assert world.route(third).in_flight == in_flight["abc".index(third)] + 300  # the only one that stays takes all
    assert not any(call.outcomes for call in more)


def test_workers_that_get_nothing_do_not_count_among_those_that_share() -> None:
    names = "abcdefgh"
    world = World(names, replace(PLAIN, breaker=PATIENT, load_factor=1.25, load_floor=2))
    draining, leaving, isolated, silent, *sharing = world.owners()
    world.configure(dict.fromkeys(names, 1.0), [draining])
    world.route(leaving).leaving = True
    world.route(isolated).breaker.isolate(True)
    world.router.presence.silent(world.route(silent), "nothing was heard")
    for _ in range(200):
        world.submit()
    in_flight = [world.route(name).in_flight for name in sharing]
    assert sum(in_flight) == 200
    assert max(in_flight) <= 1.25 * 50 + 1


def test_a_name_learned_late_takes_what_is_in_flight_along() -> None:
    world = World(["127.0.0.1:1"])
    call, route = world.submit(), world.route("127.0.0.1:1")
    world.router.rename("127.0.0.1:1", "worker_1")
    world.configure({"worker_1": 1.0})
    assert world.route("worker_1") is route
    assert world.submit().sent_to == [route]
    world.answer("worker_1")
    assert call.outcomes == [("result", b"[2]")]
    assert world.router.in_flight == 1


@pytest.mark.parametrize("reason", ["draining", "leaving"])
def test_a_worker_on_its_way_out_is_the_last_resort(reason: str) -> None:
    world = World(["a", "b", "c"])
    first, second, third = world.owners()
    setattr(world.route(first), reason, True)
    assert not world.route(first).routable
    assert world.submit().sent_to == [world.route(second)]
    for name in (second, third):
        world.route(name).up = False
    assert world.submit().sent_to == [world.route(first)]


def test_who_is_left_to_say_when_to_come_back_says_when_the_first_one_will_try_again() -> None:
    world = World(["a", "b"], replace(PLAIN, breaker=BreakerConfig(failure_threshold=1, open_s=30.0)))
    for name in ("a", "b"):
        world.route(name).up = False
    world.route("a").breaker.count_failure("no")
    world.clock.now += 12.5
    world.route("b").breaker.count_failure("no")
    error = world.submit().error
    assert (error.status, error.code, error.retry_after_s) == (503, "no_worker_available", 18)
    assert "a OPEN" in error.message


def test_nobody_connected_and_nobody_configured_are_told_apart() -> None:
    world = World(["a"])
    world.route("a").up = False
    assert "a has not loaded it" in world.submit().error.message
    world.route("a").connected = False
    error = world.submit().error
    assert (error.status, error.code, error.retry_after_s) == (503, "no_worker_available", 1)
    assert "a not connected" in error.message
    world.configure({})
    error = world.submit().error
    assert (error.status, error.code, error.retry_after_s) == (503, "no_workers", 1)


def test_half_open_probes_are_bounded_and_the_rest_goes_on() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    world.open(first)
    world.pass_time(5.0)
    for _ in range(10):
        world.submit()
    assert [len(world.link(first).calls), len(world.link(second).calls)] == [2, 8]
    for _ in range(2):
        world.answer(first)
    assert world.route(first).breaker.state is State.CLOSED


def test_the_last_worker_is_never_ejected() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    world.open(first)
    breaker = world.route(second).breaker
    for _ in range(20):
        breaker.count_failure("no")
    assert breaker.state is State.CLOSED
    assert not breaker.trip(Cause.SLOW, "slow")
    world.pass_time(5.0)
    for _ in range(2):
        world.submit()
        world.answer(first)
    breaker.count_failure("no")  # somebody else is well again
    assert world.state(second) is State.OPEN


def test_when_nobody_else_is_left_an_open_breaker_is_tried() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    world.open(first)
    world.kill(second)
    call = world.submit()
    assert call.sent_to == [world.route(first)]
    assert world.route(first).breaker.cause is Cause.LAST
    world.answer(first)
    assert call.outcomes


def test_an_isolated_worker_gets_nothing_even_if_nobody_else_is_left() -> None:
    world = World(["a"])
    world.route("a").breaker.isolate(True)
    error = world.submit().error
    assert (error.code, error.retry_after_s) == ("no_worker_available", 1)
    assert "a isolated" in error.message
    world.pass_time(10_000)
    assert world.submit().error.code == "no_worker_available"
    world.connect("a")  # a new process is no reason either
    assert world.submit().error.code == "no_worker_available"
    world.route("a").breaker.isolate(False)
    assert world.submit().sent_to == [world.route("a")]


def test_breaker_changes_are_told_with_the_workers_name() -> None:
    told: list[tuple[str, State, State]] = []
    router = Router(Clock(), lambda name, before, after, _: told.append((name, before, after)))
    ring = Ring({"a": 1.0, "b": 1.0}, 8, xxh3_64_intdigest)
    router.configure(ring, set(), Policy(BreakerConfig(failure_threshold=1), TIMEOUT_S))
    router.routes["b"].breaker.count_failure("no")
    assert told == [("b", State.CLOSED, State.OPEN)]
