"""The worker's end of the stream, driven as an ASGI server drives it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from inference_site.lib import asks, frames, handoff, handshake
from inference_site.lib.catalog import Models, ModelSettings
from inference_site.lib.frames import Ask, Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from inference_site.streaming import PARTS
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo, echo_node
from tests.worker_app.file_engine import Shelf
from tests.worker_app.file_engine import answer as word
from worker_app import stream as stream_module
from worker_app.model import Model
from worker_app.node import Node
from worker_app.stream import Stream

CHALLENGE = "c" * 32
Reply = tuple[int, int, int, int, int, bytes, int]


class GatewaySide:
    """The gateway's end: what the worker sent, as messages and as frames."""

    def __init__(self, node: Node, token: str, *, bulk: bool = False, parts: bool = False) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.incoming.put_nowait({"type": "websocket.connect"})
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/stream",
            "query_string": b"bulk" if bulk else b"",
            "headers": [(handshake.CHALLENGE_HEADER.encode(), CHALLENGE.encode())],
            "extensions": {PARTS: {}} if parts else None,
        }
        self.node = node
        self.stream = Stream(node, token, self.send, bulk=bulk, max_ask_bytes=123)
        self.task = asyncio.create_task(self.stream.serve(scope, self.incoming.get))

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def give(self, data: bytes) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "bytes": data})

    @property
    def messages(self) -> list[bytes]:
        return [
            message["bytes"] if "bytes" in message else b"".join(message["parts"])
            for message in self.sent
            if message["type"] == "websocket.send"
        ]

    @property
    def replies(self) -> list[Reply]:
        return [reply for message in self.messages for reply in frames.tells(message)]

    def of(self, *kinds: Tell) -> list[Reply]:
        return [reply for reply in self.replies if reply[0] in kinds]

    @property
    def close_code(self) -> int | None:
        return next((message["code"] for message in self.sent if message["type"] == "websocket.close"), None)

    async def until(self, condition: Callable[[], object], within_s: float = 3.0) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.002)

    async def hello(self) -> handshake.Hello:
        await self.until(lambda: self.of(Tell.HELLO))
        return msgspec.json.decode(self.of(Tell.HELLO)[0][5], type=handshake.Hello)

    async def proof(self, token: str) -> bytes:
        return frames.ask(Ask.PROOF, 0, handshake.gateway_proof(token, (await self.hello()).challenge).encode())

    async def end(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self.task


Connect = Callable[..., GatewaySide]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    sides: list[GatewaySide] = []

    def make(node: Node, token: str = "secret", **more: Any) -> GatewaySide:
        sides.append(GatewaySide(node, token, **more))
        return sides[-1]

    yield make
    for side in sides:
        await side.end()


def infer(ident: int, *values: float, left_ms: int = 0, model: int = 1) -> bytes:
    return frames.ask(Ask.INFER, ident, json.dumps(values).encode(), left_ms, model)


def the_model(node: Node) -> Model:
    return node.models[1]


def answer_to(*values: float) -> bytes:
    return echo(np.array(values, "f4").tobytes())


async def proven(connect: Connect, node: Node, **more: Any) -> GatewaySide:
    side = connect(node, **more)
    side.give(await side.proof("secret"))
    await side.until(lambda: node.gateways)
    return side


async def test_the_greeting_proves_who_is_there(connect: Connect) -> None:
    node = echo_node(name="worker_7")
    side = connect(node)
    hello = await side.hello()
    assert side.sent[0] == {"type": "websocket.accept"}
    assert (hello.node_id, hello.instance) == ("worker_7", node.instance)
    assert hello.version == frames.PROTOCOL_VERSION
    assert hello.proof == handshake.worker_proof("secret", CHALLENGE, "worker_7", node.instance)
    assert not hello.draining
    assert hello.challenge != (await connect(node).hello()).challenge


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


@pytest.mark.parametrize("token", ["", "wrong", "secret "])
async def test_a_wrong_token_is_closed_with_4401_and_nothing_answered(
    connect: Connect, start: Start, token: str
) -> None:
    engine = EchoEngine()
    node = start(echo_node(engine))
    side = connect(node)
    orders = frames.ask(Ask.SETTINGS, 0, msgspec.json.encode(NodeSettings(revision=9)))
    side.give(await side.proof(token) + orders + infer(1, 1, 2, 3, 4))
    await side.until(lambda: side.close_code)
    await asyncio.wait_for(side.task, 1)
    assert side.close_code == 4401
    assert [reply[0] for reply in side.replies] == [Tell.HELLO]
    assert (the_model(node).tally.requests, engine.ran, node.settings.revision) == (0, 0, 0)
    assert not node.gateways


@pytest.mark.parametrize(
    "first",
    [
        infer(1, 1, 2, 3, 4),
        frames.ask(Ask.SETTINGS, 0, b"{}"),
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        frames.ask(Ask.PROOF, 0, b"\xff\xfe"),
        frames.ask(Ask.PROOF, 0, b""),
    ],
)
async def test_without_a_proof_nothing_is_done(connect: Connect, first: bytes) -> None:
    node = echo_node()
    side = connect(node)
    await side.hello()
    side.give(first)
    await side.until(lambda: side.close_code)
    assert side.close_code == 4401
    assert the_model(node).tally.requests == 0


async def test_a_proof_for_another_connection_is_worth_nothing(connect: Connect) -> None:
    node = echo_node()
    one, other = connect(node), connect(node)
    other.give(await one.proof("secret"))
    await other.until(lambda: other.close_code)
    assert other.close_code == 4401


async def test_a_proof_under_another_kind_is_none(connect: Connect) -> None:
    side = connect(echo_node())
    side.give(frames.ask(Ask.INFER, 0, handshake.gateway_proof("secret", (await side.hello()).challenge).encode()))
    await side.until(lambda: side.close_code)
    assert side.close_code == 4401


async def test_the_workers_own_proof_sent_back_is_worth_nothing(connect: Connect) -> None:
    side = connect(echo_node())
    side.give(frames.ask(Ask.PROOF, 0, (await side.hello()).proof.encode()))
    await side.until(lambda: side.close_code)
    assert side.close_code == 4401


async def test_a_gateway_that_says_nothing_is_let_go(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "HANDSHAKE_TIMEOUT_S", 0.05)
    node = echo_node()
    side = connect(node)
    await side.hello()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(side.task), 1)
    assert side.task.done()
    assert not node.gateways


