"""Links against real WebSocket servers on this process's loop: who is let in, what is sent, what a loss leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import uvicorn
from xxhash import xxh3_64_intdigest

from gateway_app import links
from gateway_app.core.breaker import BreakerConfig, State
from gateway_app.core.call import Call, Route
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring
from gateway_app.core.router import Router
from gateway_app.links import WorkerLink
from inference_site.lib import frames, handshake
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Ask, Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from tests.worker_app.echo_engine import EchoEngine, echo, echo_node
from worker_app.consumers import run_batches
from worker_app.node import Node
from worker_app.stream import Stream

TOKEN = "secret"
INFERENCES = (Ask.INFER, Ask.FIRST)
# What a test has asked for, with the keys that say whose it is: a worker's answer is bound to them.
KEYS: dict[bytes, int] = {}


class Server(uvicorn.Server):
    """uvicorn on the test's own loop, without its signal handlers."""

    def __init__(self, app: Any, port: int = 0) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                ws="websockets-sansio",
                ws_max_size=2**28,
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
            )
        )
        self.sock = socket.create_server(("127.0.0.1", port))
        self.port: int = self.sock.getsockname()[1]
        self.task = asyncio.create_task(self.serve(sockets=[self.sock]))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def transports(self) -> list[Any]:
        return [each.transport for each in self.server_state.connections if each.transport is not None]

    async def die(self) -> None:
        """Ends as a killed process does: nothing more is said on any connection."""
        await until(lambda: self.started)
        for transport in self.transports:
            transport.abort()
        self.should_exit = self.force_exit = True
        await self.task
        self.sock.close()


