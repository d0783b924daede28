"""Guards: a change that takes itself back if errors or latency worsen within a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from django.db import Error as DatabaseUnavailable
from django.db import close_old_connections, transaction
from django.utils import timezone

from gateway_app.core.vigil import LEAST_REQUESTS, Figures, Vigil, limits_of
from gateway_app.eventlog import eventrows
from gateway_app.models import Event, Guard, Revision
from gateway_app.operating.restore import RestoreRefused, restore
from gateway_app.previewing.present import figures_of
from gateway_app.revisions import queue

logger = logging.getLogger(__name__)

AUTHOR = "guard"
# A guard's verdict is shown for so long.
SHOWN_S = 600
POLL_S, RETRY_S = 1.0, 5.0
# After a start workers are still connecting: what fails then tells nothing about the change.
START_S = 5.0


class History(Protocol):
    """Figures of the last seconds, as the gateway's history gives them."""

    def recent(self, seconds: int) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """How much worse it may get, and for how long that is watched."""

    error_points: float = 1.0
    p99_factor: float = 2.0
    minutes: float = 5.0


@dataclass(frozen=True, slots=True)
class Watched:
    """One guard as its row says."""

    revision: int
    back_to: int
    state: str
    until: datetime
    error_points: float
    p99_factor: float
    base_error_percent: float
    base_p99_ms: float | None
    outcome: str

    @property
    def is_watching(self) -> bool:
        return self.state == Guard.State.WATCHING

    @property
    def left_s(self) -> float:
        return max(0.0, (self.until - timezone.now()).total_seconds()) if self.is_watching else 0.0


def arm(revision: int, back_to: int, wish: Wish, present: Figures) -> Guard:
    """Has a revision that was just saved watched, compared with the present."""
    return Guard.objects.create(
        revision_id=revision,
        back_to=back_to,
        until=timezone.now() + timedelta(minutes=wish.minutes),
        error_points=wish.error_points,
        p99_factor=wish.p99_factor,
        base_error_percent=present.error_percent or 0.0,
        base_p99_ms=present.p99_ms,
    )


def keep(revision: int, author: str) -> bool:
    """Ends the watching by hand, with the change kept; False if it has ended already."""
    return _decide(revision, Guard.State.SUPERSEDED, "kept by hand", author)


def revert(revision: int, why: str, author: str = AUTHOR) -> bool:
    """Takes the change back now; False if the watching has ended already. Raises RestoreRefused."""
    with transaction.atomic():
        queue()  # whoever saves something now ends the watching, and locks the guard's row after this one
        if not _decide(revision, Guard.State.REVERTED, why, author):
            return False
        back_to = Guard.objects.values_list("back_to", flat=True).get(revision=revision)
        restore(back_to, author, why, whatever=True)
        return True


def _decide(revision: int, state: Guard.State, outcome: str, author: str = AUTHOR) -> bool:
    """By one process only: whoever is first."""
    with transaction.atomic():
        guard = Guard.objects.select_for_update().filter(revision=revision, state=Guard.State.WATCHING).first()
        if guard is None:
            return False
        guard.state, guard.outcome, guard.decided = state, outcome, timezone.now()
        guard.save()
        if state != Guard.State.REVERTED:  # that is a new revision, which has an event of its own
            eventrows.record(Event.Kind.CONFIG, f"guard of revision {revision}: {outcome}", author=author)
        return True


def told_of(guard: Guard) -> str:
    """What it does, in a sentence."""
    limits = limits_of(guard.error_points, guard.p99_factor, guard.base_error_percent, guard.base_p99_ms)
    p99 = f" or the p99 latency {limits.p99_ms:,.1f} ms" if limits.p99_ms is not None else ""
    until = timezone.localtime(guard.until)
    return (
        f"Revision {guard.revision_id} is watched until {until:%H:%M:%S %Z}: if errors exceed"
        f" {limits.error_percent:.2g} %{p99}, revision {guard.back_to} comes back by itself."
    )