@pytest.mark.parametrize(
    "garbage",
    [
        b"x",
        b"\0" * 11,
        frames.pack_ask_head(Ask.INFER, 1, 1, 5000, 0) + b"short",
        frames.ask(99, 1, b"what"),
        frames.ask(0, 0, b""),
        frames.ask(Ask.SETTINGS, 0, b"not json"),
        frames.ask(Ask.USES, 0, b"not numbers"),
        frames.ask(Ask.KEEP, 0, b"not entries"),
        frames.ask(Ask.KEEP, 0, msgspec.msgpack.encode(("name", "1", "digest", [(1, 2, 3, 4)]))),
        frames.ask(Ask.SETTINGS, 0, b'{"batch_size": "many"}'),
    ],
)
async def test_garbage_closes_the_stream(connect: Connect, start: Start, garbage: bytes) -> None:
    node = start(echo_node())
    side = await proven(connect, node)
    side.give(garbage)
    await asyncio.wait_for(side.task, 2)
    assert side.close_code == 1002
    assert not node.gateways
    # The node itself is unharmed.
    other = await proven(connect, node)
    other.give(infer(1, 1, 2, 3, 4))
    await other.until(lambda: other.of(Tell.RESULT))


async def test_garbage_that_comes_with_the_proof_closes_the_stream(connect: Connect) -> None:
    side = connect(echo_node())
    side.give(await side.proof("secret") + frames.ask(99, 0, b""))
    await asyncio.wait_for(side.task, 2)
    assert side.close_code in (1002, 4401)


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