class Connection:
    """One WebSocket at a scripted worker."""

    def __init__(self, bulk: bool, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self.bulk = bulk
        self.asks: list[tuple[int, int, int, bytes]] = []
        self.open = True
        self._send = send

    async def send(self, data: bytes) -> None:
        await self._send({"type": "websocket.send", "bytes": data})

    async def close(self) -> None:
        await self._send({"type": "websocket.close", "code": 1000})

    def infers(self) -> list[tuple[int, bytes]]:
        return [(ident, payload) for kind, ident, _, payload in self.asks if kind in INFERENCES]


class ScriptedWorker:
    """A worker that greets as it is told, notes what it gets, and answers only if `answers`."""

    def __init__(self, name: str = "worker_1", token: str = TOKEN) -> None:
        self.name = name
        self.token = token
        self.instance = "first"
        self.version = frames.PROTOCOL_VERSION
        self.draining = False
        self.answers = True
        self.greets: Callable[[Connection], bool] = lambda connection: True
        self.greeting: Callable[[str], bytes] = self.hello
        self.connections: list[Connection] = []

    def hello(self, challenge: str) -> bytes:
        greeting = handshake.Hello(
            version=self.version,
            node_id=self.name,
            instance=self.instance,
            model="echo",
            model_digest="0",
            draining=self.draining,
            challenge="w" * 32,
            proof=handshake.worker_proof(self.token, challenge, self.name, self.instance),
        )
        return frames.tell(Tell.HELLO, 0, msgspec.json.encode(greeting))

    @property
    def open(self) -> list[Connection]:
        return [connection for connection in self.connections if connection.open]

    @property
    def asked(self) -> list[tuple[int, bytes]]:
        return [infer for connection in self.connections for infer in connection.infers()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        connection = Connection(scope["query_string"] == b"bulk", send)
        self.connections.append(connection)
        challenge = dict(scope["headers"])[handshake.CHALLENGE_HEADER.encode()].decode()
        await receive()
        await send({"type": "websocket.accept"})
        if self.greets(connection):
            await connection.send(self.greeting(challenge))
        while (message := await receive())["type"] == "websocket.receive":
            for ask in frames.asks(message["bytes"]):
                connection.asks.append(ask)
                if ask[0] in INFERENCES and self.answers:
                    await connection.send(result(ask[1], ask[3], ask[3]))
        connection.open = False


class WaitingCall(Call):
    """A call that a test waits for."""

    def __init__(self, payload: bytes, key: int) -> None:
        super().__init__(key, payload)
        self.outcomes: list[tuple[str, Any]] = []

    def on_result(self, cache: int, payload: bytes, time_us: int) -> None:
        self.outcomes.append(("result", payload))

    def on_refusal(self, status: int, payload: bytes) -> None:
        self.outcomes.append(("refusal", status))

    def on_error(self, error: ApiError) -> None:
        self.outcomes.append(("error", error))

    async def outcome(self, within_s: float = 30.0) -> tuple[str, Any]:
        await until(lambda: self.outcomes, within_s)
        (found,) = self.outcomes
        return found


def result(ident: int, text: bytes, output: bytes) -> bytes:
    """A worker's answer to a request for this text."""
    return frames.tell(Tell.RESULT, ident, output, 200, check=frames.check_of(output, KEYS[text]))


async def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


class Bench:
    """A router with links to servers, all ended with the test."""

    def __init__(self) -> None:
        self.router = Router(time.monotonic)
        self.servers: list[Server] = []
        self.links: dict[str, WorkerLink] = {}
        self.named: list[str] = []
        self.breaker = BreakerConfig()
        self._batches: list[asyncio.Task[None]] = []
        self._nodes: list[Node] = []

    def serve(self, app: Any, port: int = 0) -> Server:
        server = Server(app, port)
        self.servers.append(server)
        return server

    def serve_node(self, node: Node, token: str = TOKEN, port: int = 0) -> Server:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await Stream(node, token, send, bulk=scope["query_string"] == b"bulk").serve(scope, receive)

        self._nodes.append(node)
        self._batches.append(asyncio.create_task(run_batches(node)))
        return self.serve(app, port)

    def link(self, name: str, port: int, *, expected: str | None = "", token: str = TOKEN) -> WorkerLink:
        weights = {**dict.fromkeys(self.router.routes, 1.0), name: 1.0}
        self.router.configure(Ring(weights, 50, xxh3_64_intdigest), set(), Policy(self.breaker, load_factor=0.0))
        self.links[name] = WorkerLink(
            self.router,
            self.router.routes[name],
            "127.0.0.1",
            port,
            token,
            NodeSettings(revision=5, cache_entries=123),
            expected_name=name if expected == "" else expected,
            on_named=lambda link, node_id: self.named.append(node_id),
            clock=time.monotonic,
        )
        return self.links[name]

    async def connected(self, name: str, port: int, **more: Any) -> WorkerLink:
        link = self.link(name, port, **more)
        await until(lambda: link.route.up)
        return link

    def route(self, name: str) -> Route:
        return self.router.routes[name]

    def call(self, values: list[float] | bytes, first: str | None = None) -> WaitingCall:
        """Submits a request; `first` is the worker that is to own it."""
        payload = values if isinstance(values, bytes) else json.dumps(values).encode()
        key = xxh3_64_intdigest(payload)
        while first is not None and self.router.ring.owners(key)[0] != first:
            key = (key + 2**56) % 2**64
        KEYS[payload] = key
        call = WaitingCall(payload, key)
        self.router.submit(call)
        return call

    async def end(self) -> None:
        await asyncio.gather(*(link.retire(0) for link in self.links.values()))
        for task in self._batches:
            task.cancel()
        for node in self._nodes:
            node.close()
        for server in self.servers:
            if not server.task.done():
                await server.die()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.end()


def answer_to(values: list[float]) -> bytes:
    return echo(np.array(values, "f4").tobytes())


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
    assert node.batcher.max_size == 3
    route = bench.route("worker_1")
    assert (route.in_flight, link.in_flight, route.requests, route.breaker.failures) == (0, 0, 2, 0)


async def test_settings_changed_while_it_was_away_arrive_with_the_next_connection(bench: Bench) -> None:
    node = echo_node(name="worker_1")
    server = bench.serve_node(node)
    link = await bench.connected("worker_1", server.port)
    await server.die()
    await until(lambda: not link.route.up)
    link.configure(NodeSettings(revision=8, batch_size=2))
    bench.serve_node(node, port=server.port)
    await until(lambda: node.settings.revision == 8)


async def test_another_name_is_refused_and_gets_nothing(bench: Bench) -> None:
    worker = ScriptedWorker("worker_2")
    link = bench.link("worker_1", bench.serve(worker).port)
    await until(lambda: len(worker.connections) >= 3)
    call = bench.call([1, 2, 3, 4])
    assert (await call.outcome())[0] == "error"
    assert not link.route.up
    assert all(connection.asks == [] for connection in worker.connections)
    await until(lambda: link.last_error)
    assert "'worker_2', not 'worker_1'" in link.last_error
    assert link.route.breaker.failures or link.route.breaker.state is State.OPEN


async def test_a_wrong_token_is_refused_and_gets_nothing(bench: Bench) -> None:
    worker = ScriptedWorker(token="other")
    link = bench.link("worker_1", bench.serve(worker).port)
    await until(lambda: len(worker.connections) >= 3)
    assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "error"
    await asyncio.sleep(0.1)
    assert not link.route.up
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
    assert not link.route.up
    assert all(connection.asks == [] for connection in worker.connections)


async def test_a_gateway_with_a_wrong_token_is_told_by_the_worker(bench: Bench) -> None:
    node = echo_node(name="worker_1")
    link = bench.link("worker_1", bench.serve_node(node).port, token="other")
    await until(lambda: link.last_error)
    assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "error"
    assert node.total_requests == 0
    assert not link.route.up


@pytest.mark.parametrize(
    ("greeting", "says"),
    [
        (frames.tell(Tell.HELLO, 0, b"{}"), "greeting can't be read"),
        (b"220 mail.example ESMTP", ""),
        (frames.tell(Tell.STATS, 0, b"{}"), ""),
    ],
)
async def test_what_is_no_worker_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, greeting: bytes, says: str
) -> None:
    monkeypatch.setattr(links, "HANDSHAKE_TIMEOUT_S", 0.1)
    worker = ScriptedWorker()
    worker.greeting = lambda challenge: greeting
    link = bench.link("worker_1", bench.serve(worker).port)
    await until(lambda: len(worker.connections) >= 2)
    await until(lambda: link.last_error)
    assert says in link.last_error
    assert not link.route.up
    assert all(connection.asks == [] for connection in worker.connections)


async def test_another_protocol_version_is_refused(bench: Bench) -> None:
    worker = ScriptedWorker()
    worker.version = 99
    link = bench.link("worker_1", bench.serve(worker).port)
    await until(lambda: "protocol 99" in link.last_error)
    assert not link.route.up


async def test_a_port_without_websockets_counts_failures_and_opens_the_breaker(bench: Bench) -> None:
    async def web(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close"})

    link = bench.link("worker_1", bench.serve(web).port)
    await until(lambda: link.route.breaker.state is State.OPEN)
    assert not link.route.up


async def test_a_refused_connection_counts_as_failure_and_recovery_is_at_once(bench: Bench) -> None:
    server = bench.serve(ScriptedWorker())
    await server.die()
    bench.breaker = BreakerConfig(failure_threshold=2, open_s=60)
    link = bench.link("worker_1", server.port)
    await until(lambda: link.route.breaker.state is State.OPEN)
    bench.serve(ScriptedWorker(), port=server.port)
    await until(lambda: link.route.up)
    assert link.route.breaker.state.value == "HALF_OPEN"  # a new process: nobody waits for the 60 s
    for _ in range(2):
        assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "result"
    assert link.route.breaker.state is State.CLOSED


async def test_a_worker_given_by_its_address_says_its_name_once_and_keeps_it(bench: Bench) -> None:
    worker = ScriptedWorker("worker_9")
    server = bench.serve(worker)
    link = await bench.connected("127.0.0.1:1", server.port, expected=None)
    assert bench.named == ["worker_9"]
    await server.die()
    impostor = ScriptedWorker("worker_8")
    second = bench.serve(impostor, port=server.port)
    await until(lambda: len(impostor.connections) >= 2)
    assert not link.route.up
    await second.die()
    bench.serve(worker, port=server.port)
    await until(lambda: link.route.up)
    assert bench.named == ["worker_9"]


async def test_what_was_in_flight_on_a_worker_that_dies_is_answered_by_the_next(bench: Bench) -> None:
    silent = ScriptedWorker("a")
    silent.answers = False
    server = bench.serve(silent)
    link = await bench.connected("a", server.port)
    other = ScriptedWorker("b")
    await bench.connected("b", bench.serve(other).port)
    small = [bench.call([number, 0, 0, 0], first="a") for number in range(20)]
    large = bench.call(b"[" + b"1," * 50_000 + b"1]", first="a")
    await until(lambda: len(silent.asked) == 21)
    await server.die()
    for number, call in enumerate(small):
        assert await call.outcome() == ("result", json.dumps([number, 0, 0, 0]).encode())
    assert (await large.outcome())[0] == "result"
    assert link.in_flight == bench.router.in_flight == 0
    assert bench.router.retries == 21
    kinds = [ask[0] for connection in other.connections for ask in connection.asks if ask[0] in INFERENCES]
    assert kinds == [Ask.FIRST] * 21  # others wait for how each of them ends
    revived = ScriptedWorker("a")
    revived.instance = "second"
    bench.serve(revived, port=server.port)
    await until(lambda: link.route.up)
    assert link.route.breaker.state in (State.CLOSED, State.HALF_OPEN)


async def test_a_kill_under_load_loses_nothing_and_mixes_nothing_up(bench: Bench) -> None:
    nodes = {name: echo_node(EchoEngine(takes_s=0.002), name=name) for name in ("a", "b", "c")}
    servers = {name: bench.serve_node(node) for name, node in nodes.items()}
    for name, server in servers.items():
        await bench.connected(name, server.port)
    asked: list[tuple[list[float], WaitingCall]] = []
    for number in range(1500):
        values = [float(number % 700), 1.0, 2.0, float(number % 3)]
        call = WaitingCall(text := json.dumps(values).encode(), xxh3_64_intdigest(text))
        bench.router.submit(call)
        asked.append((values, call))
        if number == 700:
            await servers["b"].die()
        if number % 20 == 0:
            await asyncio.sleep(0.001)
    for values, call in asked:
        assert await call.outcome() == ("result", answer_to(values))
    assert bench.router.in_flight == 0
    assert all(len(call.outcomes) == 1 for _, call in asked)


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

    batches = asyncio.create_task(run_batches(node))
    await bench.connected("worker_1", bench.serve(app).port)
    calls = [bench.call([number, 0, 0, 0]) for number in range(100)]
    for call in calls:
        assert (await call.outcome())[0] == "result"
    assert [count for count in messages if count] == [100]
    batches.cancel()
    node.close()


async def test_a_late_answer_is_dropped(bench: Bench) -> None:
    late = ScriptedWorker("a")
    late.answers = False
    link = await bench.connected("a", bench.serve(late).port)
    await bench.connected("b", bench.serve(ScriptedWorker("b")).port)
    call = bench.call([1, 2, 3, 4], first="a")
    bench.router.tick()
    assert not call.outcomes
    await until(lambda: late.asked)
    call.sent_at -= 5.1
    bench.router.tick()  # half of its time is over: a second worker is asked too
    assert await call.outcome() == ("result", b"[1, 2, 3, 4]")
    ((ident, text),) = late.asked
    await until(lambda: [each[1] for each in late.open[0].asks if each[0] == Ask.CANCEL] == [ident])
    await late.open[0].send(result(ident, text, b"[666]"))
    await asyncio.sleep(0.05)
    assert call.outcomes == [("result", b"[1, 2, 3, 4]")]
    assert link.route.up
    assert link.route.in_flight == link.in_flight == 0


async def test_only_what_has_waited_too_long_is_given_up(bench: Bench) -> None:
    silent = ScriptedWorker("a")
    silent.answers = False
    link = await bench.connected("a", bench.serve(silent).port)
    old = [bench.call([number, 0, 0, 0]) for number in range(3)]
    for call in old:
        call.deadline -= 10
    new = [bench.call([number, 1, 0, 0]) for number in range(3)]
    bench.router.tick()
    assert [call.outcomes[0][1].code for call in old] == ["deadline_passed"] * 3
    assert not any(call.outcomes for call in new)
    assert link.in_flight == link.route.in_flight == 3
    await until(lambda: sum(each[0] == Ask.CANCEL for each in silent.open[0].asks) == 3)
    left = [left_ms for kind, _, left_ms, _ in silent.open[0].asks if kind in INFERENCES]
    assert len(left) == 6
    assert all(9_950 < each <= 10_000 for each in left[3:])


@pytest.mark.parametrize(
    "garbage",
    [
        b"x",
        b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
        frames.pack_tell_head(Tell.RESULT, 0, 200, 1, 10**6, 0, 0) + b"[1",
        frames.tell(Tell.STATS, 0, b"not json"),
        frames.tell(Tell.STATS, 0, b"[]"),
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
    assert link.route.failures == 1
    assert link.route.breaker.failures >= 1
    await until(lambda: len(bad.connections) == 4 and link.route.up)  # it was cut and connected again
    assert link.route.in_flight == 0


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
    assert link.route.failures == 1
    assert (link.route.up and len(bad.connections) == 2) != is_cut


async def test_a_late_answer_to_nothing_is_dropped(bench: Bench) -> None:
    worker = ScriptedWorker()
    link = await bench.connected("worker_1", bench.serve(worker).port)
    assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "result"
    await worker.connections[0].send(frames.tell(Tell.RESULT, 1, b"[666]", 200, Cache.HIT))
    await worker.connections[0].send(frames.tell(Tell.FAILED, 0, b"?", 503))
    assert await bench.call([5, 6, 7, 8]).outcome() == ("result", b"[5, 6, 7, 8]")
    assert link.route.up
    assert link.route.in_flight == link.route.failures == 0


async def test_an_answer_to_what_was_never_asked_is_garbage(bench: Bench) -> None:
    worker = ScriptedWorker()
    link = await bench.connected("worker_1", bench.serve(worker).port)
    await worker.connections[0].send(frames.tell(Tell.RESULT, 4711, b"[666]", 200, Cache.HIT))
    await until(lambda: not link.route.up)
    assert "4711" in link.last_error
    await until(lambda: link.route.up)


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
    assert link.route.failures == (2 if wrong == "request" else 1)


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
    assert link.route.failures == 1
    assert link.route.up


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
    assert [ask[1] for ask in small.asks if ask[0] == Ask.CHECK] == [ident]
    await bulk.send(frames.tell(Tell.FAILED, ident, b"the answer to what was cancelled"))
    await bulk.send(frames.tell(Tell.STATS, 0, b"{}"))
    await until(lambda: link.stats is not None)
    assert link.route.breaker.failures == 0
    await small.send(frames.tell(Tell.FAILED, ident, b"the model is broken"))
    await until(lambda: link.route.breaker.failures == 1)
    assert link.route.breaker.last_error == "the model is broken"


async def test_the_deadlines_of_a_retiring_link_hold(bench: Bench) -> None:
    silent = ScriptedWorker("a")
    silent.answers = False
    link = await bench.connected("a", bench.serve(silent).port)
    bench.router.policy = Policy(bench.breaker, timeout_s=0.1)
    call = bench.call([1, 2, 3, 4])
    await until(lambda: silent.asked)
    bench.router.configure(Ring({}, 50, xxh3_64_intdigest), set(), bench.router.policy)
    link.route.up, link.route.link = False, None
    retiring = asyncio.create_task(link.retire(60))
    assert (await call.outcome())[1].code == "deadline_passed"
    await asyncio.wait_for(retiring, 30)


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


async def test_retire_waits_for_what_is_in_flight(bench: Bench) -> None:
    worker = ScriptedWorker()
    worker.answers = False
    link = await bench.connected("worker_1", bench.serve(worker).port)
    call = bench.call([1, 2, 3, 4])
    await until(lambda: worker.asked)
    retiring = asyncio.create_task(link.retire(5))
    await asyncio.sleep(0.1)
    assert not retiring.done()
    await worker.connections[0].send(result(*worker.asked[0], b"[5]"))
    await asyncio.wait_for(retiring, 30)
    assert call.outcomes == [("result", b"[5]")]
    await until(lambda: not worker.open)
    await asyncio.sleep(0.15)
    assert len(worker.connections) == 2  # it does not come back


async def test_retire_gives_back_what_is_not_answered_in_time(bench: Bench) -> None:
    silent = ScriptedWorker("a")
    silent.answers = False
    link = await bench.connected("a", bench.serve(silent).port)
    await bench.connected("b", bench.serve(ScriptedWorker("b")).port)
    call = bench.call([1, 2, 3, 4], first="a")
    await until(lambda: silent.asked)
    link.route.up = False
    await link.retire(0.05)
    assert await call.outcome() == ("result", b"[1, 2, 3, 4]")
    assert link.route.in_flight == link.in_flight == 0


async def test_a_worker_that_reads_nothing_any_more_holds_no_request_back_at_the_end(bench: Bench) -> None:
    stuck = ScriptedWorker("a")
    server = bench.serve(stuck)
    link = await bench.connected("a", server.port)
    for transport in server.transports:
        transport.pause_reading()
    calls = [bench.call(b"[" + b"1," * 2_000_000 + b"1]") for _ in range(8)]
    calls.append(bench.call([1, 2, 3, 4]))
    await asyncio.sleep(0.05)
    link.route.up = False
    await link.retire(0.05)
    for call in calls:
        assert (await call.outcome())[0] == "error"
    assert link.route.in_flight == link.in_flight == 0


async def test_retire_while_connecting_leaves_no_connection(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "HANDSHAKE_TIMEOUT_S", 300)
    worker = ScriptedWorker()
    worker.greets = lambda connection: not connection.bulk
    link = bench.link("worker_1", bench.serve(worker).port)
    await until(lambda: len(worker.connections) == 2)
    await link.retire(0)
    await until(lambda: not worker.open)


async def test_a_bulk_connection_that_fails_leaves_no_other_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "HANDSHAKE_TIMEOUT_S", 0.1)
    worker = ScriptedWorker()
    failures = 3

    def greets(connection: Connection) -> bool:
        nonlocal failures
        failures -= connection.bulk
        return not connection.bulk or failures < 0

    worker.greets = greets
    link = await bench.connected("worker_1", bench.serve(worker).port)
    await asyncio.sleep(0.1)
    assert len(worker.open) == 2
    for connection in worker.open[:-2]:
        await connection.close()
    await asyncio.sleep(0.05)
    assert link.route.up  # what an earlier attempt left behind is no loss of this one


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


async def test_a_leaving_worker_is_let_go_once_idle_and_somebody_else_is_there(bench: Bench) -> None:
    leaver = ScriptedWorker("a")
    leaver.answers = False
    link = await bench.connected("a", bench.serve(leaver).port)
    other = ScriptedWorker("b")
    await bench.connected("b", bench.serve(other).port)
    call = bench.call([1, 2, 3, 4], first="a")
    await until(lambda: leaver.asked)
    await leaver.connections[0].send(frames.tell(Tell.DRAINING, 0, b""))
    await until(lambda: link.route.leaving)
    assert (await bench.call([5, 6, 7, 8], first="a").outcome())[0] == "result"
    assert len(other.asked) == 1
    assert len(leaver.open) == 2
    await leaver.connections[0].send(result(*leaver.asked[0], b"[5]"))
    assert await call.outcome() == ("result", b"[5]")
    await until(lambda: not leaver.connections[0].open and not leaver.connections[1].open)
    assert link.route.breaker.failures == 0  # to stop on request is no failure


async def test_the_only_worker_that_leaves_is_kept_and_its_successor_is_not_cut_off(bench: Bench) -> None:
    leaver = ScriptedWorker()
    server = bench.serve(leaver)
    link = await bench.connected("worker_1", server.port)
    await leaver.connections[0].send(frames.tell(Tell.DRAINING, 0, b""))
    await until(lambda: link.route.leaving)
    assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "result"  # nobody else is there
    assert len(leaver.open) == 2
    await server.die()
    successor = ScriptedWorker()
    successor.instance = "second"
    bench.serve(successor, port=server.port)
    await until(lambda: link.route.up)
    await asyncio.sleep(0.3)
    assert link.route.up
    assert len(successor.connections) == len(successor.open) == 2
    assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "result"
