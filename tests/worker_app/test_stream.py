"""The worker's end of the stream: requests, answers, and what travels beside them."""

import asyncio
import json

import pytest

from inference_site.lib import frames
from inference_site.lib.frames import Ask, Cache, Tell
from tests.support.waiting import PATIENCE_S
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_node
from tests.worker_app.gateway_side import Connect, answer_to, infer, proven, the_model
from worker_app import stream as stream_module


async def test_requests_are_answered_under_their_ids(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node()))
    side.give(infer(7, 1, 2, 3, 4) + infer(9, 5, 6, 7, 8) + infer(8, 1))
    await side.until(lambda: len(side.of(Tell.RESULT, Tell.REFUSED)) == 3)
    results = {reply[3]: reply for reply in side.of(Tell.RESULT)}
    assert results[7][5] == answer_to(1, 2, 3, 4)
    assert results[9][5] == answer_to(5, 6, 7, 8)
    assert results[7][1:3] == (Cache.MISS, 200)
    (refusal,) = side.of(Tell.REFUSED)
    assert refusal[2:4] == (422, 8)
    side.give(infer(10, 1, 2, 3, 4))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 3)
    assert side.of(Tell.RESULT)[2][1] == Cache.HIT


async def test_what_is_ready_together_leaves_as_one_message(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node()))
    side.give(b"".join(infer(number, number % 10, 0, 0, 0) for number in range(30)))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 30)
    with_results = [each for each in side.messages if any(reply[0] == Tell.RESULT for reply in frames.tells(each))]
    assert len(with_results) == 1
    side.give(b"".join(infer(number, number % 10, 0, 0, 0) for number in range(100, 130)))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 60)
    with_results = [each for each in side.messages if any(reply[0] == Tell.RESULT for reply in frames.tells(each))]
    assert len(with_results) == 2


async def test_statistics_come_at_once_and_again(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "STATS_EVERY_S", 0.03)
    node = echo_node(name="worker_3")
    side = await proven(connect, node)
    await side.until(lambda: len(side.of(Tell.STATS)) >= 3)
    stats = json.loads(side.of(Tell.STATS)[0][5])
    assert (stats["node_id"], stats["total_requests"]) == ("worker_3", 0)


async def test_a_bulk_stream_carries_answers_but_no_statistics(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "STATS_EVERY_S", 0.01)
    side = await proven(connect, start(echo_node()), bulk=True)
    side.give(infer(1, 1, 2, 3, 4))
    await side.until(lambda: side.of(Tell.RESULT))
    await asyncio.sleep(0.05)
    assert not side.of(Tell.STATS)


async def test_many_large_answers_leave_as_several_messages(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "MESSAGE_BYTES", 3000)
    node = echo_node(EchoEngine(values=None), batch_size=20)
    side = await proven(connect, node)
    sizes = [1, 400, 20, 1000, 1, 1, 300, 300, 300, 5]
    side.give(b"".join(infer(ident, *[ident] * size) for ident, size in enumerate(sizes)))
    await side.until(lambda: node.in_flight == 10)
    start(node)
    await side.until(lambda: len(side.of(Tell.RESULT)) == 10)
    results = [message for message in side.messages if frames.tells(message)[0][0] == Tell.RESULT]
    assert all(len(message) <= 3000 or len(frames.tells(message)) == 1 for message in results)
    assert 3 < len(results) < 8
    assert {reply[3]: reply[5] for reply in side.of(Tell.RESULT)} == {
        ident: answer_to(*[ident] * size) for ident, size in enumerate(sizes)
    }


async def test_draining_is_told_and_requests_are_still_answered(connect: Connect, start: Start) -> None:
    node = start(echo_node())
    side = await proven(connect, node)
    node.drain()
    await side.until(lambda: side.of(Tell.DRAINING))
    side.give(infer(1, 1, 2, 3, 4))
    await side.until(lambda: side.of(Tell.RESULT))
    assert (await connect(node).hello()).draining


