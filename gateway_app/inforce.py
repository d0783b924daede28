"""How a new configuration comes into force: the ring in a thread, then links, models and orders, all at once."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import msgspec
from xxhash import xxh3_64_intdigest

from gateway_app.core.breaker import Cause
from gateway_app.core.table import Table
from gateway_app.modelset import Rules
from gateway_app.snapshot import Snapshot, WorkerEntry
from gateway_app.streams.links import WorkerLink
from inference_site.lib.frames import Ask

if TYPE_CHECKING:
    from gateway_app.gateway import Gateway

logger = logging.getLogger(__name__)


class InForce:
    """Puts snapshots in force in a gateway, the newest one last. Lives on its loop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._wanted: Snapshot | None = None  # what has been read last
        self._making: asyncio.Task[None] | None = None
        self._unflushed: set[str] = set()  # workers that are to forget their results when they are connected again

    def take(self, snapshot: Snapshot) -> None:
        """Takes a new snapshot. It is in force at once, or when the table of its workers has been made."""
        gateway = self._gateway
        first, self._wanted = self._wanted is None, snapshot
        if first:
            self._make_up_for(gateway.watcher.earlier, snapshot)
            self._apply(snapshot, table_of(snapshot))
            return
        enabled = {entry.name for entry in snapshot.workers if entry.enabled}
        for name in gateway.links:
            for route in gateway.lineup.routes(name):
                route.draining = route.draining or name not in enabled  # does not wait for the new table
        if self._making is None:
            if self._fits(snapshot):
                self._apply(snapshot, gateway.table)
            else:
                self._making = gateway.spawn(self._make_table())

    def connected(self, link: WorkerLink) -> None:
        """A worker has said what it has: it is told what it has missed."""
        if link.name in self._unflushed:
            self._unflushed.remove(link.name)
            link.order(Ask.FLUSH)

    def _make_up_for(self, earlier: Snapshot | None, snapshot: Snapshot) -> None:
        """Of what was ordered while no gateway ran, a flush holds still: workers may have kept their results."""
        before = {entry.name: entry for entry in earlier.workers} if earlier is not None else {}
        self._unflushed.update(entry.name for entry in snapshot.workers if _is_to_forget(entry, before.get(entry.name)))

    def _fits(self, snapshot: Snapshot) -> bool:
        gateway = self._gateway
        table = gateway.table
        members = (table.weights, table.virtual_nodes, table.cap)
        return members == (_weights(snapshot), snapshot.virtual_nodes, _cap(snapshot))

    async def _make_table(self) -> None:
        """Computes in a thread what would hold up the data plane, until the newest snapshot is in force."""
        gateway = self._gateway
        try:
            while (snapshot := self._wanted) is not None and snapshot is not gateway.snapshot:
                table = gateway.table if self._fits(snapshot) else await asyncio.to_thread(table_of, snapshot)
                self._apply(snapshot, table)
        except Exception:
            logger.exception(
                "a new configuration could not be put in force; revision %d stays", gateway.snapshot.revision
            )
            self._wanted = gateway.snapshot
        finally:
            self._making = None

    def _apply(self, snapshot: Snapshot, table: Table) -> None:
        """Puts a snapshot in force. Requests in flight keep what they began with."""
        gateway = self._gateway
        before = {entry.name: entry for entry in gateway.snapshot.workers}
        for name, wish in snapshot.node.models.items():
            if gateway.snapshot.node.models.get(name) != wish:
                gateway.lineup.flush(name)
        gateway.snapshot, gateway.table = snapshot, table
        enabled = {entry.name: entry for entry in snapshot.workers if entry.enabled}
        self._rename(enabled)
        models = gateway.lineup
        for name, link in list(gateway.links.items()):
            entry = enabled.get(name)
            if entry is None or (entry.host, entry.port) != (link.host, link.port):
                del gateway.links[name]
                for route in models.routes(name):
                    route.up, route.connected, route.link = False, False, None
                gateway.observer.removed(name)
                if entry is None:
                    models.catalog.forget(name)
                else:
                    models.catalog.lost(name)
                gateway.spawn(link.retire(snapshot.policy.timeout_s))
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
            if name in gateway.links:
                gateway.links[name].policy = snapshot.policy
                gateway.links[name].configure(settings)
            else:
                models.show(name, name)
                gateway.links[name] = WorkerLink(
                    gateway,
                    name,
                    entry.host,
                    entry.port,
                    gateway.token,
                    settings,
                    snapshot.policy,
                    expected_name=name if entry.named else None,
                    clock=time.monotonic,
                )
            self._obey(entry, before.get(name))
        for entry in snapshot.workers:
            if not entry.enabled and _is_to_forget(entry, before.get(entry.name)):
                self._flush(entry.name)
        gateway.follow()
        gateway.events.look()
        gateway.live.poke()
        gateway.guards.wake()
        logger.info("revision %d is in force: %d workers", snapshot.revision, len(enabled))

    def _obey(self, entry: WorkerEntry, before: WorkerEntry | None) -> None:
        """Does to a worker what an operator has ordered since the last snapshot."""
        gateway = self._gateway
        if before is not None and entry.order_number != before.order_number:
            for route in gateway.lineup.routes(entry.name):
                if entry.order == "trip":
                    route.breaker.trip(Cause.OPERATOR, "tripped by an operator")
                elif entry.order == "reset":
                    route.breaker.reset("reset by an operator")
            if _is_to_forget(entry, before):
                self._flush(entry.name)
        if entry.draining and before is not None and not before.draining:
            gateway.handoff.leaving(gateway.links[entry.name])

    def _flush(self, name: str) -> None:
        """No result that a worker has computed until now is served from now on."""
        gateway = self._gateway
        for model in gateway.lineup:
            model.inference.forget()
        gateway.handoff.flush(name)
        link = gateway.links.get(name)
        if link is not None and link.up:
            link.order(Ask.FLUSH)
        else:
            self._unflushed.add(name)  # it may come back as the same process

    def _rename(self, enabled: dict[str, WorkerEntry]) -> None:
        """A link whose worker got its name from the handshake goes on under that name, with all it carries."""
        gateway = self._gateway
        for name, entry in enabled.items():
            for before, link in list(gateway.links.items()):
                here = (entry.host, entry.port) == (link.host, link.port)
                if here and name not in gateway.links and before not in enabled and link.node_id == name:
                    gateway.links[name] = gateway.links.pop(before)
                    link.name = name
                    gateway.lineup.rename(before, name)
                    gateway.observer.renamed(before, name)


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


def table_of(snapshot: Snapshot) -> Table:
    """The slots of the ring that a snapshot asks for. Takes up to a second with a hundred workers."""
    return Table(_weights(snapshot), snapshot.virtual_nodes, xxh3_64_intdigest, _cap(snapshot))
