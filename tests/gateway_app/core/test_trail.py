"""The trail of a call: which workers were asked, why, and how each attempt ended."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gateway_app.core.call import Hedge
from gateway_app.core.trail import Trail
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.trace import Detail
from tests.gateway_app.core.fleet import PLAIN, QUICK, RecordingCall, World


class TracedCall(RecordingCall):
    __slots__ = ("trace",)


def submit(world: World, key: int = 1, payload: bytes = b"[1]", timeout_s: float = 0.0) -> tuple[RecordingCall, Trail]:
    call = TracedCall(key, payload, timeout_s)
    call.trace = trail = Trail(world.clock)
    world.calls.append(call)
    world.router.submit(call)
    return call, trail


def outcomes(trail: Trail) -> list[tuple[str, str]]:
    return [(each.worker, each.outcome) for each in trail.tries]


def test_an_answer_at_once():
    world = World(["a", "b", "c"])
    owner = world.owners()[0]
    _, trail = submit(world)
    sent_at = world.clock.now
    assert outcomes(trail) == [(owner, "")]
    world.clock.now += 0.25
    world.answer(owner, time_us=200_000)
    answer = trail.answer
    assert answer is not None
    assert (answer.worker, answer.why, answer.began, answer.ended) == (owner, "owner", sent_at, sent_at + 0.25)
    assert (answer.cache, answer.worker_s, answer.detail, trail.first_at) == (Cache.MISS, 0.2, None, sent_at)


def test_what_the_worker_says_of_it_is_kept_until_it_has_answered():
    world = World(["a"])
    call, trail = submit(world)
    trail.detailed(call, Detail(5, 6))
    world.answer("a")
    assert trail.answer is not None
    assert trail.answer.detail == Detail(5, 6)
    trail.detailed(call, Detail(7, 8))  # too late
    assert trail.answer.detail == Detail(5, 6)


def test_workers_that_are_full_then_one_that_fails_then_one_that_answers():
    world = World(["a", "b", "c", "d"])
    owners = world.owners()
    call, trail = submit(world)
    world.answer(owners[0], Tell.BUSY, b"", 3_200_000)
    world.answer(owners[1], Tell.FAILED, b"out of memory")
    world.answer(owners[2])
    assert outcomes(trail) == [(owners[0], "busy"), (owners[1], "failed"), (owners[2], "answered")]
    assert [each.reason for each in trail.tries] == ["3.2 s of work wait there", "out of memory", ""]
    assert trail.tries[1].why == f"next in line: {owners[0]}: it was asked before"
    assert trail.tries[2].why == f"next in line: {owners[0]}: it was asked before; {owners[1]}: it was asked before"
    assert call.outcomes == [("result", b"[2]")]


def test_a_worker_that_was_lost():
    world = World(["a", "b", "c"])
    owners = world.owners()
    _, trail = submit(world)
    world.kill(owners[0])
    world.answer(owners[1])
    assert outcomes(trail) == [(owners[0], "lost"), (owners[1], "answered")]
    assert trail.tries[0].reason == "the connection was lost"


def test_a_model_that_is_gone_and_a_time_that_is_over():
    world = World(["a", "b"])
    owners = world.owners()
    call, trail = submit(world)
    world.answer(owners[0], Tell.GONE, b"")
    world.answer(owners[1], Tell.EXPIRED, b"")
    assert outcomes(trail) == [(owners[0], "gone"), (owners[1], "expired")]
    assert call.error.status == 504
    assert trail.answer is None


def test_no_answer_in_time():
    world = World(["a"])
    _, trail = submit(world, timeout_s=1.0)
    world.pass_time(1.5)
    assert outcomes(trail) == [("a", "expired")]
    assert (trail.tries[0].reason, trail.tries[0].ended - trail.tries[0].began) == ("no answer in time", 1.5)


def test_a_hedge_that_is_quicker_and_one_that_is_not():
    for quicker in (0, 1):
        world = World(["a", "b", "c"], replace(PLAIN, hedging=True))
        first, second, _ = world.owners()
        for name in world.router.routes:
            world.pace(name, 0.01)
        _, trail = submit(world)
        world.pass_time(0.5)
        assert outcomes(trail) == [(first, ""), (second, "")]
        assert trail.tries[1].why == f"beside {first}, which takes long"
        winner, loser = (first, second) if quicker == 0 else (second, first)
        world.answer(winner)
        assert dict(outcomes(trail)) == {winner: "answered", loser: "hedged"}
        assert trail.answer is not None
        assert trail.answer.worker == winner
        assert trail.tries[1 - quicker].reason == f"{winner} was quicker"
        assert all(not isinstance(call, Hedge) for _, call in world.flying)


def test_a_refusal_is_an_answer_unless_another_worker_is_heard():
    world = World(["a", "b"])
    owners = world.owners()
    _, trail = submit(world)
    world.answer(owners[0], Tell.REFUSED, json.dumps({"error": "it has 3 values", "code": "shape"}).encode())
    assert trail.answer is not None
    assert trail.answer.reason == "it has 3 values"
    call, trail = submit(world)
    blame = json.dumps({"error": "no", "code": "model_refused_input"}, separators=(",", ":")).encode()
    world.answer(owners[0], Tell.REFUSED, blame)
    assert outcomes(trail) == [(owners[0], "failed"), (owners[1], "")]
    assert trail.tries[0].reason == "its model failed on this input"
    world.answer(owners[1])
    assert trail.answer is not None
    assert trail.answer.worker == owners[1]
    assert call.outcomes == [("result", b"[2]")]


def test_a_suspect_waits_for_its_turn():
    world = World(["a", "b"])
    owners = world.owners()
    one, one_trail = submit(world)
    other, other_trail = submit(world, 2, b"[2]")
    world.kill(owners[0])
    assert outcomes(one_trail) == [(owners[0], "lost"), (owners[1], "")]
    assert outcomes(other_trail) == [(owners[0], "lost")]  # one at a time
    began = world.clock.now
    world.clock.now += 0.3
    world.answer(owners[1])
    assert outcomes(other_trail)[-1] == (owners[1], "")
    world.answer(owners[1])
    assert one.outcomes == other.outcomes == [("result", b"[2]")]
    assert other_trail.first_at == began
    assert other_trail.answer is not None
    assert other_trail.answer.began == began + 0.3


def put_away(world: World, name: str, how: str) -> None:
    route = world.route(name)
    match how:
        case "OPEN":
            world.open(name)
        case "isolated":
            route.breaker.isolate(True)
        case "not connected":
            world.kill(name)
        case "draining":
            route.draining = True
        case "about to stop":
            route.leaving = True
        case "starting slowly":
            route.ramp_from = world.clock.now
        case _:
            route.up = False


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("OPEN", "its breaker is OPEN"),
        ("isolated", "it is isolated"),
        ("not connected", "it is not connected"),
        ("unloaded", "it has not got the model"),
        ("draining", "it is draining"),
        ("about to stop", "it is draining"),
        ("starting slowly", "it has just come back and gets only a part of its inputs yet"),
    ],
)
def test_why_the_owner_is_passed_over(how: str, says: str):
    world = World(["a", "b", "c"], replace(PLAIN, slow_start_s=10.0))
    key = 0xFFFF  # of those that come last to a worker that is starting
    first, second, _ = world.owners(key)
    put_away(world, first, how)
    _, trail = submit(world, key)
    assert trail.tries[0].worker == second
    assert trail.tries[0].why == f"next in line: {first}: {says}"


def test_why_a_call_is_spilled():
    world = World(["a", "b", "c"], replace(PLAIN, load_factor=1.25, load_floor=4))
    first, second, _ = world.owners()
    for _ in range(4):
        world.submit()
    _, trail = submit(world)
    assert trail.tries[0].worker == second
    assert trail.tries[0].why == f"spilled: {first}: it has 4 in flight, and from 4 on others help"


def test_of_many_that_are_passed_over_three_are_named():
    world = World([f"w{number}" for number in range(8)])
    owners = world.owners()
    for name in owners[:6]:
        world.route(name).draining = True
    _, trail = submit(world)
    named = "; ".join(f"{name}: it is draining" for name in owners[:3])
    assert trail.tries[0].why == f"next in line: {named}; and 3 more"


def test_why_says_that_a_call_is_a_trial():
    world = World(["a", "b"])
    first, _ = world.owners()
    world.open(first)
    world.pass_time(QUICK.open_s)
    _, trail = submit(world)
    assert trail.tries[0].worker == first
    assert trail.tries[0].why == "owner; it is on trial: its breaker is HALF_OPEN"


def test_a_refusal_that_can_not_be_read_is_an_answer_all_the_same():
    world = World(["a"])
    call, trail = submit(world)
    world.answer("a", Tell.REFUSED, b"garbage")
    assert outcomes(trail) == [("a", "answered")]
    assert trail.tries[0].reason == "garbage"
    assert call.outcomes == [("refusal", 200)]
