"""Which worker gets a call, and what a client is told when none can answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from xxhash import xxh3_64_intdigest

from gateway_app.core import call as call_module
from gateway_app.core.attempts import REPLAY_BYTES
from gateway_app.core.breaker import BreakerConfig, Cause, State
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring
from gateway_app.core.router import Router
from inference_site.lib.frames import Tell
from tests.gateway_app.core.fleet import PATIENT, PLAIN, QUICK, TIMEOUT_S, Clock, World


def test_the_owner_of_the_key_gets_the_call() -> None:
    world = World(["a", "b", "c"])
    for key in range(0, 2**64, 2**64 // 50):
        call = world.submit(key)
        assert call.sent_to == [world.route(world.owners(key)[0])]


def test_a_failure_goes_to_the_next_owner_and_a_second_one_to_the_client() -> None:
    world = World(["a", "b", "c"])
    first, second, _ = world.owners()
    call = world.submit()
    world.answer(first, Tell.FAILED, b"out of memory")
    assert world.link(second).calls == [call]
    assert world.router.retries == 1
    world.answer(second, Tell.FAILED, b"out of memory")
    assert (call.error.status, call.error.code, call.error.retry_after_s) == (503, "workers_failed", 1)
    assert first in call.error.message
    assert second in call.error.message
    assert "out of memory" in call.error.message


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


def test_busy_workers_are_asked_once_each_then_the_client_may_come_back() -> None:
    world = World(["a", "b", "c"])
    call = world.submit()
    for name, queue_us in zip(world.owners(), (9_000_000, 3_200_000, 4_000_000), strict=True):
        assert not call.outcomes
        world.answer(name, Tell.BUSY, b"", queue_us)
    assert (call.error.status, call.error.code, call.error.retry_after_s) == (503, "overloaded", 4)
    assert all(route.breaker.failures == 0 for route in world.router.routes.values())
    assert (world.router.shed, world.router.retries, call.attempts) == (1, 0, 0)


def test_a_worker_that_was_full_costs_no_attempt() -> None:
    world = World(["a", "b", "c"])
    first, second, third = world.owners()
    call = world.submit()
    world.answer(first, Tell.BUSY, b"")
    world.answer(second, Tell.FAILED, b"sick")
    world.answer(third)
    assert (call.outcomes, call.attempts) == ([("result", b"[2]")], 2)


def test_a_worker_that_has_unloaded_the_model_costs_no_attempt_and_gets_no_more() -> None:
    world = World(["a", "b", "c"])
    first, second, _ = world.owners()
    call, beside = world.submit(), world.submit(payload=b"[2]")
    world.answer(first, Tell.GONE, b"")
    assert not world.route(first).up
    world.answer(first, Tell.GONE, b"")  # the other one was on its way
    for _ in range(2):
        world.answer(second)
    assert [(each.outcomes, each.attempts) for each in (call, beside)] == [([("result", b"[2]")], 1)] * 2
    assert (world.route(first).breaker.failures, world.route(first).failures, world.router.retries) == (0, 0, 0)
    world.submit()
    assert not world.link(first).calls


def test_a_worker_that_has_the_model_under_another_number_is_asked_once_more() -> None:
    world = World(["a", "b"])
    first, _ = world.owners()
    call = world.submit()
    world.pace(first, 0.01)
    world.open(first)
    world.router.another(world.route(first), 7)
    assert (world.state(first), world.route(first).pace.known) == (State.HALF_OPEN, False)  # it may be a better one
    world.answer(first, Tell.GONE, b"")
    assert call.sent_to == [world.route(first)] * 2
    assert call.number == 7
    world.answer(first)
    assert (call.outcomes, call.attempts) == ([("result", b"[2]")], 1)


def test_a_worker_is_met_before_it_has_the_model() -> None:
    world = World(["a", "b"])
    route = world.route("a")
    world.kill("a")
    world.open("a")
    assert world.router.met(route, "another process")
    assert (world.state("a"), route.up) == (State.HALF_OPEN, False)


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
    world.router.silent(world.route(silent), "nothing was heard")
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


# Breakers.


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


@pytest.mark.parametrize("trouble", ["silent", "unreachable"])
def test_a_worker_that_is_connected_again_need_not_wait_for_its_breaker(trouble: str) -> None:
    world = World(["a", "b"])
    route = world.route("a")
    if trouble == "silent":
        world.router.silent(route, "nothing was heard")
    world.kill("a")
    for _ in range(QUICK.failure_threshold if trouble == "unreachable" else 0):
        route.breaker.count_failure("refused", Cause.UNREACHABLE)
    assert world.state("a") is State.OPEN
    world.reconnect("a")
    assert world.state("a") is State.HALF_OPEN


def test_what_a_worker_answered_is_not_forgotten_because_its_connection_was_lost() -> None:
    world = World(["a", "b"])
    world.open("a")
    world.kill("a")
    world.reconnect("a")
    assert world.state("a") is State.OPEN


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


# A worker that comes back.


def test_a_worker_that_comes_back_gets_a_growing_part_of_its_keys() -> None:
    world = World(["a", "b"], replace(PLAIN, slow_start_s=5.0))

    def part() -> float:
        keys = [key * 0x9E3779B97F4A7C15 % 2**64 for key in range(4000)]
        own = [world.submit(key) for key in keys if world.owners(key)[0] == "a"]
        mine = sum(call.sent_to[0].name == "a" for call in own) / len(own)
        for call in own:
            world.cancel(call)
        return mine

    assert part() == 1.0
    world.kill("a")
    world.connect("a")
    assert part() == pytest.approx(0.1, abs=0.03)
    world.pass_time(2.5)
    assert part() == pytest.approx(0.5, abs=0.05)
    world.pass_time(2.6)
    assert part() == 1.0
    assert world.route("a").ramp_from is None


def test_the_only_worker_that_comes_back_gets_all_at_once() -> None:
    world = World(["a", "b"], replace(PLAIN, slow_start_s=5.0))
    world.kill("a")
    world.connect("a")
    world.kill("b")
    assert all(world.submit(key).sent_to == [world.route("a")] for key in range(0, 2**64, 2**58))


# Links that are lost, and workers that are removed.


def test_a_lost_link_gives_its_calls_to_the_others_one_at_a_time() -> None:
    world = World(["a", "b"], replace(PLAIN, breaker=PATIENT))
    first, second = world.owners()
    keys = [key for key in range(0, 2**64, 2**57) if world.owners(key)[0] == first][:20]
    calls = [world.submit(key) for key in keys]
    assert len(calls) == 20
    world.kill(first)
    for call in calls:
        assert world.link(second).calls == [call]  # one at a time, and each as soon as the one before is answered
        world.answer(second)
    assert all(call.outcomes == [("result", b"[2]")] for call in calls)
    assert world.router.in_flight == world.router.suspects.watching == 0


def test_what_is_too_large_is_not_sent_twice() -> None:
    world = World(["a", "b"])
    first, _ = world.owners()
    large = world.submit(payload=b"1" * (REPLAY_BYTES + 1))
    world.answer(first, Tell.FAILED, b"sick")
    assert large.error.code == "workers_failed"
    whole = world.submit(payload=b"1" * (REPLAY_BYTES + 1))
    world.answer(first, Tell.BUSY)  # it did nothing with it
    assert whole.sent_to[1:]


def test_what_comes_back_after_the_deadline_is_not_tried_again() -> None:
    world = World(["a", "b"])
    call = world.submit()
    world.clock.now += 10.0
    world.answer(world.owners()[0], Tell.BUSY)
    assert call.error.code == "deadline_passed"


def test_a_worker_removed_while_it_works_still_answers() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    call = world.submit()
    link = world.link(first)
    world.configure({second: 1.0})
    world.tell(link, call, Tell.RESULT, b"[7]")
    assert call.outcomes == [("result", b"[7]")]
    assert link.route.in_flight == 0


def test_a_worker_removed_and_lost_passes_its_calls_on() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    call = world.submit()
    link = world.link(first)
    world.configure({second: 1.0, "c": 1.0})
    world.break_link(link)
    assert world.link(second).calls == [call]


def test_a_client_that_leaves_a_removed_worker_is_not_answered() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    call = world.submit()
    link = world.link(first)
    world.configure({second: 1.0})
    world.cancel(call)
    assert link.withdrawn == [call]
    assert link.route.in_flight == 0
    assert call.outcomes == []


def test_a_client_that_leaves_frees_its_place_at_once() -> None:
    world = World(["a", "b"])
    call = world.submit()
    world.cancel(call)
    assert world.router.in_flight == 0
    assert world.router.cancelled == 1
    world.cancel(call)  # nothing is left to do
    assert world.router.cancelled == 1
    assert all(route.breaker.failures == 0 for route in world.every_route)


def test_a_client_may_leave_because_of_another_ones_answer() -> None:
    world = World(["a"])
    first, second = world.submit(), world.submit()
    first.on_error = lambda error: world.cancel(second)  # type: ignore[method-assign]
    world.kill("a")
    assert second.outcomes == []
    assert world.router.in_flight == world.route("a").in_flight == 0


def test_who_has_less_time_than_every_queue_is_told_that_it_is_too_late() -> None:
    world = World(["a", "b"])
    hasty, patient = world.submit(1, timeout_s=0.05), world.submit(1, timeout_s=5.0)
    for call in (hasty, patient):
        for _ in range(2):
            link = next(link for link in world.links if call in link.calls)
            world.tell(link, call, Tell.BUSY, time_us=400_000)
    assert (hasty.error.status, hasty.error.code) == (504, "deadline_passed")
    assert "0.05 s" in hasty.error.message
    assert (patient.error.status, patient.error.code) == (503, "overloaded")


BLAME = b'{"error":"the model can\'t run on this input","code":"model_refused_input"}'


def blame(world: World, name: str) -> None:
    link = world.link(name)
    world.tell(link, link.calls[0], Tell.REFUSED, BLAME, 422)


def test_an_input_that_a_model_fails_on_is_the_clients_fault_once_a_second_worker_says_so() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    call = world.submit()
    blame(world, first)
    assert not call.outcomes
    blame(world, second)
    assert call.outcomes == [("refusal", 422)]
    assert [world.route(name).breaker.failures for name in (first, second)] == [0, 0]
    assert (world.router.in_flight, world.router.second_opinions) == (0, 1)


def test_a_worker_whose_model_fails_on_what_another_can_run_has_failed() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    for count in (1, 2):
        call = world.submit()
        blame(world, first)
        world.answer(second, Tell.RESULT)
        assert call.outcomes == [("result", b"[2]")]
        assert (world.route(first).breaker.failures, world.route(first).failures) == (count, count)
        assert world.router.second_opinions == count
    assert second in world.route(first).breaker.last_error


def test_with_nobody_else_to_ask_the_only_worker_is_believed() -> None:
    world = World(["a"])
    call = world.submit()
    blame(world, "a")
    assert call.outcomes == [("refusal", 422)]
    assert world.router.second_opinions == 0


def test_a_worker_that_blames_inputs_now_and_then_is_tripped_by_its_error_rate() -> None:
    world = World(["a", "b"], replace(PLAIN, breaker=BreakerConfig()))
    first, second = world.owners()
    for _ in range(13):
        for blames in (True, False):
            call = world.submit()
            if world.state(first) is not State.CLOSED:
                return
            if blames:
                blame(world, first)
                world.answer(second)
            else:
                world.answer(first)
            assert call.outcomes == [("result", b"[2]")]
    pytest.fail("it goes on")


@pytest.mark.parametrize("end", ["full", "lost"])
def test_a_refusal_that_nobody_contradicts_is_the_answer(end: str) -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    call = world.submit()
    blame(world, first)
    if end == "full":
        world.answer(second, Tell.BUSY)
    else:
        world.kill(second)
    assert call.outcomes == [("refusal", 422)]
    assert (call.route, world.router.second_opinions) == (world.route(first), 0)


def test_a_sick_second_worker_does_not_outvote_a_slow_first_one() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    call = world.submit()
    world.pass_time(5.1)
    blame(world, second)
    assert not call.outcomes
    world.answer(first)
    assert call.outcomes == [("result", b"[2]")]
    assert world.route(second).failures == 1


def test_what_was_slow_is_not_remembered_of_a_former_process() -> None:
    world = World(["a", "b"])
    world.route("a").slow_s = 0.005
    world.kill("a")
    world.connect("a")
    assert world.route("a").slow_s == 0.0
