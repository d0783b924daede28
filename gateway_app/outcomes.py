"""What the workers' breakers have been told in the last hour, for replays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway_app.core.outcomes import Record

if TYPE_CHECKING:
    from gateway_app.modelset import ModelSet


class Outcomes:
    """Reads what each route's breaker keeps: it goes on under a worker's new name, and ends with its model."""

    def __init__(self, lineup: ModelSet, clock: Callable[[], float] = time.monotonic) -> None:
        self._lineup = lineup
        self._clock = clock

    def records(self, worker: str) -> dict[tuple[str, str], Record]:
        """By name and version of each model that is served, what its breaker for this worker has been told.

        To be called on the gateway's loop; what it returns never changes, and may be replayed in any thread.
        """
        now = self._clock()
        routes = {model.key: model.router.routes.get(worker) for model in self._lineup.served.values()}
        logs = {key: route.breaker.outcomes for key, route in routes.items() if route is not None}
        return {key: log.record(now) for key, log in logs.items() if log is not None}
