"""Streams to workers: one WebSocket for small bodies and one for large ones, many requests in flight on each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any

import msgspec
from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from gateway_app.core.router import Call, Route, Router
from inference_site.lib import frames, handshake
from inference_site.lib.frames import Ask, Tell
from inference_site.lib.nodesettings import NodeSettings

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 2.0
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.05, 1.0
# A frame may hold the largest body that the gateway accepts, and an answer of the same order.
MAX_FRAME_BYTES = 256 * 2**20
MAX_BULK_BYTES_IN_FLIGHT = 256 * 2**20


class HandshakeError(Exception):
    """What answers at the worker's address is not that worker; the message says who it is."""


class Channel(WSListener):
    """One connection to a worker. What is ready in one turn of the loop goes out as one message."""

    def __init__(self, owner: WorkerLink, loop: asyncio.AbstractEventLoop) -> None:
        self.calls: dict[int, Call] = {}
        self.hello: asyncio.Future[handshake.Hello] = loop.create_future()
        self.disconnected = loop.create_future()
        self._owner = owner
        self._loop = loop
        self._transport: WSTransport | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._last_id = 0

    def send(self, call: Call) -> None:
        """Queues a request; the answer goes to the router."""
        self._last_id = ident = (self._last_id + 1) & 0xFFFFFFFF
        self.calls[ident] = call
        payload = call.payload
        self._put(frames.pack_ask_head(Ask.INFER, ident, len(payload)), payload)

    def order(self, kind: Ask, payload: bytes) -> None:
        """Queues a frame that has no answer."""
        self._put(frames.pack_ask_head(kind, 0, len(payload)), payload)

    def expire(self, before: float) -> None:
        """Takes back what was sent before this moment; its late answer will be dropped."""
        late = []
        for ident, call in self.calls.items():  # in the order in which they were sent
            if call.sent_at > before:
                break
            late.append(ident)
        for ident in late:
            call = self.calls.pop(ident)
            self._owner.router.timed_out(call)

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.disconnect()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """picows: the upgrade is done."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """picows: a message has come."""
        if frame.msg_type == WSMsgType.CLOSE:
            reason = f"the worker closed the stream: {frame.get_close_code()} {frame.get_close_reason() or ''}".rstrip()
            self._owner.note(reason)
            transport.disconnect()
        elif frame.msg_type == WSMsgType.BINARY:
            try:
                self._take(frames.tells(frame.get_payload_as_bytes()))
            except ValueError as error:
                self._owner.note(f"the worker sent garbage: {error}")
                transport.disconnect(False)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """picows: the connection is gone."""
        self._transport = None
        if not self.disconnected.done():
            self.disconnected.set_result(None)
        self._owner.channel_lost()

    def _take(self, replies: list[tuple[int, int, int, int, int, bytes]]) -> None:
        pop, answered = self.calls.pop, self._owner.router.answered
        for kind, cache, status, ident, time_us, payload in replies:
            call = pop(ident, None)
            if call is not None:
                answered(call, kind, cache, status, payload, time_us)
            elif kind >= Tell.HELLO:
                self._control(kind, payload)

    def _control(self, kind: int, payload: bytes) -> None:
        if kind == Tell.HELLO and not self.hello.done():
            try:
                self.hello.set_result(msgspec.json.decode(payload, type=handshake.Hello))
            except msgspec.DecodeError as error:
                self.hello.set_exception(HandshakeError(f"its greeting can't be read: {error}"))
        elif kind == Tell.STATS:
            self._owner.take_stats(msgspec.json.decode(payload))
        elif kind == Tell.DRAINING:
            self._owner.worker_leaves()

    def _put(self, head: bytes, payload: bytes) -> None:
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        elif self._out_bytes > frames.MESSAGE_BYTES:
            self._flush()
        out.append(head)
        out.append(payload)
        self._out_bytes += len(payload)

    def _flush(self) -> None:
        out = self._out
        if out and self._transport is not None:
            self._transport.send(WSMsgType.BINARY, b"".join(out))
        out.clear()
        self._out_bytes = 0


class WorkerLink:
    """Keeps a worker connected: connects, checks who is there, hands calls over, connects again.

    `route.up` is true while both channels are greeted. When one is lost, what was in flight goes back to the router.
    """

    def __init__(
        self,
        router: Router,
        route: Route,
        host: str,
        port: int,
        token: str,
        settings: NodeSettings,
        *,
        expected_name: str | None,
        on_named: Callable[[WorkerLink, str], None],
        clock: Callable[[], float],
    ) -> None:
        self.router = router
        self.route = route
        self.host = host
        self.port = port
        self.hello: handshake.Hello | None = None
        self.stats: dict[str, Any] | None = None
        self.stats_at = 0.0
        self.last_error = ""
        self._token = token
        self._settings = settings
        self._expected_name = expected_name
        self._on_named = on_named
        self._clock = clock
        self._instance = ""
        self._retired = False
        self._channels: tuple[Channel, ...] = ()
        self._lost = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._keep_connected(), name=f"link to {route.name}")

    @property
    def address(self) -> str:
        """host:port, as people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def in_flight(self) -> int:
        """Calls that wait for an answer on this link."""
        return sum(len(channel.calls) for channel in self._channels)

    def send(self, call: Call) -> None:
        """Router's `Link`."""
        self._channels[len(call.payload) > frames.BULK_BYTES].send(call)

    def configure(self, settings: NodeSettings) -> None:
        """Sends new settings to the worker, now and whenever it reconnects."""
        self._settings = settings
        if self.route.up and self.route.link is self:
            self._channels[0].order(Ask.SETTINGS, msgspec.json.encode(settings))

    def expire(self) -> None:
        """Takes back calls whose attempt has lasted too long."""
        before = self._clock() - self.router.attempt_timeout_s
        for channel in self._channels:
            channel.expire(before)

    def take_stats(self, stats: dict[str, Any]) -> None:
        """The worker's numbers have come."""
        self.stats, self.stats_at = stats, self._clock()

    def note(self, reason: str) -> None:
        """Keeps the reason of what is about to happen."""
        self.last_error = reason

    def worker_leaves(self) -> None:
        """The worker is about to stop: it gets nothing more if anybody else is there, and is let go when idle."""
        self.route.leaving = True
        logger.info("%s is draining", self.route.name)
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._let_go())

    def channel_lost(self) -> None:
        """One of the two connections is gone: so is the link."""
        if self.route.link is self:
            self.route.up = False
        self._lost.set()
        reason = self.last_error or "the connection was lost"
        for channel in self._channels:
            calls, channel.calls = channel.calls, {}
            for call in calls.values():
                self.router.lost(call, reason)

    async def retire(self, within_s: float) -> None:
        """Ends the link for good, after what is in flight has been answered or `within_s` has passed."""
        self._retired = True
        deadline = self._clock() + within_s
        while self.in_flight and self._clock() < deadline:
            await asyncio.sleep(0.02)
        self._task.cancel()
        if self._leaving is not None:
            self._leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._close_channels()

    async def _keep_connected(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._retired:
            self._lost.clear()
            self.last_error = ""
            try:
                await self._connect()
            except (OSError, WSError, HandshakeError, TimeoutError) as error:
                self.last_error = f"can't connect to {self.address}: {error or type(error).__name__}"
                self.route.breaker.count_failure(self.last_error)
            else:
                backoff_s = FIRST_BACKOFF_S
                await self._lost.wait()
                if not self.route.leaving:
                    logger.warning("%s at %s: %s", self.route.name, self.address, self.last_error or "connection lost")
                    self.route.breaker.count_failure(self.last_error or "the connection was lost")
            await self._close_channels()
            await asyncio.sleep(backoff_s * random.uniform(0.8, 1.2))
            backoff_s = min(backoff_s * 2, LAST_BACKOFF_S)

    async def _connect(self) -> None:
        self._channels = (await self._open("/stream"), await self._open("/stream?bulk"))
        small, bulk = [channel.hello.result() for channel in self._channels]
        if small.instance != bulk.instance:
            raise HandshakeError("two processes answered in turn; one of them is about to stop")
        if self._lost.is_set() or self._retired:
            raise HandshakeError(self.last_error or "the connection was lost at once")
        if self._expected_name is None:
            self._expected_name = small.node_id
            self._on_named(self, small.node_id)
        route, restarted = self.route, small.instance != self._instance
        self.hello, self._instance = small, small.instance
        self._channels[0].order(Ask.SETTINGS, msgspec.json.encode(self._settings))
        if restarted:
            route.breaker.revive(f"a new process of {route.name} has answered")
        route.leaving = small.draining
        route.link = self
        route.up = True
        logger.info("%s is connected at %s, model %s", route.name, self.address, small.model)

    async def _open(self, path: str) -> Channel:
        loop = asyncio.get_running_loop()
        challenge = handshake.new_challenge()
        host = f"[{self.host}]" if ":" in self.host else self.host
        _, listener = await asyncio.wait_for(
            ws_connect(
                lambda: Channel(self, loop),
                f"ws://{host}:{self.port}{path}",
                websocket_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                enable_auto_ping=True,
                auto_ping_idle_timeout=5,
                auto_ping_reply_timeout=5,
                max_frame_size=MAX_FRAME_BYTES,
                extra_headers={handshake.CHALLENGE_HEADER: challenge},
            ),
            HANDSHAKE_TIMEOUT_S,
        )
        assert isinstance(listener, Channel)
        try:
            hello = await asyncio.wait_for(asyncio.shield(listener.hello), HANDSHAKE_TIMEOUT_S)
            self._check(hello, challenge)
        except BaseException:
            listener.close()
            raise
        listener.order(Ask.PROOF, handshake.gateway_proof(self._token, hello.challenge).encode())
        return listener

    def _check(self, hello: handshake.Hello, challenge: str) -> None:
        """Raises HandshakeError unless this is the worker that the configuration names, with the same token."""
        if hello.version != frames.PROTOCOL_VERSION:
            raise HandshakeError(
                f"it speaks protocol {hello.version}, not {frames.PROTOCOL_VERSION}; run the same release"
            )
        proof = handshake.worker_proof(self._token, challenge, hello.node_id, hello.instance)
        if not handshake.same(hello.proof, proof):
            raise HandshakeError("it did not prove that it holds this gateway's INFERENCE_TOKEN; set the same on both")
        if self._expected_name is not None and hello.node_id != self._expected_name:
            raise HandshakeError(
                f"there is {hello.node_id!r}, not {self._expected_name!r}; correct the address or the name"
            )

    async def _let_go(self) -> None:
        """Closes the link to a leaving worker once it is idle and somebody else can take its requests."""
        while self.in_flight or not any(route.routable for route in self.router.routes.values()):
            await asyncio.sleep(0.02)
        self._leaving = None
        self.last_error = "it was stopped"
        await self._close_channels()

    async def _close_channels(self) -> None:
        for channel in self._channels:
            channel.close()
