"""Open pages: what changes is told to them once a second, and at once when something happens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import orjson

from gateway_app.figures.history import encoded
from gateway_app.figures.stats import stats_of
from gateway_app.figures.workerstats import key_shares

if TYPE_CHECKING:
    from gateway_app.core.table import Table
    from gateway_app.gateway import Gateway

logger = logging.getLogger(__name__)

# What happens within this time is told together; longer apart if the figures take long to make, so that in a storm of
# events these take no more than a tenth of the loop, but never so long that a page would seem to have stopped.
TOGETHER_S = 0.05
PART = 10
APART_S = 2.0
MAX_CLIENTS = 200


class Client:
    """A page that listens. It gets the newest figures only: what it has not taken in time is replaced, never queued."""

    def __init__(self) -> None:
        self.closing: int | None = None  # the code of the end, once it is over
        self._next: str | None = None
        self._is_first = True  # what comes first has the history, and is not replaced
        self._ready = asyncio.Event()

    def offer(self, message: str) -> None:
        """Newer figures."""
        if self._next is None or not self._is_first:
            self._next = message
        self._ready.set()

    def end(self, code: int) -> None:
        """Nothing more will come."""
        self.closing = code
        self._ready.set()

    @property
    def is_new(self) -> bool:
        """Whether it has not been offered anything yet."""
        return self._is_first and self._next is None

    async def take(self) -> str | None:
        """The newest figures, once there are any; None when it is over."""
        await self._ready.wait()
        self._ready.clear()
        message, self._next = self._next, None
        if self.closing is not None:
            return None
        self._is_first = False
        return message


class Live:
    """Tells every open page the same figures, which are made once, and not at all while there is no page.

    Lives on the gateway's loop.
    """

    def __init__(self, gateway: Gateway, clock: Callable[[], float] = time.thread_time) -> None:
        self.clients: set[Client] = set()
        self._gateway = gateway
        self._clock = clock
        self._woken = asyncio.Event()
        self._table: Table | None = None
        self._ended = False

    def join(self) -> Client | int:
        """Another page, or the code of why there is no room for it."""
        if self._ended:
            return 1012  # the service restarts
        if len(self.clients) >= MAX_CLIENTS:
            return 1013  # try again later
        client = Client()
        self.clients.add(client)
        self._woken.set()
        return client

    def leave(self, client: Client) -> None:
        """A page is closed."""
        self.clients.discard(client)

    def poke(self) -> None:
        """Something has happened that should be seen at once."""
        if self.clients:
            self._woken.set()

    def drain(self) -> None:
        """This process is about to stop: pages go to another one."""
        self._ended = True
        for client in self.clients:
            client.end(1012)

    async def run(self) -> None:
        """Tells them whenever it is poked, for ever."""
        while True:
            await self._woken.wait()
            await asyncio.sleep(TOGETHER_S)
            self._woken.clear()
            took_s = 0.0
            try:
                took_s = await self._tell()
            except Exception:  # the next figures may be the ones that can be told
                logger.exception("open pages could not be told")
            await asyncio.sleep(max(0.0, min((PART - 1) * took_s - TOGETHER_S, APART_S)))

    async def _tell(self) -> float:
        """Gives every page the figures of now. For how many seconds of CPU that held up the loop."""
        gateway = self._gateway
        if gateway.table is not self._table:  # its slots are counted once, where that holds up nobody
            self._table = gateway.table
            await asyncio.to_thread(key_shares, self._table)
        began = self._clock()
        stats = orjson.dumps(stats_of(gateway))
        took_s = self._clock() - began
        new = [client for client in self.clients if client.is_new]
        if len(new) < len(self.clients):
            text = b'{"type":"stats","stats":%b}' % stats
            self._offer(text, [client for client in self.clients if not client.is_new])
        if new:
            points = await asyncio.to_thread(encoded, gateway.history)
            self._offer(b'{"type":"start","stats":%b,"history":%b}' % (stats, points), new)
        return took_s

    @staticmethod
    def _offer(message: bytes, clients: Iterable[Client]) -> None:
        text = message.decode()
        for client in clients:
            client.offer(text)
