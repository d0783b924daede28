"""Workers that do as a test tells them, behind real WebSocket servers on the test's own loop, and links to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import uvicorn
from xxhash import xxh3_64_intdigest

from gateway_app.core.breaker import BreakerConfig
from gateway_app.core.call import Route
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring
from gateway_app.core.router import Router
from gateway_app.streams.links import WorkerLink
from inference_site.lib import frames, handshake
from inference_site.lib.asks import key_of, seed_of
from inference_site.lib.catalog import ModelInfo, Models, State
from inference_site.lib.frames import Ask, Tell
from inference_site.lib.nodesettings import NodeSettings
from tests.gateway_app.core.fleet import RecordingCall
from tests.support.ports import free_ports
from tests.support.waiting import until
from worker_app.node import Node
from worker_app.stream import Stream

TOKEN = "secret"
TIMEOUT_S = 60.0  # of a request: a machine that stalls is to end none
INFERENCES = (Ask.INFER, Ask.FIRST, Ask.EXPLAIN, Ask.EXPLAIN_FIRST)
# What a test has asked for, with the keys that say whose it is: a worker's answer is bound to them.
KEYS: dict[bytes, int] = {}
# Of the model of an echo node.
SEED = seed_of("echo", "1")


class Server(uvicorn.Server):
    """uvicorn on the test's own loop, without its signal handlers. Another one may take its place at its port."""

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
        # None of those that the system gives away: nobody else is to have it between this one and the next.
        self.port = port or free_ports(1)[0]
        self.sock = socket.create_server(("127.0.0.1", self.port))
        self.task = asyncio.create_task(self.serve(sockets=[self.sock]))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def transports(self) -> list[Any]:
        return [each.transport for each in self.server_state.connections if each.transport is not None]

    async def die(self) -> None:
        """Ends as a killed process does: nothing more is said on any connection, and nobody is let in."""
        await until(lambda: self.started)
        for server in self.servers:
            server.close()
        for transport in self.transports:
            transport.abort()
        self.should_exit = self.force_exit = True
        await self.task
        self.sock.close()