async def test_a_gateway_that_leaves_mid_request_disturbs_nobody(connect: Connect, start: Start) -> None:
    node = start(echo_node(EchoEngine(takes_s=0.05)))
    leaver, stayer = await proven(connect, node), await proven(connect, node)
    leaver.give(infer(1, 1, 2, 3, 4))
    stayer.give(infer(2, 1, 2, 3, 4))
    await stayer.until(lambda: node.in_flight)
    leaver.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await asyncio.wait_for(leaver.task, PATIENCE_S)
    await stayer.until(lambda: stayer.of(Tell.RESULT))
    assert len(node.gateways) == 1
    assert node.in_flight == 0


async def test_what_a_gateway_that_leaves_had_waiting_is_not_run(connect: Connect, start: Start) -> None:
    engine = EchoEngine()
    node = echo_node(engine)
    leaver, stayer = await proven(connect, node), await proven(connect, node)
    leaver.give(b"".join(infer(ident, ident, 2, 3, 4) for ident in range(1, 9)))
    stayer.give(infer(1, 1, 2, 3, 4) + infer(2, 20, 2, 3, 4))
    await stayer.until(lambda: node.in_flight == 9)
    leaver.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await asyncio.wait_for(leaver.task, PATIENCE_S)
    assert (node.in_flight, the_model(node).tally.abandoned) == (2, 7)
    start(node)
    await stayer.until(lambda: len(stayer.of(Tell.RESULT)) == 2)
    assert engine.ran == 2


async def test_cancelled_requests_get_no_reply_and_are_not_run(connect: Connect, start: Start) -> None:
    engine = EchoEngine()
    node = echo_node(engine)
    side = await proven(connect, node)
    side.give(b"".join(infer(ident, ident, 2, 3, 4) for ident in range(1, 5)))
    side.give(frames.ask(Ask.CANCEL, 2, b"") + frames.ask(Ask.CANCEL, 4, b"") + frames.ask(Ask.CANCEL, 77, b""))
    await side.until(lambda: the_model(node).tally.abandoned == 2)
    start(node)
    await side.until(lambda: len(side.of(Tell.RESULT)) == 2)
    side.give(frames.ask(Ask.CANCEL, 1, b"") + infer(5, 5, 2, 3, 4))  # too late: nothing happens
    await side.until(lambda: len(side.of(Tell.RESULT)) == 3)
    assert [reply[3] for reply in side.of(Tell.RESULT)] == [1, 3, 5]
    assert engine.ran == 3


async def test_a_ping_is_answered_while_the_engine_is_busy(connect: Connect, start: Start) -> None:
    engine = EchoEngine()
    engine.hold()
    side = await proven(connect, start(echo_node(engine)))
    side.give(infer(1, 1, 2, 3, 4))
    await side.until(lambda: engine.runs)
    side.give(frames.ask(Ask.PING, 9, b""))
    await side.until(lambda: side.of(Tell.PONG))
    assert [reply[3] for reply in side.of(Tell.PONG)] == [9]
    assert not side.of(Tell.RESULT)
    engine.release()
    await side.until(lambda: side.of(Tell.RESULT))


