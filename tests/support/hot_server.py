"""The hot path's protocol under a real uvicorn in a thread of this process, with a plane that a test controls."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self, TypeVar, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from inference_site.exchange import Plane
from inference_site.heads import KnownHeads
from inference_site.hotpath import HotProtocol, Seconds
from inference_site.inflight import InFlightBytes
from inference_site.lib.errors import error_body
from inference_site.v2.rest import Rest
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S
from tests.support.wire import Wire

Answer = Callable[[int, bytes, bytes], None]
Result = TypeVar("Result")


class EchoPlane:
    """Answers with the body: at once, or in a later turn of the loop; "later…" when told to, "bad…" with 400."""

    def __init__(self) -> None:
        self.draining = False
        self.at_once = True
        self.bodies: list[bytes] = []
        self.timeouts: list[int | None] = []
        self.sinces: list[float | None] = []
        self.explained: list[tuple[int, str]] = []
        self.held: dict[bytes, Answer] = {}
        self.in_flight = 0
        self.cancelled: list[bytes] = []

    def explain(self, status: int, why: str, since: float, /) -> bytes:
        self.explained.append((status, why))
        return b"x-explain: %d\r\n" % status

    def infer(
        self, body: bytes, answer: Answer, timeout_ms: int | None = None, since: float | None = None, /
    ) -> EchoTicket | None:
        self.bodies.append(body)
        self.timeouts.append(timeout_ms)
        self.sinces.append(since)
        reply = (400, b"", error_body("bad", "bad")) if body.startswith(b"bad") else (200, b"x-node: echo\r\n", body)
        if self.at_once and not body.startswith(b"later"):
            answer(*reply)
            return None
        ticket = EchoTicket(self, body, answer)
        if body.startswith(b"later"):
            self.held[body] = ticket.answer
        else:
            asyncio.get_running_loop().call_soon(ticket.answer, *reply)
        return ticket


class EchoTicket:
    """A request that is under way; as with a real plane, it ends by its answer or by being cancelled."""

    def __init__(self, plane: EchoPlane, body: bytes, answer: Answer) -> None:
        self._plane, self._body, self._answer = plane, body, answer
        self._ended = False
        plane.in_flight += 1

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        if not self._ended:
            self._end()
            self._answer(status, headers, body)

    def cancel(self) -> None:
        assert not self._ended, "it was answered, or cancelled already"
        self._end()
        self._plane.cancelled.append(self._body)

    def _end(self) -> None:
        self._ended = True
        self._plane.in_flight -= 1


class Site:
    """The ASGI application behind the hot path: says what it was asked; /held answers when the gate is opened.

    It takes no WebSockets.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.gate = asyncio.Event()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4404})
            return
        self.seen.append(scope["path"])
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        if scope["path"] == "/held":
            await self.gate.wait()
        content = json.dumps(
            {"method": scope["method"], "path": scope["path"], "body": body.decode("latin-1")}
        ).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


