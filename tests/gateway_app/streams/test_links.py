"""Links against real WebSocket servers on this process's loop: who is let in, and what is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway_app.core.breaker import BreakerConfig, State
from gateway_app.streams import greeting as greeting_module
from inference_site.lib import frames
from inference_site.lib.frames import Tell
from inference_site.lib.nodesettings import NodeSettings
from tests.gateway_app.scripted import INFERENCES, TOKEN, Bench, Connection, ScriptedWorker
from tests.support.waiting import PATIENCE_S, until
from tests.worker_app.echo_engine import echo_node
from worker_app.stream import Stream


async def test_it_connects_and_brings_answers_settings_and_numbers(bench: Bench) -> None:
    node = echo_node(name="worker_1")
    link = await bench.connected("worker_1", bench.serve_node(node).port)
    assert link.hello is not None
    assert link.hello.instance == node.instance
    assert await bench.call([1, 2, 3, 4]).outcome() == ("result", b"[1.0,2.0,3.0,4.0]")
    assert await bench.call([1, 2]).outcome() == ("refusal", 422)
    await until(lambda: link.stats)
    assert link.stats is not None
    assert link.stats["node_id"] == "worker_1"
    assert (node.settings.revision, node.settings.cache_entries) == (5, 123)
    link.configure(NodeSettings(revision=6, batch_size=3))
    await until(lambda: node.settings.revision == 6)
    assert node.find(None, None).batcher.max_size == 3
    route = bench.route("worker_1")
    assert (route.in_flight, link.in_flight, route.requests, route.breaker.failures) == (0, 0, 2, 0)


async def test_settings_changed_while_it_was_away_arrive_with_the_next_connection(bench: Bench) -> None:
    node = echo_node(name="worker_1")
    server = bench.serve_node(node)
    link = await bench.connected("worker_1", server.port)
    await server.die()
    await until(lambda: not link.routes[0].up)
    link.configure(NodeSettings(revision=8, batch_size=2))
    bench.serve_node(node, port=server.port)
    await until(lambda: node.settings.revision == 8)


async def test_another_name_is_refused_and_gets_nothing(bench: Bench) -> None:
    worker = ScriptedWorker("worker_2")
    link = bench.link("worker_1", bench.serve(worker).port)
    await until(lambda: len(worker.connections) >= 3)
    call = bench.call([1, 2, 3, 4])
    assert (await call.outcome())[0] == "error"
    assert not link.routes[0].up
    assert all(connection.asks == [] for connection in worker.connections)
    await until(lambda: link.last_error)
    assert "'worker_2', not 'worker_1'" in link.last_error
    assert link.routes[0].breaker.last_error == link.last_error


async def test_a_wrong_token_is_refused_and_gets_nothing(bench: Bench) -> None:
    worker = ScriptedWorker(token="other")
    link = bench.link("worker_1", bench.serve(worker).port)
    await until(lambda: len(worker.connections) >= 3)
    assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "error"
    await asyncio.sleep(0.1)
    assert not link.routes[0].up
    assert all(connection.asks == [] for connection in worker.connections)
    await until(lambda: link.last_error)
    assert "INFERENCE_TOKEN" in link.last_error


async def test_a_greeting_heard_elsewhere_is_refused(bench: Bench) -> None:
    # A stranger who took the port may have seen a greeting: it answers another challenge.
    worker = ScriptedWorker()
    recorded = worker.hello("another gateway's challenge")
    worker.greeting = lambda challenge: recorded
    link = bench.link("worker_1", bench.serve(worker).port)
    await until(lambda: len(worker.connections) >= 3)
    assert not link.routes[0].up
    assert all(connection.asks == [] for connection in worker.connections)


async def test_a_gateway_with_a_wrong_token_is_told_by_the_worker(bench: Bench) -> None:
    node = echo_node(name="worker_1")
    link = bench.link("worker_1", bench.serve_node(node).port, token="other")
    await until(lambda: link.last_error)
    assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "error"
    assert node.find(None, None).tally.requests == 0
    assert not link.routes[0].up


@pytest.mark.parametrize(
    ("greeting", "says"),
    [
        (frames.tell(Tell.HELLO, 0, b"{}"), "greeting can't be read"),
        (b"220 mail.example ESMTP", "the worker sent garbage"),
        (frames.tell(Tell.STATS, 0, b"{}"), ""),
    ],
)
async def test_what_is_no_worker_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, greeting: bytes, says: str
) -> None:
    if not says:  # it may as well be a worker that is about to greet
        monkeypatch.setattr(greeting_module, "HANDSHAKE_TIMEOUT_S", 0.1)
    worker = ScriptedWorker()
    worker.greeting = lambda challenge: greeting
    link = bench.link("worker_1", bench.serve(worker).port)
    await until(lambda: len(worker.connections) >= 2)
    await until(lambda: link.last_error)
    assert says in link.last_error
    assert not link.routes[0].up
    assert all(connection.asks == [] for connection in worker.connections)


async def test_another_protocol_version_is_refused(bench: Bench) -> None:
    worker = ScriptedWorker()
    worker.version = 99
    link = bench.link("worker_1", bench.serve(worker).port)
    await until(lambda: "protocol 99" in link.last_error)
    assert not link.routes[0].up


async def test_a_port_without_websockets_counts_failures_and_opens_the_breaker(bench: Bench) -> None:
    async def web(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close"})

    link = bench.link("worker_1", bench.serve(web).port)
    await until(lambda: link.routes[0].breaker.state is State.OPEN)
    assert not link.routes[0].up


async def test_a_refused_connection_counts_as_failure_and_recovery_is_at_once(bench: Bench) -> None:
    server = bench.serve(ScriptedWorker())
    await server.die()
    bench.breaker = BreakerConfig(failure_threshold=2, open_s=60)
    link = bench.link("worker_1", server.port)
    await until(lambda: link.routes[0].breaker.state is State.OPEN)
    bench.serve(ScriptedWorker(), port=server.port)
    await until(lambda: link.routes[0].up)
    assert link.routes[0].breaker.state.value == "HALF_OPEN"  # a new process: nobody waits for the 60 s
    for _ in range(2):
        assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "result"
    assert link.routes[0].breaker.state is State.CLOSED


async def test_a_worker_given_by_its_address_says_its_name_once_and_keeps_it(bench: Bench) -> None:
    worker = ScriptedWorker("worker_9")
    server = bench.serve(worker)
    link = await bench.connected("127.0.0.1:1", server.port, expected=None)
    assert bench.named_as == ["worker_9"]
    await server.die()
    impostor = ScriptedWorker("worker_8")
    second = bench.serve(impostor, port=server.port)
    await until(lambda: len(impostor.connections) >= 2)
    assert not link.routes[0].up
    await second.die()
    bench.serve(worker, port=server.port)
    await until(lambda: link.routes[0].up)
    assert bench.named_as == ["worker_9"]


async def test_bodies_over_64_kib_travel_on_the_bulk_connection(bench: Bench) -> None:
    worker = ScriptedWorker()
    await bench.connected("worker_1", bench.serve(worker).port)
    payloads = {
        False: [b"[1]", b"[" + b" " * (frames.BULK_BYTES - 2) + b"]"],
        True: [b"[" + b" " * (frames.BULK_BYTES - 1) + b"]", b"[" + b" " * (16 * 2**20) + b"]"],
    }
    for payload in (*payloads[False], *payloads[True]):
        assert await bench.call(payload).outcome() == ("result", payload)
    for connection in worker.connections:
        assert [payload for _, payload in connection.infers()] == payloads[connection.bulk]
    assert [connection.bulk for connection in worker.connections] == [False, True]


async def test_what_is_ready_in_one_turn_goes_out_together(bench: Bench) -> None:
    node = echo_node(name="worker_1")
    messages: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def counted() -> Any:
            message = await receive()
            asks = frames.asks(message.get("bytes") or b"")
            messages.append(sum(kind in INFERENCES for kind, *_ in asks))
            return message

        await Stream(node, TOKEN, send, bulk=scope["query_string"] == b"bulk").serve(scope, counted)

    node.start()
    await bench.connected("worker_1", bench.serve(app).port)
    calls = [bench.call([number, 0, 0, 0]) for number in range(100)]
    for call in calls:
        assert (await call.outcome())[0] == "result"
    assert [count for count in messages if count] == [100]
    node.close()


async def test_a_bulk_connection_that_fails_leaves_no_other_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greeting_module, "HANDSHAKE_TIMEOUT_S", 0.1)
    worker = ScriptedWorker()
    failures = 3

    def greets(connection: Connection) -> bool:
        nonlocal failures
        failures -= connection.bulk
        if failures == 0:  # for the next attempt, which is to succeed
            monkeypatch.setattr(greeting_module, "HANDSHAKE_TIMEOUT_S", PATIENCE_S)
        return not connection.bulk or failures < 0

    worker.greets = greets
    link = await bench.connected("worker_1", bench.serve(worker).port)
    await until(lambda: len(worker.open) == 2)
    await asyncio.sleep(0.05)
    assert link.routes[0].up  # what an earlier attempt left behind is no loss of this one
    assert [connection.open for connection in worker.connections[-2:]] == [True, True]


async def test_a_second_process_on_the_same_port_is_no_link(bench: Bench) -> None:
    worker = ScriptedWorker()
    real = worker.greeting
    turns = iter(["one", "two"])

    def greeting(challenge: str) -> bytes:
        worker.instance = next(turns, "two")
        return real(challenge)

    worker.greeting = greeting
    link = await bench.connected("worker_1", bench.serve(worker).port)
    assert len(worker.connections) == 4
    assert link.hello is not None
    assert link.hello.instance == "two"
