"""Inputs that end workers, and those that were beside them."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_app.core import suspects as suspects_module
from gateway_app.core.quarantine import PATIENCE
from gateway_app.core.suspects import REFUSE_S, WATCH_S, Suspects, Verdict
from inference_site.lib.frames import Tell
from tests.gateway_app.core.fleet import PATIENT, PLAIN, Clock, RecordingCall, World

CALM = replace(PLAIN, breaker=PATIENT)
KILLER = b"[666]"


def keys_of(world: World, owner: str, count: int) -> list[int]:
    """Different keys of one worker."""
    found = [key for key in range(1, 2**64, 2**54) if world.owners(key)[0] == owner]
    return found[:count]


def test_one_loss_makes_a_suspect_two_alone_a_culprit_once_its_process_is_known_to_have_ended_of_it():
    suspects = Suspects(Clock())
    assert suspects.verdict(1, KILLER) is Verdict.CLEAR
    suspects.lost(1, KILLER, "a", alone=False)
    assert suspects.verdict(1, KILLER) is Verdict.SUSPECT
    suspects.lost(1, KILLER, "b", alone=True)
    assert suspects.verdict(1, KILLER) is Verdict.PENDING
    suspects.ended("a", None)
    assert suspects.verdict(1, KILLER) is Verdict.PENDING
    suspects.ended("b", 1)
    assert suspects.verdict(1, KILLER) is Verdict.GUILTY
    assert suspects.verdict(1, b"[1]") is Verdict.CLEAR  # a near twin: the same hash


def test_any_number_of_losses_beside_others_makes_no_culprit():
    suspects = Suspects(Clock())
    for worker in "abcdef":
        suspects.lost(1, b"[1]", worker, alone=False)
        suspects.ended(worker, 1)
        assert suspects.verdict(1, b"[1]") is Verdict.SUSPECT


@pytest.mark.parametrize("running", [None, 2])
def test_whose_process_ended_of_something_else_is_no_culprit(running: int | None):
    suspects = Suspects(Clock())
    suspects.lost(1, b"[1]", "a", alone=False)
    suspects.lost(1, b"[1]", "b", alone=True)
    suspects.ended("b", running)
    assert suspects.verdict(1, b"[1]") is Verdict.SUSPECT
    suspects.ended("a", 1)
    assert suspects.verdict(1, b"[1]") is Verdict.SUSPECT  # it was in a batch there, beside others


def test_a_process_that_lives_was_not_ended_by_anybody():
    suspects = Suspects(Clock())
    suspects.lost(1, b"[1]", "a", alone=False)
    suspects.lost(1, b"[1]", "b", alone=True)
    suspects.lost(2, b"[2]", "b", alone=False)
    suspects.lives("b")
    assert suspects.verdict(1, b"[1]") is Verdict.SUSPECT
    assert suspects.verdict(2, b"[2]") is Verdict.CLEAR
    suspects.lives("a")
    assert suspects.watching == 0


def test_time_forgets():
    clock = Clock()
    suspects = Suspects(clock)
    suspects.lost(1, b"[1]", "a", alone=False)
    clock.now += WATCH_S - 1
    assert suspects.verdict(1, b"[1]") is Verdict.SUSPECT
    suspects.lost(1, b"[1]", "b", alone=True)
    suspects.ended("a", None)
    suspects.ended("b", 1)
    clock.now += REFUSE_S - 1
    assert suspects.verdict(1, b"[1]") is Verdict.GUILTY
    clock.now += 1
    assert suspects.verdict(1, b"[1]") is Verdict.CLEAR
    assert suspects.watching == 0


def test_what_is_watched_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(suspects_module, "MAX_WATCHED", 10)
    suspects = Suspects(Clock())
    for key in range(30):
        suspects.lost(key, b"[1]", "a", alone=False)
    assert suspects.watching == 10
    assert suspects.verdict(29, b"[1]") is Verdict.SUSPECT


# With the router.


def test_an_input_that_ends_workers_ends_two_and_all_others_are_answered():
    world = World(["a", "b", "c"], CALM)
    first = world.owners()[0]
    innocent = [world.submit(key) for key in keys_of(world, first, 12)]
    killer = world.submit(payload=KILLER)
    dead = []
    while any(link.calls for link in world.links):
        for link in [link for link in world.links if link.calls]:
            if killer in link.calls:
                dead.append(link.route.name)
                world.break_link(link)
            else:
                world.tell(link, link.calls[0], Tell.RESULT)
    assert len(dead) == 2
    assert all(call.outcomes == [("result", b"[2]")] for call in innocent)
    assert (killer.error.status, killer.error.code) == (503, "input_under_suspicion")
    assert world.submit(payload=KILLER).error.code == "input_under_suspicion"
    for name in dead:
        world.connect(name, last_run=killer.key if name == dead[1] else None)
    again = world.submit(payload=KILLER)
    assert (again.error.status, again.error.code, again.sent_to) == (422, "input_ends_workers", [])
    assert world.router.suspects_refused == 3
    assert world.submit(payload=b"[667]").sent_to  # its near twin is not refused


def test_the_same_input_asked_for_several_times_ends_two_workers_all_the_same():
    world = World(["a", "b", "c", "d"], CALM)
    calls = [world.submit(payload=KILLER, timeout_s=5.0 - number) for number in range(4)]
    dead = 0
    while carriers := [link for link in world.links if link.calls]:
        assert len(carriers) == 1
        world.break_link(carriers[0])
        dead += 1
    assert dead == 2
    world.pass_time(0.025)
    assert [call.error.code for call in calls] == ["input_under_suspicion"] * 4


def test_a_second_attempt_under_way_is_a_suspect_as_soon_as_the_first_is_lost():
    world = World(["a", "b", "c"], CALM)
    first, second, third = world.owners()
    killer = world.submit(payload=KILLER)
    world.pass_time(5.1)
    assert [len(world.link(name).calls) for name in (first, second, third)] == [1, 1, 0]
    other = world.submit(keys_of(world, first, 1)[0] + 1)
    world.kill(first)
    assert world.link(third).calls == [other]  # the killer's second attempt has the other place
    world.kill(second)
    assert killer.error.code == "input_under_suspicion"
    world.answer(third)
    assert other.outcomes == [("result", b"[2]")]


def test_a_suspect_gets_no_second_attempt_beside_the_first():
    world = World(["a", "b", "c"], CALM)
    world.submit(payload=KILLER)
    world.kill(world.owners()[0])
    world.pass_time(6.0)
    assert world.router.hedges == 0
    assert sum(len(link.calls) for link in world.links) == 1


def test_a_connection_that_broke_under_a_process_that_lives_accuses_nobody():
    world = World(["a", "b"], CALM)
    first, second = world.owners()
    calls = [world.submit(key) for key in keys_of(world, first, 20)]
    world.kill(first)
    assert len(world.link(second).calls) == 1
    assert world.router.in_flight == 20
    world.reconnect(first)
    assert len(world.link(second).calls) == 20  # no need for one at a time
    for _ in calls:
        world.answer(second)
    assert all(call.outcomes == [("result", b"[2]")] for call in calls)


def test_suspects_go_to_a_worker_that_is_drained_if_nobody_else_is_left():
    world = World(["a", "b"], CALM)
    first, second = world.owners()
    calls = [world.submit(key) for key in keys_of(world, first, 3)]
    world.route(second).draining = True
    world.kill(first)
    for call in calls:
        assert world.link(second).calls == [call]
        world.answer(second)
    assert world.router.in_flight == 0


def test_suspects_do_not_wait_for_a_breaker_when_nobody_else_is_left():
    world = World(["a", "b"])
    first, second = world.owners()
    calls = [world.submit(key) for key in keys_of(world, first, 3)]
    world.open(second)
    world.kill(first)
    for call in calls:
        assert world.link(second).calls == [call]
        world.answer(second)


def test_suspects_that_wait_are_told_when_their_time_is_over():
    world = World(["a", "b"], CALM)
    first, _ = world.owners()
    calls = [world.submit(key, timeout_s=2.0) for key in keys_of(world, first, 5)]
    world.kill(first)
    world.pass_time(2.01)
    assert [call.error.code for call in calls] == ["deadline_passed"] * 5
    assert world.router.in_flight == 0


def test_a_client_of_a_waiting_suspect_may_leave():
    world = World(["a", "b"], CALM)
    first, second = world.owners()
    running, waiting, last = (world.submit(key) for key in keys_of(world, first, 3))
    world.kill(first)
    world.cancel(waiting)
    world.answer(second)
    assert world.link(second).calls == [last]
    assert running.outcomes
    assert not waiting.outcomes


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway_app.core.quarantine.MAX_IN_FLIGHT", 5)
    world = World(["a", "b"], CALM)
    first, _ = world.owners()
    calls = [world.submit(key) for key in keys_of(world, first, 10)]
    world.kill(first)
    assert len(world.router.quarantine.waiting) == 5
    assert sum(bool(call.outcomes) for call in calls) == 4


def test_a_thousand_lost_requests_are_replayed_at_little_cost():
    def replay(count: int) -> float:
        world = World(["a", "b", "c"], CALM)
        first = world.owners()[0]
        calls = [world.submit(key) for key in keys_of(world, first, count)]
        assert len(calls) == count
        world.kill(first)
        began = time.process_time()
        while busy := [link for link in world.links if link.calls]:
            world.tell(busy[0], busy[0].calls[0], Tell.RESULT)
        took = time.process_time() - began
        assert all(call.outcomes == [("result", b"[2]")] for call in calls)
        return took

    replay(10)
    # Not with the square of their number; a busy machine may make any of them look so.
    assert any(replay(300) < 40 * max(replay(30), 0.001) for _ in range(10))


class Fleet(World):
    """Workers that end when they are given a killer, and come back later."""

    def __init__(self, names: list[str], killers: set[int]) -> None:
        super().__init__(names, CALM)
        self.killers = killers
        self.ended: dict[int, int] = {}

    def turn(self, link_number: int) -> None:
        """One worker answers its oldest request, or ends."""
        busy = [link for link in self.links if link.calls]
        if busy:
            link = busy[link_number % len(busy)]
            call = link.calls[0]
            if call.key in self.killers:
                self.ended[call.key] = self.ended.get(call.key, 0) + 1
                self.break_link(link)
            else:
                self.tell(link, call, Tell.RESULT)


@given(
    st.lists(st.tuples(st.sampled_from(["submit", "turn", "turn", "back", "tick"]), st.integers(0, 50)), max_size=120),
    st.sets(st.integers(0, 30), max_size=2),
)
@settings(max_examples=100, deadline=None)
def test_no_input_ends_more_than_two_workers(steps: list[tuple[str, int]], killers: set[int]):
    """Whatever is asked for beside it, as long as it is the only one that ends workers."""
    world = Fleet(["a", "b", "c", "d"], {next(iter(killers))} if killers else set())
    calls: list[RecordingCall] = []
    for step, number in steps:
        if step == "submit":
            calls.append(world.submit(number % 31))
        elif step == "turn":
            world.turn(number)
        elif step == "back":
            for name in [name for name, route in world.router.routes.items() if not route.up]:
                world.connect(name)
        else:
            world.pass_time(0.025)
    assert all(count <= 2 for count in world.ended.values())
    for call in calls:
        if call.outcomes and call.key not in world.killers:
            assert call.outcomes[0][0] == "result" or call.error.code in ("no_worker_available", "workers_failed")


def test_suspects_of_a_slow_model_do_not_wait_for_each_other_until_their_time_is_over():
    world = World(["a", "b"], CALM)
    first, second = world.owners()
    calls = [world.submit(key) for key in keys_of(world, first, 20)]
    world.kill(first)
    assert world.link(second).calls == calls[:1]
    world.pass_time(10.0 * PATIENCE)
    assert world.link(second).calls == calls
    for _ in calls:
        world.answer(second)
    assert all(call.outcomes == [("result", b"[2]")] for call in calls)


def test_suspects_are_not_let_go_together_because_this_loop_was_held_up():
    world = World(["a", "b"], CALM)
    first, second = world.owners()
    calls = [world.submit(key) for key in keys_of(world, first, 5)]
    world.kill(first)
    world.pass_time(5.0, late_s=5.0)
    assert world.link(second).calls == calls[:1]  # what became of it is not read yet
    world.pass_time(10.0 * PATIENCE)
    assert world.link(second).calls == calls


def test_a_suspect_that_nobody_can_take_is_not_kept_beyond_its_patience_or_its_time():
    world = World(["a", "b", "c"], CALM)
    first, second, _ = world.owners()
    calls = [world.submit(key) for key in keys_of(world, first, 4)]
    world.route(second).draining = True
    world.kill(first)
    kept = [call for call in calls if not any(call in link.calls for link in world.links)]
    assert kept
    for _ in range(100):
        world.pass_time(0.025)
    assert all(any(call in link.calls for link in world.links) for call in calls)
    world.pass_time(10.0)
    assert all(call.outcomes for call in calls)