@pytest.mark.parametrize("bulk", [False, True])
async def test_requests_that_come_with_the_proof_are_answered_soon(connect: Connect, start: Start, bulk: bool) -> None:
    side = connect(start(echo_node()), bulk=bulk)
    # One is answered while the message is read, the other by the engine.
    side.give(await side.proof("secret") + infer(1, 1) + infer(2, 1, 2, 3, 4))
    await side.until(lambda: side.of(Tell.RESULT))
    assert side.of(Tell.REFUSED)


async def test_a_refusal_that_comes_with_the_proof_is_not_left_lying(connect: Connect, start: Start) -> None:
    side = connect(start(echo_node()), bulk=True)
    side.give(await side.proof("secret") + infer(1, 1))
    await side.until(lambda: side.of(Tell.REFUSED), within_s=1)


async def test_settings_are_applied_also_with_the_proof(connect: Connect) -> None:
    node = echo_node()
    side = connect(node)
    first = msgspec.json.encode(NodeSettings(revision=3, cache_entries=7))
    side.give(await side.proof("secret") + frames.ask(Ask.SETTINGS, 0, first))
    await side.until(lambda: node.settings.revision == 3)
    assert the_model(node).results.max_entries == 7
    side.give(frames.ask(Ask.SETTINGS, 0, msgspec.json.encode(NodeSettings(revision=4, batch_size=2))))
    await side.until(lambda: node.settings.revision == 4)
    assert the_model(node).batcher.max_size == 2


async def test_an_older_revision_is_ignored_but_not_that_of_a_new_database(connect: Connect) -> None:
    node = echo_node()

    def settings(revision: int) -> bytes:
        return frames.ask(Ask.SETTINGS, 0, msgspec.json.encode(NodeSettings(revision=revision)))

    side = await proven(connect, node)
    side.give(settings(7))
    side.give(settings(6) + frames.ask(Ask.PING, 1, b""))
    await side.until(lambda: side.of(Tell.PONG))
    assert node.settings.revision == 7
    again = connect(node)
    again.give(await again.proof("secret") + settings(2))
    await again.until(lambda: node.settings.revision == 2)
    again.give(settings(1) + settings(2) + settings(3) + settings(2))
    await again.until(lambda: node.settings.revision == 3)


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
    await asyncio.wait_for(leaver.task, 1)
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
    await asyncio.wait_for(leaver.task, 1)
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
    engine = EchoEngine(takes_s=0.5)
    side = await proven(connect, start(echo_node(engine)))
    side.give(infer(1, 1, 2, 3, 4))
    await side.until(lambda: engine.runs)
    side.give(frames.ask(Ask.PING, 9, b""))
    await side.until(lambda: side.of(Tell.PONG))
    assert [reply[3] for reply in side.of(Tell.PONG)] == [9]
    assert not side.of(Tell.RESULT)


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


async def test_results_are_shared_and_kept_over_streams(connect: Connect, start: Start) -> None:
    giver, taker = start(echo_node()), start(echo_node())
    one, other = await proven(connect, giver), await proven(connect, taker)
    one.give(infer(1, 1, 2, 3, 4))
    await one.until(lambda: one.of(Tell.RESULT))
    one.give(frames.ask(Ask.SHARE, 5, b"", 0, 1) + frames.ask(Ask.SHARE, 6, b"", 0, 1))
    await one.until(lambda: len(one.of(Tell.ENTRIES)) == 4)
    payloads = {ident: [reply[5] for reply in one.of(Tell.ENTRIES) if reply[3] == ident] for ident in (5, 6)}
    assert payloads[5] == payloads[6]
    assert [len(handoff.decode(payload).entries) for payload in payloads[5]] == [1, 0]
    other.give(b"".join(frames.ask(Ask.KEEP, 0, payload) for payload in payloads[5]))
    other.give(infer(1, 1, 2, 3, 4))
    await other.until(lambda: other.of(Tell.RESULT))
    assert other.of(Tell.RESULT)[0][1] == Cache.HIT
    assert other.of(Tell.RESULT)[0][5] == one.of(Tell.RESULT)[0][5]


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