class GuardWatcher:
    """Judges each guarded change by what one gateway sees. Lives on its loop; rows are read and written in a thread.

    While nothing is watched it waits for `wake`; else it looks once a second. `revision` is the one in force.
    """

    def __init__(self, history: History, revision: Callable[[], int]) -> None:
        self._history = history
        self._revision = revision
        self._woken = asyncio.Event()
        self._watched: Watched | None = None
        self._vigil: Vigil | None = None
        self._judged_at = 0.0  # on the monotonic clock

    def wake(self) -> None:
        """A configuration has come into force: it may be guarded."""
        self._woken.set()

    def told(self) -> dict[str, Any] | None:
        """The guard that watches now, or what has become of it, for `/stats`."""
        guard = self._watched
        if guard is None:
            return None
        seen = self._vigil.seen if self._vigil is not None else Figures()
        percent = seen.error_percent
        facts = asdict(guard)
        del facts["until"]
        return {
            **facts,
            "left_s": round(guard.left_s, 1),
            "error_percent": None if percent is None else round(percent, 3),
            "p99_ms": seen.p99_ms,
        }

    async def run(self) -> None:
        """Until it is cancelled."""
        await asyncio.sleep(START_S)
        while True:
            self._woken.clear()
            pause_s: float | None = RETRY_S
            try:
                pause_s = await self._look()
            except DatabaseUnavailable as error:
                logger.debug("guards cannot be read now: %s", error)
            except Exception:  # a bug must not end the watching for good
                logger.exception("a guard could not be followed; trying again")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()

    async def _look(self) -> float | None:
        """One look; how long to wait until the next."""
        before, self._watched = self._watched, await asyncio.to_thread(_newest)
        guard = self._watched
        if guard is None:
            self._vigil = None
            return None
        if not guard.is_watching:
            return SHOWN_S
        if before is None or before.revision != guard.revision:
            self._vigil = None
        if self._vigil is None:
            if self._revision() < guard.revision:
                return POLL_S  # not in force here yet
            self._vigil = Vigil(
                limits_of(guard.error_points, guard.p99_factor, guard.base_error_percent, guard.base_p99_ms)
            )
            self._judged_at = time.monotonic()
            return POLL_S
        left_s = self._judged_at + POLL_S - time.monotonic()
        if left_s > POLL_S / 10:  # woken meanwhile: the second that was judged last is not another one
            return left_s
        self._judged_at = time.monotonic()
        vigil = self._vigil
        window = figures_of(self._history.recent(vigil.window_s))
        worse = vigil.judge(figures_of(self._history.recent(1)), window)
        if worse:
            await asyncio.to_thread(_revert, guard, worse)
        elif not guard.left_s and not vigil.is_open:
            await asyncio.to_thread(_end_well, guard, vigil)
        else:
            return POLL_S
        return 0.0


def _newest() -> Watched | None:
    """The guard that watches, or the last one if its verdict is not old. For a thread."""
    close_old_connections()
    try:
        names = [name for name in Watched.__dataclass_fields__ if name != "revision"]
        row = Guard.objects.order_by("-id").values("revision_id", "decided", *names).first()
        if row is None:
            return None
        decided = row.pop("decided")
        if decided is not None and (timezone.now() - decided).total_seconds() > SHOWN_S:
            return None
        return Watched(revision=row.pop("revision_id"), **row)
    finally:
        close_old_connections()


def _revert(guard: Watched, worse: str) -> None:
    close_old_connections()
    try:
        revert(guard.revision, f"taken back by itself: {worse}")
    except RestoreRefused as error:
        _decide(guard.revision, Guard.State.KEPT, f"could not be taken back, though {worse}: {error}")
    finally:
        close_old_connections()


def _end_well(guard: Watched, vigil: Vigil) -> None:
    close_old_connections()
    try:
        enough = vigil.requests >= LEAST_REQUESTS
        found = "nothing has become worse in" if enough else "too few requests to tell:"
        _decide(guard.revision, Guard.State.KEPT, f"kept: {found} {vigil.requests:,} requests since then")
    finally:
        close_old_connections()


def supersede(revision: Revision) -> None:
    """Somebody has changed the configuration again: what was watched is not what is in force any more."""
    said = f"revision {revision.pk} was saved meanwhile: {revision.summary}"
    Guard.objects.filter(state=Guard.State.WATCHING).update(
        state=Guard.State.SUPERSEDED, outcome=said, decided=timezone.now()
    )
