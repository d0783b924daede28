"""Guards: a change that takes itself back if errors or latency worsen within a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from django.db import Error as DatabaseUnavailable
from django.db import close_old_connections, transaction
from django.utils import timezone

from gateway_app.core.trial import LEAST_REQUESTS, Figures, Trial, limits_of
from gateway_app.models import Guard, Revision
from gateway_app.restore import RestoreRefused, restore

logger = logging.getLogger(__name__)

AUTHOR = "guard"
# Over so many seconds the present is measured that the future is compared with.
BASE_S = 30
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
    return _decide(revision, Guard.State.SUPERSEDED, f"ended by {author}, the change stays")


def revert(revision: int, why: str, author: str = AUTHOR) -> bool:
    """Takes the change back now; False if the watching has ended already. Raises RestoreRefused."""
    with transaction.atomic():
        if not _decide(revision, Guard.State.REVERTED, why):
            return False
        back_to = Guard.objects.values_list("back_to", flat=True).get(revision=revision)
        restore(back_to, author, why, whatever=True)
        return True


def _decide(revision: int, state: Guard.State, outcome: str) -> bool:
    """By one process only: whoever is first."""
    with transaction.atomic():
        guard = Guard.objects.select_for_update().filter(revision=revision, state=Guard.State.WATCHING).first()
        if guard is None:
            return False
        guard.state, guard.outcome, guard.decided = state, outcome, timezone.now()
        guard.save()
        return True


def figures_of(recent: Mapping[str, Any]) -> Figures:
    """As the gateway's history says them."""
    return Figures(recent["requests"], recent["errors"], recent["p99_ms"])


class GuardWatcher:
    """Judges each guarded change by what one gateway sees. Lives on its loop; rows are read and written in a thread.

    While nothing is watched it waits for `wake`; else it looks once a second. `report` gets each verdict.
    """

    def __init__(self, history: History, revision: Callable[[], int], report: Callable[[str], None]) -> None:
        self._history = history
        self._revision = revision
        self._report = report
        self._woken = asyncio.Event()
        self._watched: Watched | None = None
        self._trial: Trial | None = None

    def wake(self) -> None:
        """A configuration has come into force: it may be guarded."""
        self._woken.set()

    def told(self) -> dict[str, Any] | None:
        """The guard that watches now, or what has become of it, for `/stats`."""
        guard = self._watched
        if guard is None:
            return None
        seen = self._trial.seen if self._trial is not None else Figures()
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
            self._trial = None
            return None
        if not guard.is_watching:
            return SHOWN_S
        if before is None or before.revision != guard.revision:
            self._trial = None
        if self._trial is None:
            if self._revision() < guard.revision:
                return POLL_S  # not in force here yet
            self._trial = Trial(
                limits_of(guard.error_points, guard.p99_factor, guard.base_error_percent, guard.base_p99_ms)
            )
            return POLL_S
        trial = self._trial
        window = figures_of(self._history.recent(trial.window_s))
        worse = trial.judge(figures_of(self._history.recent(1)), window)
        if worse:
            verdict = await asyncio.to_thread(_revert, guard, worse)
        elif not guard.left_s and not trial.is_open:
            verdict = await asyncio.to_thread(_end_well, guard, trial)
        else:
            return POLL_S
        if verdict:
            self._report(f"revision {guard.revision}: {verdict}")
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


def _revert(guard: Watched, worse: str) -> str:
    """What has been decided; "" if another gateway was first. For a thread, as is the next."""
    close_old_connections()
    try:
        outcome = f"taken back by itself: {worse}"
        return outcome if revert(guard.revision, outcome) else ""
    except RestoreRefused as error:
        outcome = f"it could not be taken back, though {worse}: {error}"
        return outcome if _decide(guard.revision, Guard.State.KEPT, outcome) else ""
    finally:
        close_old_connections()


def _end_well(guard: Watched, trial: Trial) -> str:
    close_old_connections()
    try:
        enough = trial.requests >= LEAST_REQUESTS
        outcome = f"kept: {'nothing has become worse' if enough else 'too few to tell'} in {trial.requests:,} requests"
        return outcome if _decide(guard.revision, Guard.State.KEPT, outcome) else ""
    finally:
        close_old_connections()


def supersede(revision: Revision) -> None:
    """Somebody has changed the configuration again: what was watched is not what is in force any more."""
    said = f"revision {revision.pk} was saved meanwhile: {revision.summary}"
    Guard.objects.filter(state=Guard.State.WATCHING).update(
        state=Guard.State.SUPERSEDED, outcome=said, decided=timezone.now()
    )