class PaperTransport(asyncio.Transport):
    """Keeps what is written, so that a test decides what one packet is."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closed:
            self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = True


class _Uvicorn(uvicorn.Server):
    loop: asyncio.AbstractEventLoop

    def __init__(self, config: uvicorn.Config, errors: list[str]) -> None:
        super().__init__(config)
        self._errors = errors

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda loop, context: self._errors.append(repr(context)))
        self._told = asyncio.Event()
        await super().startup(sockets)

    async def main_loop(self) -> None:
        """As uvicorn's, which looks ten times a second whether it is to stop; here it is woken."""
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which waits for a tenth of a second in any case; here only as long as there is something."""
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wait_tasks_to_complete(), self.config.timeout_graceful_shutdown)
        for task in self.server_state.tasks:
            task.cancel()

    def stop(self) -> None:
        """For another thread."""
        self.should_exit = True
        self.loop.call_soon_threadsafe(self._told.set)


class HotServer:
    """Its clock for timeouts stands still unless a test moves it; `errors` is what reached the loop's handler."""

    def __init__(
        self,
        max_body_bytes: int = 16 * 2**20,
        max_in_flight_bytes: int = 512 * 2**20,
        app: Any = None,
        plane: Any = None,
    ) -> None:
        """plane: instead of one that echoes bodies of /infer."""
        self.plane = EchoPlane()
        self.site = Site()
        self._app = app or self.site
        self.errors: list[str] = []

        class Protocol(HotProtocol):
            parsed = 0
            ended = 0  # clients that send no more
            known_heads = KnownHeads()
            in_flight = InFlightBytes(max_in_flight_bytes)

            def on_message_begin(self) -> None:
                Protocol.parsed += 1
                super().on_message_begin()

            def eof_received(self) -> bool:  # type: ignore[override]
                Protocol.ended += 1
                return super().eof_received()

        Protocol.plane = plane or cast(Plane, self.plane)
        Protocol.rest = Rest(Protocol.plane)
        Protocol.max_body_bytes = max_body_bytes
        self.protocol = Protocol

    def __enter__(self) -> Self:
        sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = sock.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http=self.protocol,
            ws="websockets-sansio",
            loop="uvloop",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
        )
        self._server = _Uvicorn(config, self.errors)
        self._seconds = Seconds.now
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [sock]}, daemon=True)
        self._thread.start()
        wait_until("uvicorn has started", lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._thread.join(PATIENCE_S)
        Seconds.now = self._seconds
        assert not self._thread.is_alive(), "uvicorn has not stopped"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._server.loop

    def assert_quiet(self, caplog: pytest.LogCaptureFixture) -> None:
        """Whatever was done to it, nothing has been raised or logged as an error."""
        assert self.errors == []
        assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []

    def connect(self) -> Wire:
        return Wire("127.0.0.1", self.port)

    def call(self, function: Callable[[], Result]) -> Result:
        """Runs it on the server's loop."""
        done: Future[Result] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self._server.loop.call_soon_threadsafe(run)
        return done.result(PATIENCE_S)

    def connections(self) -> list[HotProtocol]:
        return self.call(
            lambda: [each for each in self._server.server_state.connections if isinstance(each, HotProtocol)]
        )

    def wait_until_reading(self) -> None:
        """Until a part of a request has come, and what came was read."""
        wait_until("a request has begun", lambda: any(not each.idle for each in self.connections()))

    def wait_until_held(self, *bodies: bytes) -> None:
        wait_until(f"the plane holds {bodies}", lambda: set(bodies) <= self.plane.held.keys())

    def wait_until_left(self) -> None:
        wait_until("no connection is open", lambda: not self.connections())

    def release(self, body: bytes, status: int = 200, answer: bytes | None = None) -> None:
        """Lets the plane answer a body that it holds."""
        held = self.plane.held.pop(body)
        self.call(lambda: held(status, b"", body if answer is None else answer))

    def open_gate(self) -> None:
        self.call(self.site.gate.set)

    def age(self, seconds: int) -> None:
        """So much time passes for the timeouts, and they are looked at."""

        def pass_time() -> None:
            Seconds.now += seconds
            for each in list(self._server.server_state.connections):
                if isinstance(each, HotProtocol):
                    each.check_age()

        self.call(pass_time)

    def feed(self, packets: Sequence[bytes]) -> bytes:
        """What is written to a client whose packets arrive exactly so."""
        return asyncio.run_coroutine_threadsafe(self._feed(packets), self._server.loop).result(PATIENCE_S)

    async def _feed(self, packets: Sequence[bytes]) -> bytes:
        state = ServerState()
        protocol = self.protocol(self._server.config, state, {}, asyncio.get_running_loop())
        transport = PaperTransport()
        protocol.connection_made(transport)
        for packet in packets:
            while transport.paused and not transport.closed:
                await asyncio.sleep(0)
            protocol.data_received(packet)
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        return transport.written
