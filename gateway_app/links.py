"""Streams to workers: one WebSocket for small bodies and one for large ones, many requests in flight on each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any

import msgspec
from picows import WSError

from gateway_app.channel import Channel, HandshakeError
from gateway_app.core.router import Call, Route, Router
from inference_site.lib import frames, handshake
from inference_site.lib.frames import Ask
from inference_site.lib.nodesettings import NodeSettings

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 2.0
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.05, 1.0


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
        self._on_greeted = on_greeted
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
    def node_id(self) -> str | None:
        """The name that the worker gave at its last handshake."""
        return self.hello.node_id if self.hello is not None else None

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

    def worker_leaves(self) -> None:
        """The worker is about to stop: it gets nothing more if anybody else is there, and is let go when idle."""
        self.route.leaving = True
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
        channels, self._channels = self._channels, ()
        self._lost.set()
        for channel in channels:
            channel.close()
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
        self._close_channels()

    async def _keep_connected(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._retired:
            self._lost.clear()
            self.last_error = ""
            try:
                await self._connect()
            except (OSError, WSError, HandshakeError, TimeoutError, msgspec.DecodeError) as error:
                self.last_error = f"can't connect to {self.address}: {error or type(error).__name__}"
                self.route.breaker.count_failure(self.last_error)
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
        route, restarted = self.route, hello.instance != self._instance
        self.hello, self._instance = hello, hello.instance
        if self._expected_name is None:
            self._expected_name = hello.node_id
            self._on_named(self, hello.node_id)
        self._channels[0].order(Ask.SETTINGS, msgspec.json.encode(self._settings))
        if restarted:
            route.breaker.revive(f"a new process of {route.name} has answered")
        self._on_greeted(self, hello)
        route.link = self
        route.up = True
        route.leaving = False
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
        if self._expected_name is not None and hello.node_id != self._expected_name:
            raise HandshakeError(
                f"there is {hello.node_id!r}, not {self._expected_name!r}; correct the address or the name"
            )

    async def _let_go(self) -> None:
        """Closes the link to a leaving worker once it is idle and somebody else can take its requests."""
        while self.in_flight or not any(route.routable for route in self.router.routes.values()):
            await asyncio.sleep(0.02)
        self.last_error = "it was stopped"
        self._close_channels()

    def _close_channels(self) -> None:
        for channel in self._channels:
            self.channel_lost(channel, "the link was closed")
