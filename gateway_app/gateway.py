"""The gateway of one process: router, links and configuration on one event loop. Both doors of `/infer` end here."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine

import msgspec
from xxhash import xxh3_64_intdigest

from gateway_app.config import ConfigWatcher, Snapshot, WorkerEntry, adopt_name
from gateway_app.core.breaker import Cause, State
from gateway_app.core.router import Router
from gateway_app.core.table import Table
from gateway_app.events import EventLog
from gateway_app.handoff import HandOff
from gateway_app.inference import Inference
from gateway_app.links import WorkerLink
from inference_site.lib.window import RateWindow

logger = logging.getLogger(__name__)

TICK_S = 0.025


class Gateway:
    """Starts and stops with its process; everything but `__init__` runs on its loop."""

    def __init__(self, token: str) -> None:
        self.router = Router(time.monotonic, self._breaker_changed, lambda: random.uniform(0.8, 1.2))
        self.snapshot = Snapshot()  # what is in force
        self.table = _table(self.snapshot)
        self._wanted: Snapshot | None = None  # what has been read last
        self._making: asyncio.Task[None] | None = None
        self.watcher = ConfigWatcher(self._configure)
        self.links: dict[str, WorkerLink] = {}
        self.handoff = HandOff(self.router, self.links, time.monotonic)
        self.inference = Inference(self.router, time.monotonic)
        self.infer = self.inference.infer
        self.rate = RateWindow()
        self.events = EventLog()
        self.started_at = time.monotonic()
        self.draining = False
        self._token = token
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Requests that wait for an answer."""
        return self.router.in_flight

    async def start(self) -> None:
        """Reads the configuration and begins to connect."""
        await self.watcher.start()
        await self.events.start()
        self._spawn(self._tick_often())
        self._spawn(self._tick_each_second())

    async def stop(self) -> None:
        """Closes every stream. What is in flight by then is answered as lost."""
        await self.watcher.stop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*(link.retire(0) for link in self.links.values()))
        await self.events.stop()

    async def connected(self, within_s: float) -> None:
        """Returns when every enabled worker is connected, or after `within_s`."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and not all(route.up for route in self.router.routes.values()):
            await asyncio.sleep(0.01)

    def _configure(self, snapshot: Snapshot) -> None:
        """Takes a new snapshot. It is in force at once, or when the table of its workers has been made."""
        first, self._wanted = self._wanted is None, snapshot
        if first:
            self._apply(snapshot, _table(snapshot))
            return
        enabled = {entry.name for entry in snapshot.workers if entry.enabled}
        for name, route in self.router.routes.items():
            route.draining = route.draining or name not in enabled  # does not wait for the new table
        if self._making is None:
            if self._fits(snapshot):
                self._apply(snapshot, self.table)
            else:
                self._making = self._spawn(self._make_table())

    def _fits(self, snapshot: Snapshot) -> bool:
        table = self.table
        members = (table.weights, table.virtual_nodes, table.cap)
        return members == (_weights(snapshot), snapshot.virtual_nodes, _cap(snapshot))

    async def _make_table(self) -> None:
        """Computes in a thread what would hold up the data plane, until the newest snapshot is in force."""
        try:
            while (snapshot := self._wanted) is not None and snapshot is not self.snapshot:
                table = self.table if self._fits(snapshot) else await asyncio.to_thread(_table, snapshot)
                self._apply(snapshot, table)
        except Exception:
            logger.exception("a new configuration could not be put in force; revision %d stays", self.snapshot.revision)
            self._wanted = self.snapshot
        finally:
            self._making = None

    def _apply(self, snapshot: Snapshot, table: Table) -> None:
        """Puts a snapshot in force. Requests in flight keep what they began with."""
        before = {entry.name: entry for entry in self.snapshot.workers}
        self.snapshot, self.table = snapshot, table
        enabled = {entry.name: entry for entry in snapshot.workers if entry.enabled}
        self._rename(enabled)
        for name, link in list(self.links.items()):
            entry = enabled.get(name)
            if entry is None or (entry.host, entry.port) != (link.host, link.port):
                del self.links[name]
                self.inference.gone(name)
                link.route.up, link.route.link = False, None
                self._spawn(link.retire(self.router.policy.timeout_s))
        self.router.configure(
            table,
            {name for name, entry in enabled.items() if entry.draining},
            snapshot.policy,
        )
        self.inference.use_hot_cache(snapshot.hot_cache)
        settings = msgspec.structs.replace(snapshot.node, revision=snapshot.revision)
        for name, entry in enabled.items():
            if name in self.links:
                self.links[name].configure(settings)
            else:
                self.inference.show(name, name)
                self.links[name] = WorkerLink(
                    self.router,
                    self.router.routes[name],
                    entry.host,
                    entry.port,
                    self._token,
                    settings,
                    expected_name=name if entry.named else None,
                    on_named=self._named,
                    on_greeted=lambda link, hello: self.inference.serves(link.route.name, hello.model_digest),
                    on_returned=self.handoff.returned,
                    on_leaving=self.handoff.leaving,
                    on_entries=self.handoff.take,
                    clock=time.monotonic,
                )
            self._obey(entry, before.get(name))
        logger.info("revision %d is in force: %d workers", snapshot.revision, len(enabled))

    def _obey(self, entry: WorkerEntry, before: WorkerEntry | None) -> None:
        """Does to a worker's breaker what an operator has ordered since the last snapshot."""
        breaker = self.router.routes[entry.name].breaker
        breaker.isolate(entry.isolated)
        if before is not None and entry.order_number != before.order_number:
            if entry.order == "trip":
                breaker.trip(Cause.OPERATOR, "tripped by an operator")
            elif entry.order == "reset":
                breaker.reset("reset by an operator")
        if entry.draining and before is not None and not before.draining:
            self.handoff.leaving(self.links[entry.name])

    def _rename(self, enabled: dict[str, WorkerEntry]) -> None:
        """A link whose worker got its name from the handshake goes on under that name, with all it carries."""
        for name, entry in enabled.items():
            for before, link in list(self.links.items()):
                here = (entry.host, entry.port) == (link.host, link.port)
                if here and name not in self.links and before not in enabled and link.node_id == name:
                    self.links[name] = self.links.pop(before)
                    self.router.rename(before, name)
                    self.inference.gone(before)
                    self.inference.show(name, name)
                    if link.hello is not None:
                        self.inference.serves(name, link.hello.model_digest)

    def _named(self, link: WorkerLink, node_id: str) -> None:
        """A worker that was given by its address alone has said its name."""
        self.inference.show(link.route.name, node_id)
        self._spawn(self._adopt(link, node_id))

    async def _adopt(self, link: WorkerLink, node_id: str) -> None:
        try:
            if await asyncio.to_thread(adopt_name, link.host, link.port, node_id):
                self.watcher.wake()
        except Exception:
            logger.exception("%s calls itself %s, which could not be written to the database", link.address, node_id)

    def _breaker_changed(self, name: str, before: State, after: State, reason: str) -> None:
        logger.warning("breaker of %s: %s -> %s: %s", name, before, after, reason)
        self.events.add(name, before, after, reason)

    async def _tick_often(self) -> None:
        expected = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            late_s, expected = max(0.0, time.monotonic() - expected - TICK_S), time.monotonic()
            try:
                for link in tuple(self.links.values()):
                    link.tick(late_s)
                self.router.tick()
            except Exception:  # time must go on, or no request would ever run into its limit again
                logger.exception("a tick failed")

    async def _tick_each_second(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.inference.latency.roll()
            self.rate.roll(self.inference.requests)
            self.handoff.forget()

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _weights(snapshot: Snapshot) -> dict[str, float]:
    return {entry.name: entry.weight for entry in snapshot.workers if entry.enabled}


def _cap(snapshot: Snapshot) -> float:
    return 1 + snapshot.share_cap_percent / 100 if snapshot.share_cap_percent else 0.0


def _table(snapshot: Snapshot) -> Table:
    return Table(_weights(snapshot), snapshot.virtual_nodes, xxh3_64_intdigest, _cap(snapshot))
