"""What a link makes of a worker's answers: late ones, damaged ones, and none."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest

from gateway_app.core.breaker import BreakerConfig
from gateway_app.core.trail import Trail
from inference_site.lib import frames
from inference_site.lib.asks import key_of
from inference_site.lib.frames import Ask, Cache, Tell
from inference_site.lib.trace import BatchRun, Detail
from tests.gateway_app.scripted import INFERENCES, KEYS, SEED, TIMEOUT_S, Bench, ScriptedWorker, WaitingCall, result
from tests.support.waiting import until


async def test_a_late_answer_is_dropped(bench: Bench) -> None:
    late = ScriptedWorker("a")
    late.answers = False
    link = await bench.connected("a", bench.serve(late).port)
    await bench.connected("b", bench.serve(ScriptedWorker("b")).port)
    call = bench.call([1, 2, 3, 4], first="a")
    bench.router.tick()
    assert not call.outcomes
    await until(lambda: late.asked)
    call.sent_at -= TIMEOUT_S / 2
    bench.router.tick()  # half of its time is over: a second worker is asked too
    assert await call.outcome() == ("result", b"[1, 2, 3, 4]")
    ((ident, text),) = late.asked
    await until(lambda: [each[2] for each in late.open[0].asks if each[0] == Ask.CANCEL] == [ident])
    await late.open[0].send(result(ident, text, b"[666]"))
    await asyncio.sleep(0.05)
    assert call.outcomes == [("result", b"[1, 2, 3, 4]")]
    assert link.routes[0].up
    assert link.routes[0].in_flight == link.in_flight == 0


async def test_only_what_has_waited_too_long_is_given_up(bench: Bench) -> None:
    silent = ScriptedWorker("a")
    silent.answers = False
    link = await bench.connected("a", bench.serve(silent).port)
    old = [bench.call([number, 0, 0, 0]) for number in range(3)]
    for call in old:
        call.deadline -= TIMEOUT_S
    new = [bench.call([number, 1, 0, 0]) for number in range(3)]
    bench.router.tick()
    assert [call.outcomes[0][1].code for call in old] == ["deadline_passed"] * 3
    assert not any(call.outcomes for call in new)
    assert link.in_flight == link.routes[0].in_flight == 3
    await until(lambda: sum(each[0] == Ask.CANCEL for each in silent.open[0].asks) == 3)
    left = [left_ms for kind, _, _, left_ms, _ in silent.open[0].asks if kind in INFERENCES]
    assert len(left) == 6
    assert all(TIMEOUT_S * 1000 - 1 <= each <= TIMEOUT_S * 1000 for each in left)


@pytest.mark.parametrize(
    "garbage",
    [
        b"x",
        b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
        frames.pack_tell_head(Tell.RESULT, 0, 200, 1, 10**6, 0, 0) + b"[1",
        frames.tell(Tell.STATS, 0, b"not json"),
        frames.tell(Tell.STATS, 0, b"[]"),
        frames.tell(Tell.TRACE, 1, b"not json"),
        frames.tell(Tell.TRACE, 1, b'{"queue_us": "long"}'),
    ],
)
async def test_garbage_is_a_failure_of_that_worker(bench: Bench, garbage: bytes) -> None:
    bad = ScriptedWorker("a")
    bad.answers = False
    bench.breaker = BreakerConfig(failure_threshold=100)
    link = await bench.connected("a", bench.serve(bad).port)
    await bench.connected("b", bench.serve(ScriptedWorker("b")).port)
    call = bench.call([1, 2, 3, 4], first="a")
    await until(lambda: bad.asked)
    await bad.connections[0].send(garbage)
    assert await call.outcome() == ("result", b"[1, 2, 3, 4]")
    assert link.routes[0].failures == 1
    assert link.routes[0].breaker.failures >= 1
    await until(lambda: len(bad.connections) == 4 and link.routes[0].up)  # it was cut and connected again
    assert link.routes[0].in_flight == 0


@pytest.mark.parametrize(("kind", "is_cut"), [(0, False), (9, False), (77, True)])
async def test_an_unknown_kind_of_answer_is_a_failure_of_that_worker(bench: Bench, kind: int, is_cut: bool) -> None:
    bad = ScriptedWorker("a")
    bad.answers = False
    link = await bench.connected("a", bench.serve(bad).port)
    await bench.connected("b", bench.serve(ScriptedWorker("b")).port)
    call = bench.call([1, 2, 3, 4], first="a")
    await until(lambda: bad.asked)
    await bad.connections[0].send(frames.tell(kind, bad.asked[0][0], b"[666]", 200))
    assert await call.outcome() == ("result", b"[1, 2, 3, 4]")
    assert link.routes[0].failures == 1
    assert (link.routes[0].up and len(bad.connections) == 2) != is_cut


async def test_a_late_answer_to_nothing_is_dropped(bench: Bench) -> None:
    worker = ScriptedWorker()
    link = await bench.connected("worker_1", bench.serve(worker).port)
    assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "result"
    await worker.connections[0].send(frames.tell(Tell.RESULT, 1, b"[666]", 200, Cache.HIT))
    await worker.connections[0].send(frames.tell(Tell.FAILED, 0, b"?", 503))
    assert await bench.call([5, 6, 7, 8]).outcome() == ("result", b"[5, 6, 7, 8]")
    assert link.routes[0].up
    assert link.routes[0].in_flight == link.routes[0].failures == 0


async def test_an_answer_to_what_was_never_asked_is_garbage(bench: Bench) -> None:
    worker = ScriptedWorker()
    link = await bench.connected("worker_1", bench.serve(worker).port)
    await worker.connections[0].send(frames.tell(Tell.RESULT, 4711, b"[666]", 200, Cache.HIT))
    await until(lambda: not link.routes[0].up)
    assert "4711" in link.last_error
    await until(lambda: link.routes[0].up)


@pytest.mark.parametrize("wrong", ["output", "request"])
async def test_a_result_that_is_damaged_or_another_requests_is_a_failure(bench: Bench, wrong: str) -> None:
    bad = ScriptedWorker("a")
    bad.answers = False
    link = await bench.connected("a", bench.serve(bad).port)
    await bench.connected("b", bench.serve(ScriptedWorker("b")).port)
    calls = [bench.call([number, 2, 3, 4], first="a") for number in range(2)]
    await until(lambda: len(bad.asked) == 2)
    (first, text), (second, other) = bad.asked
    if wrong == "request":
        await bad.connections[0].send(result(first, other, other) + result(second, text, text))
    else:
        damaged = frames.tell(Tell.RESULT, first, b"[666]", 200, check=frames.check_of(text, KEYS[text]))
        await bad.connections[0].send(damaged)
        await bad.connections[0].send(result(second, other, other))
    for number, call in enumerate(calls):
        assert await call.outcome() == ("result", json.dumps([number, 2, 3, 4]).encode())
    assert link.routes[0].failures == (2 if wrong == "request" else 1)


@pytest.mark.parametrize(
    "garbage",
    [
        {"kind": Tell.RESULT, "status": 200, "cache": 9, "payload": b"[5]"},
        {"kind": Tell.REFUSED, "status": 422, "payload": b"<html>"},
        {"kind": Tell.REFUSED, "status": 422, "payload": b""},
        {"kind": Tell.REFUSED, "status": 200, "payload": b'{"error":"e","code":"c"}'},
    ],
)
async def test_an_answer_that_makes_no_sense_is_a_failure(bench: Bench, garbage: dict[str, Any]) -> None:
    bad = ScriptedWorker("a")
    bad.answers = False
    link = await bench.connected("a", bench.serve(bad).port)
    await bench.connected("b", bench.serve(ScriptedWorker("b")).port)
    call = bench.call([1, 2, 3, 4], first="a")
    await until(lambda: bad.asked)
    ((ident, text),) = bad.asked
    check = frames.check_of(garbage["payload"], KEYS[text])
    await bad.connections[0].send(frames.tell(ident=ident, check=check, **garbage))
    assert await call.outcome() == ("result", b"[1, 2, 3, 4]")
    assert link.routes[0].failures == 1
    assert link.routes[0].up


async def test_a_late_answer_on_the_bulk_connection_is_not_taken_for_a_check(bench: Bench) -> None:
    worker = ScriptedWorker()
    worker.answers = False
    link = await bench.connected("worker_1", bench.serve(worker).port)
    large = bench.call(b"[" + b"1," * frames.BULK_BYTES + b"1]")
    await until(lambda: worker.asked)
    bulk = next(connection for connection in worker.connections if connection.bulk)
    ((ident, _),) = bulk.infers()
    bench.router.cancel(large)
    link.tick(0.0)  # the first check is due at once
    small = next(connection for connection in worker.connections if not connection.bulk)
    await until(lambda: [ask for ask in small.asks if ask[0] == Ask.CHECK])
    assert [ask[2] for ask in small.asks if ask[0] == Ask.CHECK] == [ident]
    await bulk.send(frames.tell(Tell.FAILED, ident, b"the answer to what was cancelled"))
    await bulk.send(frames.tell(Tell.STATS, 0, b"{}"))
    await until(lambda: link.stats is not None)
    assert link.routes[0].breaker.failures == 0
    await small.send(frames.tell(Tell.FAILED, ident, b"the model is broken"))
    await until(lambda: link.routes[0].breaker.failures == 1)
    assert link.routes[0].breaker.last_error == "the model is broken"


async def test_ids_that_start_again_are_not_mistaken_for_other_frames(bench: Bench) -> None:
    worker = ScriptedWorker()
    worker.answers = False
    link = await bench.connected("worker_1", bench.serve(worker).port)
    link._channels[0]._last_id = 2**32 - 1  # as after 4 thousand million requests
    call = bench.call([1, 2, 3, 4])
    await until(lambda: worker.asked)
    await worker.connections[0].send(frames.tell(Tell.STATS, 0, b'{"node_id":"worker_1"}'))
    await until(lambda: link.stats or call.outcomes)
    assert not call.outcomes
    await worker.connections[0].send(result(*worker.asked[0], b"[5]"))
    assert await call.outcome() == ("result", b"[5]")


class TracedCall(WaitingCall):
    """One whose way is noted."""

    __slots__ = ("trace",)


async def test_what_a_worker_says_of_a_traced_call(bench: Bench) -> None:
    worker = ScriptedWorker("a")
    worker.answers = False
    await bench.connected("a", bench.serve(worker).port)
    plain = bench.call([1, 2, 3, 4])
    call = TracedCall(key_of(b"[5]", SEED), b"[5]")
    call.trace = trail = Trail(time.monotonic)
    bench.router.submit(call)
    await until(lambda: len(worker.asked) == 2)
    (connection,) = [each for each in worker.open if each.infers()]
    kinds = {ident: kind for kind, _, ident, _, _ in connection.asks if kind in INFERENCES}
    (first, second) = (ident for ident, _ in worker.asked)
    assert kinds == {first: Ask.INFER, second: Ask.EXPLAIN}
    detail = Detail(10, 20, BatchRun(3, 2, 2, "full", 1))
    told = msgspec.json.encode(detail)
    # Of one that is not traced, and of one that nobody waits for: both say nothing.
    await connection.send(frames.tell(Tell.TRACE, first, told) + frames.tell(Tell.TRACE, 999, told))
    await connection.send(frames.tell(Tell.TRACE, second, told) + result(second, b"[5]", b"[6]"))
    await connection.send(result(first, b"[1, 2, 3, 4]", b"[7]"))
    assert await plain.outcome() == ("result", b"[7]")
    assert await call.outcome() == ("result", b"[6]")
    assert trail.answer is not None
    assert (trail.answer.worker, trail.answer.detail) == ("a", detail)


async def test_a_traced_call_that_is_watched_runs_first(bench: Bench) -> None:
    worker = ScriptedWorker("a")
    await bench.connected("a", bench.serve(worker).port)
    call = TracedCall(key_of(b"[5]", SEED), b"[5]")
    call.trace = Trail(time.monotonic)
    bench.router.suspects.lost(call.key, call.payload, "b", alone=False)
    bench.router.submit(call)
    assert await call.outcome() == ("result", b"[5]")
    assert [kind for each in worker.connections for kind, *_ in each.asks if kind in INFERENCES] == [Ask.EXPLAIN_FIRST]
