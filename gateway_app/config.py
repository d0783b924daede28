"""The configuration in the database: how a process follows it, and how the command line writes to it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from django.core.exceptions import ValidationError
from django.db import Error as DatabaseUnavailable
from django.db import close_old_connections

from gateway_app import lastgood
from gateway_app.databaseaway import does_not_answer
from gateway_app.models import Revision, Worker, recorded, revision_saved
from gateway_app.snapshot import Snapshot, WorkerEntry, parse
from gateway_app.validators import validate_name

__all__ = [
    "ConfigWatcher",
    "Snapshot",
    "WorkerEntry",
    "adopt_name",
    "load_snapshot",
    "register_workers",
    "with_workers",
]

logger = logging.getLogger(__name__)

Address = tuple[str | None, str, int]  # a worker's name, if it is known; host; port


def load_snapshot() -> Snapshot:
    """The newest revision, or the defaults if there is none; raises InvalidConfig or a database error."""
    return parse(*_newest())


def _newest() -> tuple[int, Any]:
    return Revision.objects.order_by("-id").values_list("id", "payload").first() or (0, {})


class ConfigWatcher:
    """Follows the configuration: gives every new snapshot to `on_change` on the event loop, and never a bad one.

    With the database away or a revision refused, the last good snapshot stays in force, and `error` says why.
    """

    def __init__(self, on_change: Callable[[Snapshot], None], poll_s: float = 0.5) -> None:
        # Workers of the command line that could not be written to the database yet: in force before they are.
        self.given: Sequence[Address] = ()
        self.current = Snapshot()
        self.earlier: Snapshot | None = None  # what a gateway here followed last, before this process
        self.error = ""
        self.loads = 0
        self._on_change = on_change
        self._poll_s = poll_s
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        # The newest revision that the database has shown, good or refused; None until it has answered once.
        self._seen: int | None = None
        self._refusal = ""

    async def start(self) -> None:
        """Takes the configuration from the database, else from the last good file, else the defaults; then follows."""
        self._loop = asyncio.get_running_loop()
        revision_saved.connect(self._revision_saved)
        self.earlier = await asyncio.to_thread(lastgood.load)
        if self.given:  # a moment ago it did not answer: who waits for this process need not wait for that again
            self.error = "the database does not answer; check DATABASE_URL"
        snapshot = None if self.given else await self._read()
        if snapshot is None:
            snapshot = await asyncio.to_thread(self._without_database)
            logger.warning(
                "Started with revision %d from the last good configuration: %s", snapshot.revision, self.error
            )
        self._apply(snapshot)
        self._task = self._loop.create_task(self._follow(), name="config watcher")

    async def stop(self) -> None:
        revision_saved.disconnect(self._revision_saved)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def wake(self) -> None:
        """Look at once instead of at the next poll. May be called from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to look
                self._loop.call_soon_threadsafe(self._woken.set)

    def _revision_saved(self, **kwargs: Any) -> None:
        self.wake()

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._woken.wait()
            self._woken.clear()
            try:
                snapshot = await self._read()
                if snapshot is not None and snapshot != self.current:
                    self._apply(snapshot)
            except Exception:  # a bug must not end the watching: the next revision may be the one that heals it
                logger.exception("The configuration could not be followed; trying again")

    def _apply(self, snapshot: Snapshot) -> None:
        self.current = snapshot
        self.loads += 1
        self._on_change(snapshot)

    async def _read(self) -> Snapshot | None:
        """A snapshot that may be new, or None; keeps `error` up to date and logs each change of it once."""
        snapshot = None
        try:
            snapshot = await asyncio.to_thread(self._read_in_thread)
            error = self._refusal
        except DatabaseUnavailable as exc:
            error = f"{does_not_answer(exc)} and run `manage.py migrate`"
        if error != self.error:
            self.error = error
            if error and self.loads:  # at the start, `start` says what it uses instead
                logger.warning("Revision %d stays in force: %s", self.current.revision, error)
            elif not error:
                logger.info("The configuration can be read again")
        return snapshot

    def _without_database(self) -> Snapshot:
        revision, payload = lastgood.read() or (0, {})
        return parse(revision, with_workers(payload, self.given) if self.given else payload)

    def _read_in_thread(self) -> Snapshot | None:
        close_old_connections()
        try:
            self._write_given()
            newest = Revision.objects.order_by("-id").values_list("id", flat=True).first() or 0
            if newest == self._seen:
                return None
            try:
                revision, payload = _newest()
                snapshot = parse(revision, payload)
            except ValueError as exc:  # also a payload that is no JSON
                self._seen = newest
                self._refusal = (
                    f"revision {newest} is refused ({exc}); save the worker, the model or the tuning again in the admin"
                )
                return None
            lastgood.save(revision, payload)
            self._seen = revision
            self._refusal = ""
            return snapshot
        finally:
            close_old_connections()

    def _write_given(self) -> None:
        if self.given:
            try:
                register_workers(self.given)
                logger.info("The workers of the command line have been written to the database")
            except ValueError as exc:  # it knows one of them otherwise
                logger.error("The workers of the command line are not written to the database: %s", exc)
            self.given = ()


