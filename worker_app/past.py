"""What models have done that are not loaded any more: so no count of a worker ever goes down."""

from __future__ import annotations

from inference_site.lib.catalog import Statistics
from worker_app.batchsizes import Histogram, add_batches
from worker_app.model import Model
from worker_app.tally import Tally


class Past:
    """Their counts: `tally` and `batches` of all together."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.batches: Histogram = {}
        self.rows = 0
        self._statistics: dict[tuple[str, str], Statistics] = {}  # by name and version

    def add(self, model: Model) -> None:
        """A model has been unloaded."""
        self.tally.add(model.tally)
        add_batches(self.batches, model.batcher.histogram)
        self.rows += model.batcher.taken
        self._statistics.setdefault((model.name, model.version), Statistics()).add(model.statistics)

    def statistics(self, name: str, version: str) -> Statistics:
        """Of a version; to be added to."""
        found = Statistics()
        found.add(self._statistics.get((name, version), Statistics()))
        return found
