"""What a model has done in this process: each number once, for the page, `/health`, the gateway and V2's statistics."""

from __future__ import annotations

import time
from collections.abc import Sequence

from inference_site.lib.catalog import Statistics
from worker_app.engine import Run
from worker_app.job import Job

# Batches of at most so many rows are counted by their size; of larger ones there may be any number of sizes.
_EXACT_ROWS = 1024


class Tally:
    """Counters that only grow. Not safe for concurrent access."""

    __slots__ = ("abandoned", "errors", "expired", "joined", "kept", "requests", "statistics")

    def __init__(self) -> None:
        self.requests = 0
        self.joined = 0
        self.kept = 0  # results taken over from other workers
        self.errors = 0
        self.expired = 0  # requests whose time had passed when it was their turn
        self.abandoned = 0  # samples that nobody waited for any more when it was their turn
        self.statistics = Statistics()

    @property
    def hits(self) -> int:
        """Requests that were answered from the cache."""
        return self.statistics.cache_hits

    def hit(self, began: float) -> None:
        """A request that came at that moment has been answered from the cache."""
        found, took_ns = self.statistics, _ns_since(began)
        found.success += 1
        found.success_ns += took_ns
        _count(found.success_spread, took_ns)
        found.cache_hits += 1
        found.cache_hit_ns += took_ns

    def miss(self, began: float) -> None:
        """A request that came at that moment has not been found in the cache."""
        self.statistics.cache_misses += 1
        self.statistics.cache_miss_ns += _ns_since(began)

    def success(self, began: float) -> None:
        """A request that came at that moment has been computed."""
        took_ns = _ns_since(began)
        self.statistics.success += 1
        self.statistics.success_ns += took_ns
        _count(self.statistics.success_spread, took_ns)

    def fail(self, began: float) -> None:
        """A request that came at that moment was refused, has failed or was too late."""
        self.statistics.fail += 1
        self.statistics.fail_ns += _ns_since(began)

    def late(self, began: float) -> None:
        """A request that came at that moment is not to be run any more."""
        self.statistics.fail_late += 1
        self.fail(began)

    def broken(self, began: float) -> None:
        """The engine has failed on a request that came at that moment."""
        self.statistics.fail_engine += 1
        self.fail(began)

    def batch(self, jobs: Sequence[Job], run: Run, began: float) -> None:
        """A batch has run, from that moment on; only what it has computed counts."""
        found, rows, computed = self.statistics, 0, 0
        for job, result in zip(jobs, run.results, strict=True):
            if isinstance(result, bytes):
                computed += 1
                rows += job.sample.rows
                if job.waiters:
                    waited_ns = int((began - job.waiters[0][2]) * 1e9)
                    found.queue_ns += waited_ns
                    _count(found.queue_spread, waited_ns)
        if not computed:
            return
        found.computed += computed
        found.compute_input_ns += computed * run.input_ns
        found.compute_infer_ns += computed * run.infer_ns
        found.compute_output_ns += computed * run.output_ns
        _count(found.compute_spread, run.input_ns + run.infer_ns + run.output_ns, computed)
        found.inferences += rows
        found.executions += 1
        found.last_inference_ms = time.time_ns() // 1_000_000
        size = rows if rows <= _EXACT_ROWS else 1 << (rows - 1).bit_length()
        count, ns = found.batches.get(size, (0, 0))
        found.batches[size] = count + 1, ns + run.infer_ns

    def add(self, other: Tally) -> None:
        """Adds those of another model."""
        for name in self.__slots__:
            if name != "statistics":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self.statistics.add(other.statistics)


def _count(spread: dict[int, int], ns: int, times: int = 1) -> None:
    bits = ns.bit_length()
    spread[bits] = spread.get(bits, 0) + times


def _ns_since(began: float) -> int:
    return int((time.monotonic() - began) * 1e9)
