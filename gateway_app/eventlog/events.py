"""What has happened: the newest in memory, for the dashboard, and all of it in the database, for later."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from django.db import close_old_connections, connections
from django.utils import timezone

from gateway_app import models
from gateway_app.core.storms import Storms
from gateway_app.eventlog import eventrows

logger = logging.getLogger(__name__)

T = TypeVar("T")

RECENT = 100
PENDING = 1000
STOP_S = 1.0
# How often events that others have written are looked for without a new revision.
LOOK_S = 5.0
# Of what was written before this process began, so many are shown.
AT_START = 20


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `since` is the monotonic clock, for its age. The rest is as in models.Event."""

    at: datetime
    since: float
    kind: str
    worker: str
    model: str
    before: str
    after: str
    reason: str
    author: str


class EventLog:
    """Notes events on the gateway's loop; a task writes them to the database behind its back, once a second at most.

    Those that were written along with a change of the configuration, by any process, are read from there and shown
    too, each once. With the database away events wait, the oldest dropped beyond PENDING and counted in `dropped`. What
    happens over and over to one worker is held back and counted. `gateway` says which process they are of, by default
    as host/pid. `listeners` are called on the loop when `recent` has changed.
    """

    def __init__(self, gateway: str = "", pause_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.gateway = gateway or f"{socket.gethostname()}/{os.getpid()}"
        self.recent: deque[Event] = deque(maxlen=RECENT)
        self.listeners: set[Callable[[], None]] = set()
        self.dropped = 0
        self._clock = clock
        self._storms: Storms[Event] = Storms(clock)
        self._pending: deque[Event] = deque()
        self._pause_s = pause_s
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failing = False
        self._task: asyncio.Task[None] | None = None
        self._look = True  # whether others may have written something
        self._looked_at = clock()
        self._read: int | None = None  # the newest number that has been read
        self._seen: set[int] = set()  # numbers of what was read of late

    def add(
        self,
        kind: str,
        reason: str,
        *,
        worker: str = "",
        model: str = "",
        before: str = "",
        after: str = "",
        author: str = "",
    ) -> None:
        """Notes what this gateway has seen happen just now. Neither waits nor raises."""
        now, text = self._clock(), eventrows.clean(reason)
        event = Event(timezone.now(), now, str(kind), worker, model, str(before), str(after), text, author)
        if self._storms.admits((event.kind, worker, model), event):
            self._take(event)

    def look(self) -> None:
        """Others may have written events: with a new revision they have."""
        self._look = True
        self._woken.set()

    def tick(self) -> None:
        """To be called about once a second: what was held back is told when it has calmed down."""
        for event, count in self._storms.calmed():
            more = f"{event.reason} (the last of {count:,} in a short time)" if count > 1 else event.reason
            self._take(replace(event, reason=more))
        if self._clock() - self._looked_at >= LOOK_S:
            self.look()

    async def start(self) -> None:
        """Begins to write, and to read."""
        self._woken.set()
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="event log")

    async def stop(self) -> None:
        """Writes what is left, if that succeeds within STOP_S."""
        self._stopping.set()
        self._woken.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=STOP_S)
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _take(self, event: Event) -> None:
        self.recent.append(event)
        self._pending.append(event)
        self._trim()
        self._woken.set()
        self._tell()

    def _tell(self) -> None:
        for listener in tuple(self.listeners):
            try:
                listener()
            except Exception:  # a page that can't be told must not keep the event from the database
                logger.exception("a listener of events failed")

    def _trim(self) -> None:
        while len(self._pending) > PENDING:
            self._pending.popleft()
            self.dropped += 1

    async def _follow(self) -> None:
        while not self._stopping.is_set():
            await self._woken.wait()
            self._woken.clear()
            if self._look:
                await self._read_told()
            await self._write_pending()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s):
                    await self._wake_early()
            if self._pending:
                self._woken.set()
        await self._write_pending()

    async def _wake_early(self) -> None:
        """Returns before the pause is over only to stop, or to read."""
        while not self._stopping.is_set() and not self._look:
            self._woken.clear()
            await self._woken.wait()
        self._woken.set()

    async def _read_told(self) -> None:
        """Shows what others have written."""
        self._look, self._looked_at = False, self._clock()
        try:
            newest, rows = await _in_daemon_thread(lambda: eventrows.told_since(self._read))
        except Exception as exc:  # the next revision, or LOOK_S, has it read again
            logger.debug("events of others cannot be read: %s", exc)
            return
        new = [row for row in rows if row.pk not in self._seen]
        if self._read is None:
            new = new[-AT_START:]
        self._read = newest
        self._seen = {number for number in self._seen if number > newest - 2 * eventrows.OVERLAP}
        self._seen.update(row.pk for row in rows)
        found = [self._shown(row) for row in new]
        if found:  # what somebody did comes before what this gateway has seen come of it
            self.recent = deque(sorted([*self.recent, *found], key=lambda event: event.at), RECENT)
            self._tell()

    def _shown(self, row: models.Event) -> Event:
        since = self._clock() - max(0.0, (timezone.now() - row.at).total_seconds())
        return Event(row.at, since, row.kind, row.worker, row.model, row.before, row.after, row.reason, row.author)

    async def _write_pending(self) -> None:
        events, self._pending = self._pending, deque()
        if not events:
            return
        try:
            await _in_daemon_thread(lambda: eventrows.write([self._row(event) for event in events]))
        except Exception as exc:  # whatever it is, the events wait: the next try may be the one that succeeds
            self._pending = events + self._pending
            self._trim()
            if not self._failing:
                logger.warning("Events cannot be written to the database, trying again: %s", exc)
            self._failing = True
        else:
            if self._failing:
                logger.info("Events are written to the database again; %d were dropped", self.dropped)
            self._failing = False

    def _row(self, event: Event) -> models.Event:
        return models.Event(
            at=event.at,
            kind=event.kind,
            gateway=self.gateway,
            worker=event.worker,
            model=event.model,
            before=event.before,
            after=event.after,
            reason=event.reason,
            author=event.author,
        )


async def _in_daemon_thread(function: Callable[[], T]) -> T:
    """Runs it in a thread of its own, which keeps no process from ending while a database does not answer."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, failure: Exception | None) -> None:
        if done.done():
            return
        if failure is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(failure)

    def run() -> None:
        result = failure = None
        try:
            close_old_connections()
            result = function()
        except Exception as exc:
            failure = exc
        finally:
            connections.close_all()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=run, name="event log", daemon=True).start()
    return await done
