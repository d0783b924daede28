"""Streams to workers: one WebSocket for small bodies and one for large ones, many requests in flight on each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
from picows import WSError

from gateway_app.core.breaker import Cause
from gateway_app.core.call import MAX_IN_FLIGHT, Call, Route
from gateway_app.core.policy import Policy
from gateway_app.streams.channel import Channel, HandshakeError
from gateway_app.streams.greeting import open_channels
from gateway_app.streams.linkowner import Owner
from gateway_app.streams.vitals import Vitals
from inference_site.lib import frames, handshake
from inference_site.lib.catalog import Models
from inference_site.lib.frames import Ask
from inference_site.lib.nodesettings import NodeSettings

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.05, 1.0
# However short a worker's queue is, a gateway may have so many requests there: most may well be hits.
MIN_LIMIT = 512
# A worker that leaves may take this long to hand over its results.
SHARE_WITHIN_S = 2.0


class WorkerLink:
    """Keeps a worker connected: connects, checks who is there, hands calls over, connects again.

    It is `up` while both channels are greeted, and `ready` once the worker has said what models it has: then `serve`
    opens routes to them. When a channel is lost, what was in flight goes back to the routers.
    """

    def __init__(
        self,
        owner: Owner,
        name: str,
        host: str,
        port: int,
        token: str,
        settings: NodeSettings,
        policy: Policy,
        *,
        expected_name: str | None,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.policy = policy
        self.routes: Sequence[Route] = ()  # of each model, whether the worker has it or not
        self.up = self.ready = False
        self.leaving = False  # its process said that it is about to stop; no other one has connected since
        self.since = clock()  # it is `ready`, or is not
        self.hello: handshake.Hello | None = None
        self.stats: dict[str, Any] | None = None
        self.stats_at = 0.0
        self._stats_by = ""  # the process whose numbers they are
        self.revision = 0  # of the configuration that its models follow
        self.last_error = ""
        self.sharing = 0  # models of which it was asked for its results, and has not sent the last of them
        self._owner = owner
        self._token = token
        self._settings = settings
        self._first_revision = 0  # that it was sent after its handshake
        self._used: tuple[int, ...] | None = None  # numbers that it was told are in use
        self._expected_name = expected_name
        self._clock = clock
        self.vitals = Vitals(self, clock)
        self._retired = False
        self._channels: tuple[Channel, ...] = ()
        self._lost = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._keep_connected(), name=f"link to {name}")

    @property
    def address(self) -> str:
        """host:port, as people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def node_id(self) -> str | None:
        """The name that the worker gave at its last handshake."""
        return self.hello.node_id if self.hello is not None else None

    @property
    def max_ask_bytes(self) -> int:
        """The largest ask that the worker takes; 0 if it has not said so."""
        return self.hello.max_ask_bytes if self.hello is not None and self.up else 0

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

    def order(self, kind: Ask, payload: bytes = b"", model: int = 0) -> None:
        """Sends what has no answer, if the worker is connected."""
        if self.up:
            self._channels[0].order(kind, payload, model)

    def share(self) -> int:
        """Asks the worker for what it has in its caches; of how many models it will send that."""
        numbers = {route.number for route in self._mine() if route.up}
        for number in numbers:
            self.order(Ask.SHARE, b"", number)
        return len(numbers)

    def configure(self, settings: NodeSettings) -> None:
        """Sends new settings to the worker, now and whenever it reconnects."""
        self._settings = settings
        self.order(Ask.SETTINGS, msgspec.json.encode(settings))

    def serve(self, route: Route, number: int) -> bool:
        """Opens a route to the model that the worker has under this number, or closes it: 0. Whether the worker is
        another process than the one that this route led to."""
        assert self.hello is not None
        router, returned = route.router, False
        route.connected = True
        if not number:
            route.up, route.number = False, 0
            if route.instance != self.hello.instance:
                router.presence.met(route, self.hello.instance, self.hello.last_run)
        elif not route.up or route.link is not self:
            route.link, route.number = self, number
            route.limit = MAX_IN_FLIGHT
            returned = router.presence.came_up(route, self.hello.instance, self.hello.last_run)
            route.leaving = self.leaving
            if self.vitals.silent:
                router.presence.silent(route, "it is silent")
        elif route.number != number:
            router.presence.another(route, number)
        return returned

    def use(self) -> None:
        """Tells the worker which of its models are in use, if that has changed."""
        numbers = tuple(sorted({route.number for route in self._mine() if route.up}))
        if self.ready and numbers != self._used:
            self._used = numbers
            self.order(Ask.USES, msgspec.json.encode(numbers))

    def tick(self, late_s: float) -> None:
        """Looks after the worker's health; `late_s`: how long this loop itself was held up."""
        if self.up:
            self.vitals.tick(late_s)

    def ask(self, kind: Ask, left_ms: int = 0, model: int = 0) -> int:
        """Asks the connected worker something of this link's own; the answer goes to `vitals`."""
        return self._channels[0].ask(kind, left_ms, model)

    def take_stats(self, stats: dict[str, Any]) -> None:
        """The worker's numbers have come."""
        self.stats, self.stats_at = stats, self._clock()
        self._stats_by = self.hello.instance if self.hello is not None else ""
        models = stats.get("models")
        found = [each for each in models if isinstance(each, dict)] if isinstance(models, list) else []
        limits = {each.get("number"): each.get("limit") for each in found}
        for route in self._mine():
            limit = limits.get(route.number)
            route.limit = min(MAX_IN_FLIGHT, max(MIN_LIMIT, limit)) if isinstance(limit, int) else MAX_IN_FLIGHT

    def stats_of(self, route: Route) -> dict[str, Any]:
        """The worker's numbers of one model; {} if there are none."""
        known = self.stats is not None and self.ready and self._stats_by == route.instance
        models = self.stats.get("models") if self.stats is not None and known else None
        for each in models if isinstance(models, list) else ():
            if isinstance(each, dict) and route.number and each.get("number") == route.number:
                return each
        return {}

    def take_models(self, models: Models) -> None:
        """The worker says what it has. What it said before it had these settings is of no use."""
        if not self.up or (not self.ready and models.revision < self._first_revision):
            return
        if not self.ready:
            self.ready = True
            self.since = self._clock()
            self._used = None
        self.revision = models.revision
        self._owner.announced(self, models)

    def model_gone(self, number: int) -> None:
        """The worker does not know this number any more."""
        if self.ready:
            self._owner.gone(self, number)

    def take_entries(self, payload: bytes) -> None:
        """The worker hands over what it has in its cache."""
        self._owner.handed_over(self, payload)

    def worker_leaves(self) -> None:
        """The worker is about to stop: it gets nothing more if anybody else is there, and is let go when idle."""
        if not self.up or self.leaving:  # it is told on both connections
            return
        self.leaving = True
        for route in self._mine():
            route.leaving = True
        self._owner.leaves(self)
        logger.info("%s is draining", self.name)
        if self._leaving is None or self._leaving.done():
            self._leaving = asyncio.get_running_loop().create_task(self._let_go())

    def channel_lost(self, channel: Channel, reason: str) -> None:
        """A connection is gone; if it is one of the two in use, so is the link."""
        if channel not in self._channels:
            return
        if self.ready:
            self.since = self._clock()
        self.up = self.ready = False
        calls: dict[Route, list[Call]] = {}
        for route in self._mine():
            route.up = route.connected = False
            calls[route] = []
        self.last_error = self.last_error or reason
        self.sharing = 0
        self.vitals.forget()
        for call in self.pending():
            calls.setdefault(call.route, []).append(call)
        channels, self._channels = self._channels, ()
        self._lost.set()
        for each in channels:
            each.calls.clear()
            each.close()
        for route, lost in calls.items():
            route.router.presence.lost(route, lost, reason, orderly=self._retired or self.leaving)
        self._owner.lost(self)

    async def retire(self, within_s: float) -> None:
        """Ends the link for good, after what is in flight has been answered or `within_s` has passed."""
        self._retired = True
        deadline = self._clock() + within_s
        while self.in_flight and self._clock() < deadline:
            await asyncio.sleep(0.02)
            for router in {call.route.router for call in self.pending()}:
                router.attempts.expire([call for call in self.pending() if call.route.router is router])
        self._task.cancel()
        if self._leaving is not None:
            self._leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._close_channels()

    def _count_failure(self, cause: Cause) -> None:
        for route in self.routes:
            if route.link is None or route.link is self:
                route.breaker.count_failure(self.last_error, cause)

    def _mine(self) -> list[Route]:
        """The routes that lead here, and not to a link that has taken this one's place."""
        return [route for route in self.routes if route.link is self]

    async def _keep_connected(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._retired:
            self._lost.clear()
            self.last_error = ""
            try:
                await self._connect()
            except (OSError, WSError, HandshakeError, TimeoutError, msgspec.DecodeError) as error:
                self.last_error = f"can't connect to {self.address}: {str(error) or type(error).__name__}"
                if not self.leaving:  # whoever stops as it had said is not there, and has not failed
                    self._count_failure(Cause.UNREACHABLE)
            else:
                await self._lost.wait()
                backoff_s = FIRST_BACKOFF_S
                if self.leaving:
                    backoff_s = LAST_BACKOFF_S  # it needs a moment to stop and to come back
                else:
                    logger.warning("%s at %s: %s", self.name, self.address, self.last_error)
                    self._count_failure(Cause.FAILURES)
            if self._leaving is not None:
                self._leaving.cancel()
            await asyncio.sleep(backoff_s * random.uniform(0.8, 1.2))
            backoff_s = min(backoff_s * 2, LAST_BACKOFF_S)

    async def _connect(self) -> None:
        channels = await open_channels(self, self.address, self._token, self._expected_name)
        if self._retired:
            for channel in channels:
                channel.close()
            raise HandshakeError("it is no longer configured")
        self._channels = channels
        self._greeted(channels[0].hello.result())

    def _greeted(self, hello: handshake.Hello) -> None:
        """Both channels are open: the worker is told its settings, and says what it has."""
        self.hello = hello
        self.up, self.leaving = True, False
        if self._expected_name is None:
            self._expected_name = hello.node_id
            self._owner.named(self, hello.node_id)
        self._first_revision = self._settings.revision
        self.order(Ask.SETTINGS, msgspec.json.encode(self._settings))
        logger.info("%s is connected at %s", self.name, self.address)
        if hello.draining:
            self.worker_leaves()

    async def _let_go(self) -> None:
        """Closes the link to a leaving worker once it is idle and has handed over its results, if others are there."""
        shared_by = self._clock() + SHARE_WITHIN_S
        while self.in_flight or (self.sharing and self._clock() < shared_by) or not self._owner.can_do_without(self):
            await asyncio.sleep(0.02)
        self.last_error = "it was stopped"
        self._close_channels()

    def _close_channels(self) -> None:
        for channel in self._channels:
            self.channel_lost(channel, "the link was closed")
