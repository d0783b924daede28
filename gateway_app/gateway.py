"""The gateway of one process: router, links and configuration on one event loop. Both doors of `/infer` end here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence

import msgspec
from xxhash import xxh3_64_intdigest

from gateway_app.adoption import Adoption
from gateway_app.canaries.canarymodel import CanaryModel
from gateway_app.canaries.canarywatch import CanaryWatch
from gateway_app.config import ConfigWatcher, Snapshot, WorkerEntry, adopt_name
from gateway_app.core.breaker import Cause, State
from gateway_app.core.table import Table
from gateway_app.eventlog.events import EventLog
from gateway_app.eventlog.observer import Observer
from gateway_app.figures.history import History
from gateway_app.live import Live
from gateway_app.models import Event
from gateway_app.modelset import ModelSet, Rules
from gateway_app.operating.guards import GuardWatcher
from gateway_app.orders import Orders
from gateway_app.outcomes import Outcomes
from gateway_app.served import ServedModel
from gateway_app.streams.handoff import HandOff
from gateway_app.streams.links import WorkerLink
from gateway_app.traces import TraceLog
from inference_site.exchange import Answer, Ticket
from inference_site.lib.catalog import ModelInfo, Models, Statistics
from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.frames import Ask
from inference_site.lib.payload import decode_request, request_id_of
from inference_site.lib.trace import header_of, refused_trace
from inference_site.lib.window import RateWindow
from inference_site.plain import PlainAsker

logger = logging.getLogger(__name__)

TICK_S = 0.025


class Gateway:
    """Starts and stops with its process; everything but `__init__` runs on its loop. An exchange.Plane."""

    def __init__(self, token: str) -> None:
        self.snapshot = Snapshot()  # what is in force
        self.table = _table(self.snapshot)
        self._wanted: Snapshot | None = None  # what has been read last
        self._making: asyncio.Task[None] | None = None
        self.watcher = ConfigWatcher(self._configure)
        self.links: dict[str, WorkerLink] = {}
        self.traces = TraceLog()
        self.lineup = ModelSet(self.links, time.monotonic, self._breaker_changed, self.traces)
        self.outcomes = Outcomes(self.lineup)
        self.handoff = HandOff(self.lineup, self.links, time.monotonic)
        self.malformed = 0  # requests that no model has got: they could not be read, or named none
        self.rate = RateWindow()
        self.history = History()
        self.live = Live(self)
        self.guards = GuardWatcher(self.history, lambda: self.snapshot.revision)
        self.events = EventLog()
        self.observer = Observer(self.events)
        self.canary_watch = CanaryWatch()
        self.started_at = time.monotonic()
        self.draining = False
        self._orders = Orders(self)
        self._adoption = Adoption(time.monotonic)
        self._token = token
        self._tasks: set[asyncio.Task[None]] = set()
        self._unflushed: set[str] = set()  # workers that are to forget their results when they are connected again

    @property
    def in_flight(self) -> int:
        """Requests that wait for an answer."""
        return self.lineup.in_flight

    async def start(self) -> None:
        """Reads the configuration and begins to connect."""
        await self.watcher.start()
        await self.events.start()
        self.events.listeners.add(self.live.poke)
        self._spawn(self.live.run())
        self._spawn(self._tick_often())
        self._spawn(self._tick_each_second())
        self._spawn(self.guards.run())

    async def stop(self) -> None:
        """Closes every stream. What is in flight by then is answered as lost."""
        self.observer.close()
        await self.watcher.stop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*(link.retire(0) for link in self.links.values()))
        await self.events.stop()

    async def connected(self, within_s: float) -> None:
        """Returns when every enabled worker has said what models it has, or after `within_s`."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and not all(link.ready for link in self.links.values()):
            await asyncio.sleep(0.01)

    # What clients ask: exchange.Plane.

    def infer(
        self, body: bytes, answer: Answer, timeout_ms: int | None = None, since: float | None = None
    ) -> Ticket | None:
        """Takes the body of a `POST /infer`."""
        try:
            request_id, ask, name = decode_request(body)
        except ApiError as error:
            self.refused()
            answer(error.status, b"", error_body(error.message, error.code, request_id_of(body)))
            return None
        if name is not None or (served := self.lineup.plain) is None:
            try:
                served = self.lineup.find(name, None)
            except ApiError as error:
                self.refused()
                headers = b"retry-after: %d\r\n" % error.retry_after_s if error.retry_after_s is not None else b""
                answer(error.status, headers, error_body(error.message, error.code, request_id))
                return None
        return served.inference.ask(ask, PlainAsker(request_id, answer), timeout_ms, since)

    def explain(self, status: int, why: str, since: float) -> bytes:
        """As exchange.Plane says."""
        trace = refused_trace("gateway", status, why, time.monotonic() - since)
        self.traces.add(trace)
        return header_of(trace)

    def refused(self) -> None:
        """An inference could not be read, or its model is not there."""
        self.malformed += 1

    def find(self, name: str | None, version: str | None) -> ServedModel | CanaryModel:
        """The model that answers now."""
        return self.lineup.find(name, version)

    def models(self) -> Sequence[ModelInfo]:
        """Every version of every model that a worker has spoken of."""
        return self.lineup.catalog.known()

    def statistics(self, name: str, version: str) -> Statistics:
        """Of all workers together, and what was answered without them."""
        return self.lineup.statistics(name, version)

    async def load(self, name: str) -> None:
        """Orders every worker to load a model, and waits until they have."""
        await self._orders.load(name)

    async def unload(self, name: str) -> None:
        """Orders every worker to let a model go, and waits until they have."""
        await self._orders.unload(name)

    # Configuration.

    def _configure(self, snapshot: Snapshot) -> None:
        """Takes a new snapshot. It is in force at once, or when the table of its workers has been made."""
        first, self._wanted = self._wanted is None, snapshot
        if first:
            self._apply(snapshot, _table(snapshot))
            return
        enabled = {entry.name for entry in snapshot.workers if entry.enabled}
        for name in self.links:
            for route in self.lineup.routes(name):
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
        for name, wish in snapshot.node.models.items():
            if self.snapshot.node.models.get(name) != wish:
                self.lineup.flush(name)
        self.snapshot, self.table = snapshot, table
        enabled = {entry.name: entry for entry in snapshot.workers if entry.enabled}
        self._rename(enabled)
        models = self.lineup
        for name, link in list(self.links.items()):
            entry = enabled.get(name)
            if entry is None or (entry.host, entry.port) != (link.host, link.port):
                del self.links[name]
                for route in models.routes(name):
                    route.up, route.connected, route.link = False, False, None
                self.observer.removed(name)
                if entry is None:
                    models.catalog.forget(name)
                else:
                    models.catalog.lost(name)
                self._spawn(link.retire(snapshot.policy.timeout_s))
        canary = snapshot.canary
        models.configure(
            Rules(
                table,
                {name for name, entry in enabled.items() if entry.draining},
                {name for name, entry in enabled.items() if entry.isolated},
                snapshot.policy,
                snapshot.hot_cache,
                canary.worker if canary is not None and canary.tuning else "",
            )
        )
        wishes = snapshot.node.models
        tried = (canary.model, canary.version) if canary is not None and canary.tries(wishes) else None
        models.catalog.configure(wishes, snapshot.node.default_model, tried)
        models.trials.follow(canary, wishes, models.catalog.newest)
        for name, entry in enabled.items():
            settings = msgspec.structs.replace(snapshot.node_for(name), revision=snapshot.revision)
            if name in self.links:
                self.links[name].policy = snapshot.policy
                self.links[name].configure(settings)
            else:
                models.show(name, name)
                self.links[name] = WorkerLink(
                    self,
                    name,
                    entry.host,
                    entry.port,
                    self._token,
                    settings,
                    snapshot.policy,
                    expected_name=name if entry.named else None,
                    clock=time.monotonic,
                )
            self._obey(entry, before.get(name))
        for entry in snapshot.workers:
            if not entry.enabled and _is_to_forget(entry, before.get(entry.name)):
                self._flush(entry.name)
        self._follow()
        self.events.look()
        self.live.poke()
        self.guards.wake()
        logger.info("revision %d is in force: %d workers", snapshot.revision, len(enabled))

    def _obey(self, entry: WorkerEntry, before: WorkerEntry | None) -> None:
        """Does to a worker what an operator has ordered since the last snapshot."""
        if before is not None and entry.order_number != before.order_number:
            for route in self.lineup.routes(entry.name):
                if entry.order == "trip":
                    route.breaker.trip(Cause.OPERATOR, "tripped by an operator")
                elif entry.order == "reset":
                    route.breaker.reset("reset by an operator")
            if _is_to_forget(entry, before):
                self._flush(entry.name)
        if entry.draining and before is not None and not before.draining:
            self.handoff.leaving(self.links[entry.name])

    def _flush(self, name: str) -> None:
        """No result that a worker has computed until now is served from now on."""
        for model in self.lineup:
            model.inference.forget()
        self.handoff.flush(name)
        link = self.links.get(name)
        if link is not None and link.up:
            link.order(Ask.FLUSH)
        else:
            self._unflushed.add(name)  # it may come back as the same process

    def _rename(self, enabled: dict[str, WorkerEntry]) -> None:
        """A link whose worker got its name from the handshake goes on under that name, with all it carries."""
        for name, entry in enabled.items():
            for before, link in list(self.links.items()):
                here = (entry.host, entry.port) == (link.host, link.port)
                if here and name not in self.links and before not in enabled and link.node_id == name:
                    self.links[name] = self.links.pop(before)
                    link.name = name
                    self.lineup.rename(before, name)
                    self.observer.renamed(before, name)

    # What links tell: links.Owner.

    def named(self, link: WorkerLink, node_id: str) -> None:
        """A worker that was given by its address alone has said its name."""
        self.lineup.show(link.name, node_id)
        self._spawn(self._adopt(link, node_id))

    def announced(self, link: WorkerLink, models: Models) -> None:
        """A worker says what models it has."""
        if self.links.get(link.name) is link:
            if link.name in self._unflushed:
                self._unflushed.remove(link.name)
                link.order(Ask.FLUSH)
            self.observer.announced(link, models)
            self.lineup.catalog.announce(link.name, models)
            self._follow()

    def gone(self, link: WorkerLink, number: int) -> None:
        """A worker does not know this number of a model any more."""
        if self.links.get(link.name) is link:
            self.lineup.catalog.gone(link.name, number)
            self._follow()

    def lost(self, link: WorkerLink) -> None:
        """A worker is not connected any more."""
        if self.links.get(link.name) is link:
            self.observer.lost(link)
            self.lineup.catalog.lost(link.name)
            self._follow()

    def leaves(self, link: WorkerLink) -> None:
        """A worker is about to stop."""
        if self.links.get(link.name) is link:
            self.observer.leaves(link)
            self.handoff.leaving(link)
            self.lineup.catalog.leaves(link.name)
            self._follow()

    def handed_over(self, link: WorkerLink, payload: bytes) -> None:
        """A worker has sent what it has in its cache, or a part of it."""
        self.handoff.take(link, payload)

    def can_do_without(self, link: WorkerLink) -> bool:
        """Whether others answer for each model that this worker has."""
        models = [route.router for route in link.routes if route.up and route.link is link]
        return all(any(route.routable for route in router.routes.values()) for router in models)

    def _follow(self) -> None:
        for name in self.lineup.follow():
            self.handoff.returned(self.links[name])
        self.observer.followed(self.lineup.catalog)

    async def _adopt(self, link: WorkerLink, node_id: str) -> None:
        try:
            if await asyncio.to_thread(adopt_name, link.host, link.port, node_id):
                self.watcher.wake()
        except Exception:
            logger.exception("%s calls itself %s, which could not be written to the database", link.address, node_id)

    def _breaker_changed(self, model: ServedModel, name: str, before: State, after: State, reason: str) -> None:
        if len(self.lineup.served) > 1:
            reason = f"{self.lineup.label(model)}: {reason}"
        logger.warning("breaker of %s: %s -> %s: %s", name, before, after, reason)
        label = self.lineup.label(model)
        self.events.add(Event.Kind.BREAKER, reason, worker=name, model=label, before=before, after=after)

    async def _tick_often(self) -> None:
        expected = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            late_s, expected = max(0.0, time.monotonic() - expected - TICK_S), time.monotonic()
            try:
                for link in tuple(self.links.values()):
                    link.tick(late_s)
                for model in tuple(self.lineup):
                    model.router.tick()
                self.lineup.trials.tick(time.monotonic())
            except Exception:  # time must go on, or no request would ever run into its limit again
                logger.exception("a tick failed")

    async def _tick_each_second(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + 1, time.monotonic())  # in step with the clock, but nothing is made up for
            await asyncio.sleep(due - time.monotonic())
            try:
                self._tick_second()
            except Exception:  # figures of one second are lost, not those of all that follow
                logger.exception("a second could not be ended")

    def _tick_second(self) -> None:
        for model in self.lineup:
            model.rate.roll(model.inference.requests)
            model.inference.roll(model.rate.per_second())
        self.traces.roll()
        self.rate.roll(self.lineup.totals().requests)
        self.lineup.end_idle()
        self.handoff.forget()
        self.events.tick()
        all_heard = all(link.ready for link in self.links.values())
        self._spawn(self._adoption.look(self.lineup.catalog.only, all_heard))
        self.history.tick(self)
        self.canary_watch.tick(self)
        self.live.poke()

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_to_forget(entry: WorkerEntry, before: WorkerEntry | None) -> bool:
    """Whether a worker was ordered to forget its results since that entry was in force. Of several orders at once only
    the last is seen; one of the others may have been that."""
    if before is None or entry.order_number == before.order_number:
        return False
    return entry.order == "flush" or entry.order_number != before.order_number + 1


def _weights(snapshot: Snapshot) -> dict[str, float]:
    return {entry.name: entry.weight for entry in snapshot.workers if entry.enabled}


def _cap(snapshot: Snapshot) -> float:
    return 1 + snapshot.share_cap_percent / 100 if snapshot.share_cap_percent else 0.0


def _table(snapshot: Snapshot) -> Table:
    return Table(_weights(snapshot), snapshot.virtual_nodes, xxh3_64_intdigest, _cap(snapshot))
