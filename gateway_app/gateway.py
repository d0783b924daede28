"""The gateway of one process: router, links and configuration on one event loop. Both doors of `/infer` end here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence

from django.db import close_old_connections

from gateway_app.adoption import Adoption
from gateway_app.canaries.canarymodel import CanaryModel
from gateway_app.canaries.canarywatch import CanaryWatch
from gateway_app.config import ConfigWatcher, Snapshot, adopt_name
from gateway_app.core.breaker import State
from gateway_app.core.watch import HELD_UP_S
from gateway_app.eventlog.events import EventLog
from gateway_app.eventlog.observer import Observer
from gateway_app.figures.history import History
from gateway_app.inforce import InForce, table_of
from gateway_app.live import Live
from gateway_app.models import Event
from gateway_app.modelset import ModelSet
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
from inference_site.lib.payload import decode_request, request_id_of
from inference_site.lib.trace import header_of, refused_trace
from inference_site.lib.window import RateWindow
from inference_site.plain import PlainAsker

logger = logging.getLogger(__name__)

TICK_S = 0.025
# A late timer runs before what has come meanwhile is read; in so many turns of the loop it is.
TURNS = 3
# A worker's name that could not be written is written this much later.
ADOPT_AGAIN_S = 2.0


class Gateway:
    """Starts and stops with its process; everything but `__init__` runs on its loop. An exchange.Plane."""

    def __init__(self, token: str) -> None:
        self.snapshot = Snapshot()  # what is in force
        self.table = table_of(self.snapshot)
        self.in_force = InForce(self)
        self.watcher = ConfigWatcher(self.in_force.take)
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
        self.token = token
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Requests that wait for an answer."""
        return self.lineup.in_flight

    async def start(self) -> None:
        """Reads the configuration and begins to connect."""
        await self.watcher.start()
        await self.events.start()
        self.events.listeners.add(self.live.poke)
        self.spawn(self.live.run())
        self.spawn(self._tick_often())
        self.spawn(self._tick_each_second())
        self.spawn(self.guards.run())

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

    # What links tell: links.Owner.

    def named(self, link: WorkerLink, node_id: str) -> None:
        """A worker that was given by its address alone has said its name."""
        self.lineup.show(link.name, node_id)
        self.spawn(self._adopt(link, node_id))

    def announced(self, link: WorkerLink, models: Models) -> None:
        """A worker says what models it has."""
        if self.links.get(link.name) is link:
            self.in_force.connected(link)
            self.observer.announced(link, models)
            self.lineup.catalog.announce(link.name, models)
            self.follow()

    def gone(self, link: WorkerLink, number: int) -> None:
        """A worker does not know this number of a model any more."""
        if self.links.get(link.name) is link:
            self.lineup.catalog.gone(link.name, number)
            self.follow()

    def lost(self, link: WorkerLink) -> None:
        """A worker is not connected any more."""
        if self.links.get(link.name) is link:
            self.observer.lost(link)
            self.lineup.catalog.lost(link.name)
            self.follow()

    def leaves(self, link: WorkerLink) -> None:
        """A worker is about to stop."""
        if self.links.get(link.name) is link:
            self.observer.leaves(link)
            self.handoff.leaving(link)
            self.lineup.catalog.leaves(link.name)
            self.follow()

    def handed_over(self, link: WorkerLink, payload: bytes) -> None:
        """A worker has sent what it has in its cache, or a part of it."""
        self.handoff.take(link, payload)

    def can_do_without(self, link: WorkerLink) -> bool:
        """Whether others answer for each model that this worker has."""
        models = [route.router for route in link.routes if route.up and route.link is link]
        return all(any(route.routable for route in router.routes.values()) for router in models)

    def follow(self) -> None:
        """What workers have may have changed: it is served so from now on."""
        for name in self.lineup.follow():
            self.handoff.returned(self.links[name])
        self.observer.followed(self.lineup.catalog)

    async def _adopt(self, link: WorkerLink, node_id: str) -> None:
        told = False
        while self.links.get(link.name) is link:
            try:
                if not self.watcher.given:  # else its row is not there yet
                    if await asyncio.to_thread(_adopted, link.host, link.port, node_id):
                        self.watcher.wake()
                    return
            except Exception as error:
                if not told:
                    said = "%s calls itself %s, which could not be written to the database, trying again: %s"
                    logger.warning(said, link.address, node_id, error)
                told = True
            await asyncio.sleep(ADOPT_AGAIN_S)

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
                await self._tick(late_s)
            except Exception:  # time must go on, or no request would ever run into its limit again
                logger.exception("a tick failed")

    async def _tick(self, late_s: float) -> None:
        """Acts on what has lasted too long; `late_s`: how long this loop itself was held up."""
        if late_s >= HELD_UP_S:  # whoever has answered meanwhile is not late
            for _ in range(TURNS):
                await asyncio.sleep(0)
        for link in tuple(self.links.values()):
            link.tick(late_s)
        for model in tuple(self.lineup):
            model.router.tick(late_s)
        self.lineup.trials.tick(time.monotonic())

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
        self.spawn(self._adoption.look(self.lineup.catalog.only, all_heard))
        self.history.tick(self)
        self.canary_watch.tick(self)
        self.live.poke()

    def spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Runs it until it ends, or until the gateway stops."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _adopted(host: str, port: int, node_id: str) -> bool:
    """As `adopt_name`, for a thread."""
    close_old_connections()
    try:
        return adopt_name(host, port, node_id)
    finally:
        close_old_connections()
