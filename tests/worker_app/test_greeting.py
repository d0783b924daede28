"""The worker's end of the handshake: who proves nothing is let go, and gets nothing."""

import asyncio

import msgspec
import pytest

from inference_site.lib import frames, handshake
from inference_site.lib.frames import Ask, Tell
from inference_site.lib.nodesettings import NodeSettings
from tests.support.waiting import PATIENCE_S
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_node
from tests.worker_app.gateway_side import CHALLENGE, Connect, infer, proven, the_model
from worker_app import stream as stream_module


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
    await asyncio.wait_for(side.task, PATIENCE_S)
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
    await asyncio.wait_for(side.task, PATIENCE_S)
    assert side.close_code == 1013  # its token may be right
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
    await asyncio.wait_for(side.task, PATIENCE_S)
    assert side.close_code == 1002
    assert not node.gateways
    # The node itself is unharmed.
    other = await proven(connect, node)
    other.give(infer(1, 1, 2, 3, 4))
    await other.until(lambda: other.of(Tell.RESULT))


async def test_garbage_that_comes_with_the_proof_closes_the_stream(connect: Connect) -> None:
    side = connect(echo_node())
    side.give(await side.proof("secret") + frames.ask(99, 0, b""))
    await asyncio.wait_for(side.task, PATIENCE_S)
    assert side.close_code in (1002, 4401)


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
    await side.until(lambda: side.of(Tell.REFUSED))


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


async def test_the_greeting_says_how_large_an_ask_may_be(connect: Connect) -> None:
    assert (await connect(echo_node()).hello()).max_ask_bytes == 123
