"""Counts what the worker that tries something does, and what the others do meanwhile; once a second, on the loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.utils import timezone

from gateway_app.canaries.trial import Trial
from gateway_app.models import Canary

if TYPE_CHECKING:
    from gateway_app.catalog import Key
    from gateway_app.core.call import Route
    from gateway_app.gateway import Gateway

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Tally:
    """Counts of some workers. The first ones are of what this gateway asked, the others of all that they ran."""

    answered: int = 0
    failed: int = 0
    hits: int = 0
    computed: int = 0
    sent_s: float = 0.0  # from sending to the answer, of those that were computed
    ran: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    rows: int = 0
    batches: int = 0

    def grow(self, before: Tally, now: Tally) -> None:
        """Adds what has come between two readings of the same counters; nothing if they began anew."""
        if now.answered >= before.answered and now.ran >= before.ran:
            for each in fields(self):
                grown = getattr(now, each.name) - getattr(before, each.name)
                setattr(self, each.name, getattr(self, each.name) + grown)


class CanaryWatch:
    """Follows the canary of a gateway; begins anew with each. Lives on the gateway's loop."""

    def __init__(self) -> None:
        self.canary, self.others = Tally(), Tally()
        self.computed_of: Counter[Key] = Counter()  # by the canary's worker
        self.began = 0.0
        self.author = ""
        self._age_s = 0.0  # when this watch began
        self._trial: Trial | None = None
        self._seen: dict[tuple[Route, str], Tally] = {}
        self._reading: asyncio.Task[None] | None = None

    @property
    def age_s(self) -> float:
        """Since it was started, by whichever gateway."""
        return self._age_s + self.counted_s

    @property
    def counted_s(self) -> float:
        """Since when this gateway has been counting."""
        return time.monotonic() - self.began

    def tick(self, gateway: Gateway) -> None:
        """Ends a second."""
        if gateway.snapshot.canary != self._trial:
            self._begin(gateway.snapshot.canary)
        if self._trial is None:
            return
        seen: dict[tuple[Route, str], Tally] = {}
        for side, key, route in routes_compared(gateway, self._trial):
            now = _reading(gateway, route)
            seen[route, route.instance] = now
            before = self._seen.get((route, route.instance), now)
            (self.canary if side else self.others).grow(before, now)
            if side:
                self.computed_of[key] += max(0, now.computed - before.computed)
        self._seen = seen

    def _begin(self, trial: Trial | None) -> None:
        self._trial, self.began = trial, time.monotonic()
        self.canary, self.others = Tally(), Tally()
        self.computed_of.clear()
        self._seen = {}
        self.author, self._age_s = "", 0.0
        if trial is not None:
            self._reading = asyncio.get_running_loop().create_task(self._read_row(trial), name="canary's row")

    async def _read_row(self, trial: Trial) -> None:
        """Who has started it and when is of no matter to workers, so a revision does not say it."""
        author, age_s = await asyncio.to_thread(_row_of, trial.worker)
        if self._trial is trial:
            self.author, self._age_s = author, max(0.0, age_s - self.counted_s)


def routes_compared(gateway: Gateway, trial: Trial) -> Iterator[tuple[bool, Key, Route]]:
    """The routes to compare, with their models; True: to the worker that tries, False: to another one.

    Of a version that is tried, its answers are compared with those of the version that the others have.
    """
    lineup = gateway.lineup
    stable = lineup.catalog.newest.get(trial.model)
    for key, model in lineup.served.items():
        for name, route in model.router.routes.items():
            side = name == trial.worker
            wanted = (trial.model, trial.version if side else stable) if trial.model else key
            if key == wanted and (side or route.staying):
                yield side, key, route


def _reading(gateway: Gateway, route: Route) -> Tally:
    link = gateway.links.get(route.name)
    said = link.stats_of(route).get("statistics", {}) if link is not None else {}
    compute = ("compute_input_ns", "compute_infer_ns", "compute_output_ns")
    return Tally(
        route.requests,
        route.failures,
        route.hits,
        route.computed,
        route.sent_s,
        said.get("computed", 0),
        said.get("queue_ns", 0),
        sum(said.get(name, 0) for name in compute),
        said.get("inferences", 0),
        said.get("executions", 0),
    )


def _row_of(worker: str) -> tuple[str, float]:
    """Author and age in seconds of the canary on this worker. For a thread."""
    try:
        close_old_connections()
        row = Canary.objects.filter(worker=worker).first()
    except DatabaseError as error:
        logger.warning("Who has started the canary on %s cannot be read: %s", worker, error)
        return "", 0.0
    finally:
        close_old_connections()
    return ("", 0.0) if row is None else (row.author, (timezone.now() - row.started).total_seconds())