class Connection:
    """One WebSocket at a scripted worker."""

    def __init__(self, bulk: bool, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self.bulk = bulk
        self.asks: list[tuple[int, int, int, int, bytes]] = []
        self.open = True
        self._send = send

    async def send(self, data: bytes) -> None:
        await self._send({"type": "websocket.send", "bytes": data})

    async def close(self) -> None:
        await self._send({"type": "websocket.close", "code": 1000})

    def infers(self) -> list[tuple[int, bytes]]:
        return [(ident, payload) for kind, _, ident, _, payload in self.asks if kind in INFERENCES]

    def orders(self, kind: Ask) -> list[bytes]:
        return [each[4] for each in self.asks if each[0] == kind]


def ready(number: int = 1, name: str = "echo", version: str = "1", digest: str = "0", **more: Any) -> ModelInfo:
    """A model as a worker says that it has it."""
    return ModelInfo(number=number, name=name, version=version, state=State.READY, digest=digest, **more)


class ScriptedWorker:
    """A worker that greets as it is told, says that it has `models`, notes what it gets, and answers only if `answers`:
    with the payload, or with `output(number, payload)`."""

    def __init__(self, name: str = "worker_1", token: str = TOKEN) -> None:
        self.name = name
        self.token = token
        self.instance = "first"
        self.version = frames.PROTOCOL_VERSION
        self.draining = False
        self.max_ask_bytes = 0
        self.answers = True
        self.models: tuple[ModelInfo, ...] = (ready(),)
        self.says_models = True
        self.default: str | None = None  # that it says; None: the first of its models
        self.revision = -1  # of the settings that it was sent last
        self.output: Callable[[int, bytes], bytes] = lambda number, payload: payload
        self.instead: Callable[[int, int], bytes | None] = lambda number, ident: None  # a frame in place of a result
        self.greets: Callable[[Connection], bool] = lambda connection: True
        self.greeting: Callable[[str], bytes] = self.hello
        self.connections: list[Connection] = []

    def hello(self, challenge: str) -> bytes:
        greeting = handshake.Hello(
            version=self.version,
            node_id=self.name,
            instance=self.instance,
            draining=self.draining,
            challenge="w" * 32,
            proof=handshake.worker_proof(self.token, challenge, self.name, self.instance),
            max_ask_bytes=self.max_ask_bytes,
        )
        return frames.tell(Tell.HELLO, 0, msgspec.json.encode(greeting))

    @property
    def open(self) -> list[Connection]:
        return [connection for connection in self.connections if connection.open]

    @property
    def asked(self) -> list[tuple[int, bytes]]:
        return [infer for connection in self.connections for infer in connection.infers()]

    async def tell_models(self, *models: ModelInfo) -> None:
        """Says what it has, from now on these if any are given, on each of its connections for small bodies."""
        self.models = models or self.models
        first = self.models[0].name if self.models else ""
        default = first if self.default is None else self.default
        said = Models(revision=self.revision, default=default, models=self.models)
        for connection in self.open:
            if not connection.bulk:
                await connection.send(frames.tell(Tell.MODELS, 0, msgspec.json.encode(said)))

    def used(self) -> set[int]:
        """The numbers that the gateway says it uses."""
        orders = [order for each in self.open for order in each.orders(Ask.USES)]
        return set(msgspec.json.decode(orders[-1])) if orders else set()

    def _seed(self, number: int) -> int:
        return next(seed_of(info.name, info.version) for info in self.models if info.number == number)

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
                kind, number, ident, _, payload = ask
                if kind in INFERENCES and number not in {info.number for info in self.models}:
                    await connection.send(frames.tell(Tell.GONE, ident, b""))
                elif kind in INFERENCES and self.answers:
                    frame = self.instead(number, ident)
                    answer = frame or result(ident, payload, self.output(number, payload), self._seed(number))
                    await connection.send(answer)
                elif kind == Ask.SETTINGS:
                    self.revision = msgspec.json.decode(payload, type=NodeSettings).revision
                    if self.says_models:
                        await self.tell_models()
        connection.open = False


class WaitingCall(RecordingCall):
    """A call that a test waits for."""

    async def outcome(self) -> tuple[str, Any]:
        await until(lambda: self.outcomes)
        (found,) = self.outcomes
        return found


def result(ident: int, text: bytes, output: bytes, seed: int = SEED) -> bytes:
    """A worker's answer to a request for this text."""
    key = KEYS.get(text, key_of(text, seed))
    return frames.tell(Tell.RESULT, ident, output, 200, check=frames.check_of(output, key))


class Bench:
    """A router with links to servers, all ended with the test. It is the links' owner, and sends all to the first model
    that a worker says it has."""

    def __init__(self) -> None:
        self.router = Router(time.monotonic)
        self.servers: list[Server] = []
        self.links: dict[str, WorkerLink] = {}
        self.named_as: list[str] = []
        self.gone_numbers: list[int] = []
        self.breaker = BreakerConfig()
        self._nodes: list[Node] = []

    def serve(self, app: Any, port: int = 0) -> Server:
        server = Server(app, port)
        self.servers.append(server)
        return server

    def serve_node(self, node: Node, token: str = TOKEN, port: int = 0) -> Server:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await Stream(node, token, send, bulk=scope["query_string"] == b"bulk").serve(scope, receive)

        if node not in self._nodes:
            self._nodes.append(node)
            node.start()
        return self.serve(app, port)

    def link(self, name: str, port: int, *, expected: str | None = "", token: str = TOKEN) -> WorkerLink:
        weights = {**dict.fromkeys(self.router.routes, 1.0), name: 1.0}
        policy = Policy(self.breaker, timeout_s=TIMEOUT_S, load_factor=0.0)
        self.router.configure(Ring(weights, 50, xxh3_64_intdigest), set(), policy)
        self.links[name] = WorkerLink(
            self,
            name,
            "127.0.0.1",
            port,
            token,
            NodeSettings(revision=5, cache_entries=123),
            policy,
            expected_name=name if expected == "" else expected,
            clock=time.monotonic,
        )
        self.links[name].routes = (self.router.routes[name],)
        return self.links[name]

    async def connected(self, name: str, port: int, **more: Any) -> WorkerLink:
        link = self.link(name, port, **more)
        await until(lambda: link.routes[0].up)
        return link

    def route(self, name: str) -> Route:
        return self.router.routes[name]

    def call(self, values: list[float] | bytes, first: str | None = None) -> WaitingCall:
        """Submits a request; `first` is the worker that is to own it."""
        payload = values if isinstance(values, bytes) else json.dumps(values).encode()
        key = key_of(payload, SEED)
        while first is not None and self.router.ring.owners(key)[0] != first:
            key = (key + 2**56) % 2**64
        KEYS[payload] = key
        call = WaitingCall(key, payload)
        self.router.submit(call)
        return call

    async def end(self) -> None:
        KEYS.clear()  # or another test's answers to the same texts would be taken for damaged
        await asyncio.gather(*(link.retire(0) for link in self.links.values()))
        for node in self._nodes:
            node.close()
        for server in self.servers:
            if not server.task.done():
                await server.die()

    # links.Owner

    def named(self, link: WorkerLink, node_id: str) -> None:
        self.named_as.append(node_id)

    def announced(self, link: WorkerLink, models: Models) -> None:
        number = next((info.number for info in models.models if info.state is State.READY), 0)
        for route in link.routes:
            link.serve(route, number)
        link.use()

    def gone(self, link: WorkerLink, number: int) -> None:
        self.gone_numbers.append(number)

    def lost(self, link: WorkerLink) -> None: ...
    def leaves(self, link: WorkerLink) -> None: ...
    def handed_over(self, link: WorkerLink, payload: bytes) -> None: ...

    def can_do_without(self, link: WorkerLink) -> bool:
        return any(route.routable for route in self.router.routes.values())
