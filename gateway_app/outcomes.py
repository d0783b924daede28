"""What the workers' breakers have been told in the last hour, for replays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway_app.core.outcomes import Record

if TYPE_CHECKING:
    from gateway_app.modelset import ModelSet


class Outcomes:
    """Reads what each route's breaker keeps: it goes on under a worker's new name, and ends with its model."""

    def __init__(self, lineup: ModelSet) -> None:
        self._lineup = lineup

    def records(self, worker: str) -> dict[tuple[str, str], Record]:
        """By name and version of each model that is served, what its breaker for this worker has been told.

        To be called on the gateway's loop; what it returns never changes, and may be replayed in any thread.
        """
        found: dict[tuple[str, str], Record] = {}
        for key, model in self._lineup.served.items():
            route = model.router.routes.get(worker)
            record = route.breaker.record() if route is not None else None
            if record is not None:
                found[key] = record
        return found
