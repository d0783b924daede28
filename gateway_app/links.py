"""Streams to workers: one WebSocket for small bodies and one for large ones, many requests in flight on each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import msgspec
from picows import WSError

from gateway_app.channel import Channel, HandshakeError
from gateway_app.core.breaker import Cause
from gateway_app.core.call import MAX_IN_FLIGHT, Call, Route
from gateway_app.core.router import Router
from gateway_app.vitals import Vitals
from inference_site.lib import frames, handshake
from inference_site.lib.frames import Ask
from inference_site.lib.nodesettings import NodeSettings

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 2.0
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.05, 1.0
# However short a worker's queue is, a gateway may have so many requests there: most may well be hits.
MIN_LIMIT = 512
# A worker that leaves may take this long to hand over its results.
SHARE_WITHIN_S = 2.0
NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


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
        on_greeted: Callable[[WorkerLink, handshake.Hello], None] = lambda link, hello: None,
        on_returned: Callable[[WorkerLink], None] = lambda link: None,
        on_leaving: Callable[[WorkerLink], None] = lambda link: None,
        on_entries: Callable[[WorkerLink, bytes], None] = lambda link, payload: None,
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
        self.sharing = False  # it was asked for its results, and has not sent the last of them
        self._token = token
        self._settings = settings
        self._expected_name = expected_name
        self._on_named = on_named
        self._on_greeted = on_greeted
        self._on_returned = on_returned
        self._on_leaving = on_leaving
        self._on_entries = on_entries
        self._clock = clock
        self.vitals = Vitals(self, clock)
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
    def node_id(self) -> str | None:
        """The name that the worker gave at its last handshake."""
        return self.hello.node_id if self.hello is not None else None

    @property
    def in_flight(self) -> int:
        """Calls that wait for an answer on this link."""
        return sum(len(channel.calls) for channel in self._channels)

    @property
    def bulk_bytes(self) -> int:
        """Bytes of the large inputs that wait for an answer."""
        return sum(len(call.payload) for call in self._channels[1].calls.values()) if self._channels else 0

    def send(self, call: Call) -> None:
        """Router's `Link`."""
        self._channels[len(call.payload) > frames.BULK_BYTES].send(call)

    def withdraw(self, call: Call) -> None:
        """Router's `Link`."""
        assert isinstance(call.channel, Channel)
        call.channel.withdraw(call)

    def pending(self) -> Iterable[Call]:
        """Router's `Link`."""
        return chain.from_iterable(channel.calls.values() for channel in self._channels)

    def order(self, kind: Ask, payload: bytes = b"") -> None:
        """Sends what has no answer, if the worker is connected."""
        if self.route.up and self.route.link is self:
            self._channels[0].order(kind, payload)

    def configure(self, settings: NodeSettings) -> None:
        """Sends new settings to the worker, now and whenever it reconnects."""
        self._settings = settings
        self.order(Ask.SETTINGS, msgspec.json.encode(settings))

    def tick(self, late_s: float) -> None:
        """Looks after the worker's health; `late_s`: how long this loop itself was held up."""
        if self.route.up and self.route.link is self:
            self.vitals.tick(late_s)

    def ask(self, kind: Ask, left_ms: int = 0) -> int:
        """Asks the connected worker something of this link's own; the answer goes to `vitals`."""
        return self._channels[0].ask(kind, left_ms)

    def take_stats(self, stats: dict[str, Any]) -> None:
        """The worker's numbers have come."""
        self.stats, self.stats_at = stats, self._clock()
        limit = stats.get("limit")
        self.route.limit = min(MAX_IN_FLIGHT, max(MIN_LIMIT, limit)) if isinstance(limit, int) else MAX_IN_FLIGHT

    def take_entries(self, payload: bytes) -> None:
        """The worker hands over what it has in its cache."""
        self._on_entries(self, payload)

    def worker_leaves(self) -> None:
        """The worker is about to stop: it gets nothing more if anybody else is there, and is let go when idle."""
        if self.route.link is not self or self.route.leaving:  # it is told on both connections
            return
        self.route.leaving = True
        self._on_leaving(self)
        logger.info("%s is draining", self.route.name)
        if self._leaving is None or self._leaving.done():
            self._leaving = asyncio.get_running_loop().create_task(self._let_go())

    def channel_lost(self, channel: Channel, reason: str) -> None:
        """A connection is gone; if it is one of the two in use, so is the link."""
        if channel not in self._channels:
            return
        if self.route.link is self:
            self.route.up = False
        self.last_error = self.last_error or reason
        self.sharing = False
        self.vitals.forget()
        calls = tuple(self.pending())
        channels, self._channels = self._channels, ()
        self._lost.set()
        for channel in channels:
            channel.calls.clear()
            channel.close()
        self.router.lost(self.route, calls, reason, orderly=self._retired or self.route.leaving)

    async def retire(self, within_s: float) -> None:
        """Ends the link for good, after what is in flight has been answered or `within_s` has passed."""
        self._retired = True
        deadline = self._clock() + within_s
        while self.in_flight and self._clock() < deadline:
            await asyncio.sleep(0.02)
            self.router.expire(self.pending())
        self._task.cancel()
        if self._leaving is not None:
            self._leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._close_channels()

    async def _keep_connected(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._retired:
            self._lost.clear()
            self.last_error = ""
            try:
                await self._connect()
            except (OSError, WSError, HandshakeError, TimeoutError, msgspec.DecodeError) as error:
                self.last_error = f"can't connect to {self.address}: {str(error) or type(error).__name__}"
                self.route.breaker.count_failure(self.last_error, Cause.UNREACHABLE)
            else:
                await self._lost.wait()
                backoff_s = FIRST_BACKOFF_S
                if self.route.leaving:
                    backoff_s = LAST_BACKOFF_S  # it needs a moment to stop and to come back
                else:
                    logger.warning("%s at %s: %s", self.route.name, self.address, self.last_error)
                    self.route.breaker.count_failure(self.last_error)
            if self._leaving is not None:
                self._leaving.cancel()
            await asyncio.sleep(backoff_s * random.uniform(0.8, 1.2))
            backoff_s = min(backoff_s * 2, LAST_BACKOFF_S)

    async def _connect(self) -> None:
        opened: list[Channel] = []
        try:
            opened.append(await self._open("/stream"))
            opened.append(await self._open("/stream?bulk"))
            small, bulk = (channel.hello.result() for channel in opened)
            if small.instance != bulk.instance:
                raise HandshakeError("two processes answered in turn; one of them is about to stop")
            if self._retired:
                raise HandshakeError("it is no longer configured")
            if not all(channel.connected for channel in opened):
                raise HandshakeError("the connection was lost at once; does INFERENCE_TOKEN differ?")
        except BaseException:
            for channel in opened:
                channel.close()
            raise
        self._channels = tuple(opened)
        self._greeted(small)

    def _greeted(self, hello: handshake.Hello) -> None:
        """Both channels are open: the worker may get requests."""
        route = self.route
        self.hello = hello
        if self._expected_name is None:
            self._expected_name = hello.node_id
            self._on_named(self, hello.node_id)
        self._channels[0].order(Ask.SETTINGS, msgspec.json.encode(self._settings))
        self._on_greeted(self, hello)
        route.link = self
        if self.router.came_up(route, hello.instance, hello.last_run):
            self._on_returned(self)
        logger.info("%s is connected at %s, model %s", route.name, self.address, hello.model)
        if hello.draining:
            self.worker_leaves()

    async def _open(self, path: str) -> Channel:
        challenge = handshake.new_challenge()
        channel = await Channel.open(self, f"ws://{self.address}{path}", challenge, HANDSHAKE_TIMEOUT_S)
        hello = channel.hello.result()
        try:
            self._check(hello, challenge)
        except HandshakeError:
            channel.close()
            raise
        channel.order(Ask.PROOF, handshake.gateway_proof(self._token, hello.challenge).encode())
        return channel

    def _check(self, hello: handshake.Hello, challenge: str) -> None:
        """Raises HandshakeError unless this is the worker that the configuration names, with the same token."""
        if hello.version != frames.PROTOCOL_VERSION:
            raise HandshakeError(
                f"it speaks protocol {hello.version}, not {frames.PROTOCOL_VERSION}; run the same release"
            )
        proof = handshake.worker_proof(self._token, challenge, hello.node_id, hello.instance)
        if not handshake.same(hello.proof, proof):
            raise HandshakeError("it did not prove that it holds this gateway's INFERENCE_TOKEN; set the same on both")
        if not NODE_ID.fullmatch(hello.node_id):
            name = hello.node_id[:120]
            raise HandshakeError(f"its NODE_ID {name!r} is not 1 to 100 of letters, digits, '.', '_', '-'")
        if self._expected_name is not None and hello.node_id != self._expected_name:
            raise HandshakeError(
                f"there is {hello.node_id!r}, not {self._expected_name!r}; correct the address or the name"
            )

    async def _let_go(self) -> None:
        """Closes the link to a leaving worker once it is idle and has handed over its results, if others are there."""
        shared_by = self._clock() + SHARE_WITHIN_S
        while (
            self.in_flight
            or (self.sharing and self._clock() < shared_by)
            or not any(route.routable for route in self.router.routes.values())
        ):
            await asyncio.sleep(0.02)
        self.last_error = "it was stopped"
        self._close_channels()

    def _close_channels(self) -> None:
        for channel in self._channels:
            self.channel_lost(channel, "the link was closed")