def settings(revision: int, **models: ModelSettings) -> bytes:
    return frames.ask(Ask.SETTINGS, 0, msgspec.json.encode(NodeSettings(revision=revision, models=models)))


def uses(*numbers: int) -> bytes:
    return frames.ask(Ask.USES, 0, msgspec.json.encode(numbers))


def told(side: GatewaySide) -> list[Models]:
    return [msgspec.json.decode(reply[5], type=Models) for reply in side.of(Tell.MODELS)]


async def test_the_models_are_told_after_settings_and_not_before(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node(EchoEngine(), EchoEngine(name="b"))))
    side.give(frames.ask(Ask.PING, 1, b""))
    await side.until(lambda: side.of(Tell.PONG))
    assert not told(side)
    side.give(settings(4))
    await side.until(lambda: told(side))
    (models,) = told(side)
    assert (models.revision, models.default) == (4, "")
    assert [(info.number, info.name, info.state) for info in models.models] == [(2, "b", "READY"), (1, "echo", "READY")]
    side.give(settings(3))  # older: not in force, but answered
    await side.until(lambda: len(told(side)) == 2)
    assert told(side)[1].revision == 4


async def test_each_model_answers_under_its_number_and_another_number_is_gone(connect: Connect, start: Start) -> None:
    engines = EchoEngine(), EchoEngine(values=2, name="b")
    side = await proven(connect, start(echo_node(*engines)))
    side.give(infer(1, 1, 2, 3, 4, model=1) + infer(2, 5, 6, model=2) + infer(3, 5, 6, model=3) + infer(4, 5, model=0))
    side.give(frames.ask(Ask.CHECK, 5, b"", 0, 3) + frames.ask(Ask.CHECK, 6, b"", 0, 2))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 3)
    results = {reply[3]: reply[5] for reply in side.of(Tell.RESULT)}
    assert results == {1: answer_to(1, 2, 3, 4), 2: answer_to(5, 6), 6: b""}
    assert [reply[3] for reply in side.of(Tell.GONE)] == [3, 4, 5]


async def test_a_result_is_bound_to_its_model_too(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node(EchoEngine(), EchoEngine(name="b"))))
    side.give(infer(1, 1, 2, 3, 4, model=1) + infer(2, 1, 2, 3, 4, model=2))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 2)
    for reply, name in zip(sorted(side.of(Tell.RESULT), key=lambda reply: reply[3]), ("echo", "b"), strict=True):
        key = asks.key_of(b"[1, 2, 3, 4]", asks.seed_of(name, "1"))
        assert reply[6] == frames.check_of(reply[5], key)


async def test_a_new_version_is_told_while_it_loads_and_the_old_one_goes_when_it_is_let_go(
    connect: Connect, start: Start, tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path)
    shelf.put("a", "1", "old")
    node = start(shelf.node())
    side = await proven(connect, node)
    side.give(settings(1) + uses(1))
    await side.until(lambda: told(side))
    shelf.put("a", "2", "new")
    shelf.open.clear()
    side.give(settings(2, a=ModelSettings(order=1)))
    await side.until(lambda: len(told(side)) == 2)
    assert [(info.version, info.state) for info in told(side)[1].models] == [("1", "READY"), ("2", "LOADING")]
    side.give(infer(1, 1, 2, model=1))
    await side.until(lambda: side.of(Tell.RESULT))
    shelf.open.set()
    await side.until(lambda: len(told(side)) == 3)
    both = {info.number: (info.version, info.state, info.current) for info in told(side)[2].models}
    assert both == {1: ("1", "READY", False), 2: ("2", "READY", True)}
    assert told(side)[2].revision == 2
    side.give(infer(2, 1, 2, model=1) + infer(3, 1, 2, model=2))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 3)
    results = {reply[3]: reply[5] for reply in side.of(Tell.RESULT)}
    assert results == {1: word("old", 1, 2), 2: word("old", 1, 2), 3: word("new", 1, 2)}
    side.give(uses(2) + infer(4, 1, 2, model=1))
    await side.until(lambda: side.of(Tell.GONE))
    assert [info.number for info in told(side)[-1].models] == [2]