def register_workers(addresses: Sequence[Address]) -> None:
    """Makes exactly these (name or None, host, port) the enabled workers, in one revision; ValueError names a bad one.

    A known name keeps its weight and draining state at its new address. A bare address keeps the name of the worker
    known there; else it is called after the address until `adopt_name`. All other workers are disabled.
    """
    with recorded(note="command line"):
        wanted = _wanted(Worker.objects.all(), addresses)
        _claim(wanted)
        Worker.objects.exclude(name__in=[worker.name for worker in wanted]).update(enabled=False)


def with_workers(payload: Any, addresses: Sequence[Address]) -> dict[str, Any]:
    """A revision's payload as it would be after `register_workers`; ValueError names a bad one."""
    rows = [Worker(**row) for row in payload.get("workers", [])]
    wanted = _wanted(rows, addresses)
    taken = {worker.name for worker in wanted}, {(worker.host, worker.port) for worker in wanted}
    others = [row for row in rows if row.name not in taken[0] and (row.host, row.port) not in taken[1]]
    for row in others:
        row.enabled = False
    return {**payload, "workers": [{key: getattr(row, key) for key in Worker.PAYLOAD} for row in [*wanted, *others]]}


def _wanted(known: Iterable[Worker], addresses: Sequence[Address]) -> list[Worker]:
    """The rows of these workers, not saved; ValueError names a bad one."""
    rows = {worker.name: worker for worker in known}
    at_address = {(worker.host, worker.port): worker for worker in rows.values()}
    wanted: list[Worker] = []
    given = {name for name, _, _ in addresses}
    for name, host, port in addresses:
        row = rows.get(name) if name else at_address.get((host.lower(), port))
        if row is not None and not name and row.name in given:  # that name is given to another address now
            row = None
        worker = row or Worker(name=name or f"{host}-{port}".replace(":", "-"), named=False)
        worker.host, worker.port, worker.enabled = host, port, True
        worker.named = worker.named or name is not None
        try:
            worker.clean_fields()
            worker.clean()
        except ValidationError as exc:
            sentence = next(iter(exc.message_dict.values()))[0]
            raise ValueError(f"worker {name or ''}{'=' if name else ''}{host}:{port}: {sentence}") from None
        wanted.append(worker)
    for what, values in (("name", [w.name for w in wanted]), ("address", [f"{w.host}:{w.port}" for w in wanted])):
        value, times = Counter(values).most_common(1)[0] if values else ("", 0)
        if times > 1:
            raise ValueError(f"the {what} {value} is given to {times} workers. Give each its own.")
    return wanted


def _claim(wanted: Sequence[Worker]) -> None:
    """Saves these rows; whoever else holds one of their addresses has moved away, and its row goes."""
    names = {worker.name for worker in wanted}
    for worker in wanted:
        # Addresses may be swapped among the wanted ones: out with all that are in the way, then back in.
        Worker.objects.filter(host=worker.host, port=worker.port).exclude(name=worker.name).delete()
    present = set(Worker.objects.filter(name__in=names).values_list("name", flat=True))
    for worker in wanted:
        if worker.name not in present:
            worker.pk = None
            worker._state.adding = True
        worker.save()


def adopt_name(host: str, port: int, node_id: str) -> bool:
    """Whether the worker at this address goes by `node_id` now: a row known by address only takes that name.

    A disabled row of that name makes way, its weight is taken over; an enabled one is another worker, and keeps it.
    """
    with recorded(note=f"handshake of {host}:{port}"):
        row = Worker.objects.filter(host=host, port=port).first()
        if row is None or row.named:
            return row is not None and row.name == node_id
        try:
            validate_name(node_id)
        except ValidationError as exc:
            logger.warning("The worker at %s:%d keeps its address as its name: %s", host, port, exc.messages[0])
            return False
        holder = Worker.objects.filter(name=node_id).exclude(pk=row.pk).first()
        if holder is not None and holder.enabled:
            logger.warning(
                "The workers at %s:%d and %s:%d both call themselves %s. Start one of them with another NODE_ID.",
                host, port, holder.host, holder.port, node_id,
            )  # fmt: skip
            return False
        if holder is not None:
            row.weight = holder.weight
            holder.delete()
        row.name, row.named = node_id, True
        row.save()
        return True