async def test_large_bodies_in_a_row_leave_a_turn_to_other_streams(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(echo_node())
    bulk, small = await proven(connect, node, bulk=True), await proven(connect, node)
    read: list[int] = []

    def put(kind: Tell, ident: int, payload: bytes) -> None:
        if kind is Tell.PONG:
            read.append(the_model(node).tally.requests)

    monkeypatch.setattr(small.stream, "_put", put)
    for number in range(5):
        bulk.give(infer(number, float(number)))
    small.give(frames.ask(Ask.PING, 1, b""))
    await small.until(lambda: read)
    assert read[0] < 5


async def test_a_check_is_answered_under_its_id(connect: Connect, start: Start) -> None:
    engine = EchoEngine()
    node = echo_node(engine)
    side = await proven(connect, node)
    side.give(infer(1, 0, 0, 0, 0) + frames.ask(Ask.CHECK, 2, b"", 60_000, 1) + frames.ask(Ask.CHECK, 3, b"", 1, 1))
    side.give(frames.ask(Ask.CHECK, 4, b"", 0, 1) + frames.ask(Ask.CANCEL, 4, b""))
    await side.until(lambda: the_model(node).tally.abandoned == 1)
    await asyncio.sleep(0.005)
    start(node)
    await side.until(lambda: len(side.of(Tell.RESULT)) == 2)
    assert {reply[3]: reply[5] for reply in side.of(Tell.RESULT)} == {1: answer_to(0, 0, 0, 0), 2: b""}
    assert [reply[3] for reply in side.of(Tell.EXPIRED)] == [3]
    assert engine.ran == 2


async def test_a_very_long_time_is_told_as_the_longest_that_there_is_room_for(connect: Connect) -> None:
    node = echo_node()
    side = await proven(connect, node)
    side.stream._reply((1, 0), Tell.RESULT, Cache.MISS, 200, b"[1.0]", 2**40)
    await side.until(lambda: side.of(Tell.RESULT))
    assert side.of(Tell.RESULT)[0][4] == 2**32 - 1


async def test_a_request_says_how_long_it_may_wait(connect: Connect, start: Start) -> None:
    node = echo_node()
    side = await proven(connect, node)
    side.give(infer(1, 1, 2, 3, 4, left_ms=1) + infer(2, 2, 2, 3, 4, left_ms=60_000))
    await side.until(lambda: node.in_flight == 2)
    await asyncio.sleep(0.005)
    start(node)
    await side.until(lambda: side.of(Tell.RESULT))
    assert [reply[3] for reply in side.of(Tell.EXPIRED)] == [1]
    assert side.of(Tell.EXPIRED)[0][5] == b""


async def test_two_gateways_with_the_same_ids_get_their_own_answers(connect: Connect, start: Start) -> None:
    node = start(echo_node())
    sides = [await proven(connect, node) for _ in range(3)]
    for number, side in enumerate(sides):
        side.give(b"".join(infer(ident, number, ident, 0, 0) for ident in range(50)))
    for number, side in enumerate(sides):
        await side.until(lambda side=side: len(side.of(Tell.RESULT)) == 50)  # type: ignore[misc]
        for reply in side.of(Tell.RESULT):
            assert reply[5] == answer_to(number, reply[3], 0, 0)


async def test_a_large_answer_is_not_copied_where_the_server_takes_it_in_parts(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "MESSAGE_BYTES", 3000)
    node = start(echo_node(EchoEngine(values=None)))
    side = connect(node, parts=True)
    side.give(await side.proof("secret") + infer(1, *[1.0] * 5) + infer(2, *[2.0] * 2000) + infer(3, *[3.0] * 5))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 3)
    (large,) = (message for message in side.sent if "parts" in message)
    assert [reply[3] for reply in frames.tells(b"".join(large["parts"]))] == [2]
    assert {reply[3]: reply[5] for reply in side.of(Tell.RESULT)}[2] == answer_to(*[2.0] * 2000)


async def test_an_answer_that_no_message_can_hold_is_refused(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = len(answer_to(1, 1, 1))
    monkeypatch.setattr(stream_module, "_LONGEST_RESULT", longest)
    side = await proven(connect, start(echo_node(EchoEngine(values=None))))
    side.give(infer(1, 1, 1, 1) + infer(2, 1, 1, 1, 1))
    await side.until(lambda: len(side.of(Tell.RESULT, Tell.REFUSED)) == 2)
    (refused,) = side.of(Tell.REFUSED)
    body = json.loads(refused[5])
    assert (refused[3], refused[2], body["code"]) == (2, 422, "answer_too_large")
    assert f"has {len(answer_to(1, 1, 1, 1))} bytes, {longest} can be sent" in body["error"]
