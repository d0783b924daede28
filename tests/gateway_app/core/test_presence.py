"""Workers that come, go and come back: what becomes of their calls, and what is known of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway_app.core.breaker import Cause, State
from inference_site.lib.frames import Tell
from tests.gateway_app.core.fleet import PATIENT, PLAIN, QUICK, World


def test_a_worker_is_met_before_it_has_the_model() -> None:
    world = World(["a", "b"])
    route = world.route("a")
    world.kill("a")
    world.open("a")
    assert world.router.presence.met(route, "another process")
    assert (world.state("a"), route.up) == (State.HALF_OPEN, False)


@pytest.mark.parametrize("trouble", ["silent", "unreachable"])
def test_a_worker_that_is_connected_again_need_not_wait_for_its_breaker(trouble: str) -> None:
    world = World(["a", "b"])
    route = world.route("a")
    if trouble == "silent":
        world.router.presence.silent(route, "nothing was heard")
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


def test_what_was_slow_is_not_remembered_of_a_former_process() -> None:
    world = World(["a", "b"])
    world.route("a").slow_s = 0.005
    world.kill("a")
    world.connect("a")
    assert world.route("a").slow_s == 0.0
