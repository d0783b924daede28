"""What happened to breakers: the newest in memory, for the dashboard, and all of them in the database, for later."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from django.db import connections, transaction
from django.utils import timezone

from gateway_app import models

logger = logging.getLogger(__name__)

RECENT = 100
PENDING = 1000
KEPT = 100_000
REASON = 1000  # characters
STOP_S = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a breaker's state; `since` is the monotonic clock, for its age."""

    at: datetime
    since: float
    worker: str
    before: str
    after: str
    reason: str


class EventLog:
    """Notes events on the gateway's loop; a task writes them to the database behind its back, once a second at most.

    With the database away they wait, the oldest dropped beyond PENDING and counted in `dropped`. `gateway` says which
    process they are of, by default as host/pid.
    """

    def __init__(self, gateway: str = "", pause_s: float = 1.0) -> None:
        self.gateway = gateway or f"{socket.gethostname()}/{os.getpid()}"
        self.recent: deque[Event] = deque(maxlen=RECENT)
        self.dropped = 0
        self._pending: deque[Event] = deque()
        self._pause_s = pause_s
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    def add(self, worker: str, before: str, after: str, reason: str) -> None:
        """Notes a change of state that has just happened. Neither waits nor raises."""
        # Worded by a worker in part: neither long nor with what PostgreSQL takes in no text.
        text = reason[:REASON].replace("\0", "").encode(errors="replace").decode()
        event = Event(timezone.now(), time.monotonic(), worker, str(before), str(after), text)
        self.recent.append(event)
        self._pending.append(event)
        self._trim()
        self._woken.set()

    async def start(self) -> None:
        """Begins to write."""
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

    def _trim(self) -> None:
        while len(self._pending) > PENDING:
            self._pending.popleft()
            self.dropped += 1

    async def _follow(self) -> None:
        while not self._stopping.is_set():
            await self._woken.wait()
            self._woken.clear()
            await self._write_pending()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s):
                    await self._stopping.wait()
            if self._pending:
                self._woken.set()
        await self._write_pending()

    async def _write_pending(self) -> None:
        events, self._pending = self._pending, deque()
        if not events:
            return
        try:
            await _in_daemon_thread(lambda: _write(self.gateway, events))
        except Exception as exc:  # whatever it is, the events wait: the next try may be the one that succeeds
            self._pending = events + self._pending
            self._trim()
            if not self._failing:
                logger.warning("Events of breakers cannot be written to the database, trying again: %s", exc)
            self._failing = True
        else:
            if self._failing:
                logger.info("Events of breakers are written to the database again; %d were dropped", self.dropped)
            self._failing = False


def _write(gateway: str, events: Sequence[Event]) -> None:
    rows = [
        models.Event(
            at=event.at,
            gateway=gateway[:300],
            worker=event.worker[:100],
            before=event.before[:20],
            after=event.after[:20],
            reason=event.reason,
        )
        for event in events
    ]
    with transaction.atomic():
        models.Event.objects.bulk_create(rows)
        for last in models.Event.objects.order_by("-id").values_list("id", flat=True)[KEPT : KEPT + 1]:
            models.Event.objects.filter(id__lte=last).delete()


async def _in_daemon_thread(function: Callable[[], None]) -> None:
    """Runs it in a thread of its own, which keeps no process from ending while a database does not answer."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(failure: Exception | None) -> None:
        if done.done():
            return
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(failure)

    def run() -> None:
        failure = None
        try:
            function()
        except Exception as exc:
            failure = exc
        finally:
            connections.close_all()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, failure)

    threading.Thread(target=run, name="event log", daemon=True).start()
    await done
