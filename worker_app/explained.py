"""What a worker can say of a request that is to be explained."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference_site.lib.trace import BatchRun, Detail
from worker_app.aside import Unread
from worker_app.core.batcher import Release

if TYPE_CHECKING:
    from worker_app.engine import Run
    from worker_app.job import Job, Waiting

_NOTHING = Detail()


@dataclass(frozen=True, slots=True)
class Ran:
    """A run whose results are being handed over; `started` is a moment of the monotonic clock."""

    number: int
    rows: int
    jobs: list[Job]
    release: Release | None
    session: int
    started: float
    run: Run

    def told(self) -> BatchRun:
        """As a trace has it."""
        requests = sum(len(job.waiters) for job in self.jobs)
        return BatchRun(self.number, self.rows, requests, self.release or "first", self.session)


def detail_of(ran: Ran | None, asked: Waiting | None, queued_at: float, time_us: int) -> Detail:
    """How a request went whose outcome is told now, `time_us` after it came. It was queued at that moment of the
    monotonic clock, unless it had to be read in a thread before; None: nothing was run for it."""
    if ran is None:
        return _NOTHING
    now = time.monotonic()
    if isinstance(asked, Unread):
        queued_at = asked.read_at
    queued_at = max(queued_at, now - time_us / 1e6)
    run = ran.run
    # One that joined while the batch was running has not waited for all of it.
    compute_s = min((run.input_ns + run.infer_ns + run.output_ns) / 1e9, now - max(queued_at, ran.started))
    queue_s = max(0.0, ran.started - queued_at)
    return Detail(int(queue_s * 1e6), max(0, int(compute_s * 1e6)), ran.told())
