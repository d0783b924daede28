"""A second attempt: when there is one, what it costs, and who is to blame."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway_app.core.attempts import REPLAY_BYTES
from gateway_app.core.breaker import BreakerConfig, State
from inference_site.lib.frames import Tell
from tests.gateway_app.core.fleet import PLAIN, World


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
    world.router.presence.another(world.route(first), 7)
    assert (world.state(first), world.route(first).pace.known) == (State.HALF_OPEN, False)  # it may be a better one
    world.answer(first, Tell.GONE, b"")
    assert call.sent_to == [world.route(first)] * 2
    assert call.number == 7
    world.answer(first)
    assert (call.outcomes, call.attempts) == ([("result", b"[2]")], 1)


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