async def test_what_could_not_be_loaded_is_told(connect: Connect, start: Start, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put("a", "1", "old")
    side = await proven(connect, start(shelf.node()))
    shelf.put("a", "2", "broken")
    side.give(settings(1, a=ModelSettings(order=1)))
    await side.until(lambda: len(told(side)) == 2)
    good, bad = told(side)[1].models
    assert (good.number, good.current, good.state) == (1, True, "READY")
    assert (bad.number, bad.state) == (0, "UNAVAILABLE")
    assert "it is broken" in bad.reason


async def test_results_of_one_model_are_shared_and_of_none_only_the_end(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node(EchoEngine(), EchoEngine(name="b"))))
    side.give(infer(1, 1, 2, 3, 4, model=2))
    await side.until(lambda: side.of(Tell.RESULT))
    side.give(b"".join(frames.ask(Ask.SHARE, number, b"", 0, number) for number in (1, 2, 3)))
    await side.until(lambda: len(side.of(Tell.ENTRIES)) == 4)
    found = [(reply[3], handoff.decode(reply[5])) for reply in side.of(Tell.ENTRIES)]
    counts = {number: [len(each.entries) for ident, each in found if ident == number] for number in (1, 2, 3)}
    assert counts == {1: [0], 2: [1, 0], 3: [0]}
    assert {(each.name, each.version) for ident, each in found if ident == 2} == {("b", "1")}


async def test_the_greeting_says_how_large_an_ask_may_be(connect: Connect) -> None:
    assert (await connect(echo_node()).hello()).max_ask_bytes == 123


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


async def test_flush_forgets_the_results_of_all_models(connect: Connect, start: Start) -> None:
    engines = [EchoEngine(name="a"), EchoEngine(name="b")]
    node = start(echo_node(*engines))
    side = await proven(connect, node)
    side.give(infer(1, 1, 2, 3, 4, model=1) + infer(2, 1, 2, 3, 4, model=2))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 2)
    assert [len(model.results) for model in node.models.values()] == [1, 1]
    side.give(frames.ask(Ask.FLUSH, 0, b""))
    await side.until(lambda: not any(len(model.results) or len(model.aliases) for model in node.models.values()))
    side.give(infer(3, 1, 2, 3, 4, model=1) + infer(4, 1, 2, 3, 4, model=2))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 4)
    assert [reply[1] for reply in side.of(Tell.RESULT)] == [Cache.MISS] * 4
    assert [engine.ran for engine in engines] == [2, 2]


async def test_what_was_under_way_at_a_flush_is_neither_joined_nor_kept(connect: Connect, start: Start) -> None:
    engine = EchoEngine(takes_s=0.1)
    node = start(echo_node(engine))
    side = await proven(connect, node)
    side.give(infer(1, 1, 2, 3, 4))
    await side.until(lambda: engine.runs)
    side.give(frames.ask(Ask.FLUSH, 0, b"") + infer(2, 1, 2, 3, 4))
    await side.until(lambda: side.of(Tell.RESULT))
    assert not len(the_model(node).results)
    await side.until(lambda: len(side.of(Tell.RESULT)) == 2)
    assert [reply[1] for reply in side.of(Tell.RESULT)] == [Cache.MISS, Cache.MISS]
    assert engine.ran == 2
    assert len(the_model(node).results) == 1
