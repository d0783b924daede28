"""What a worker can say of a request that is to be explained."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference_site.lib.errors import ApiError
from inference_site.lib.trace import BatchRun, Detail, Parts, header_of, milliseconds, refused_trace
from worker_app.aside import Unread
from worker_app.core.batcher import Release

if TYPE_CHECKING:
    from inference_site.exchange import Asker
    from worker_app.engine import Run
    from worker_app.job import Job, Waiting
    from worker_app.model import Model

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


class Explaining:
    """Hands on what the asker of a request of a client is told, with X-Explain; an exchange.Asker."""

    __slots__ = ("_asked", "_asker", "_key", "_model", "_node_id", "_queued_at", "_since")

    def __init__(self, asker: Asker, model: Model, node_id: str, key: int, since: float) -> None:
        """since: the moment of the monotonic clock at which the request had come whole."""
        self._asker = asker
        self._model = model
        self._node_id = node_id
        self._key = key
        self._since = since
        self._asked: Waiting | None = None
        self._queued_at = since

    def queued(self, asked: Waiting | None) -> None:
        """It waits as this one from now on; None: it has been answered."""
        self._asked, self._queued_at = asked, time.monotonic()

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        """exchange.Asker."""
        cache = "hit" if cached else "joined" if b"x-cache: joined" in headers else "miss"
        self._asker.on_output(output, node_json, cached, time_us, headers + self._line(200, cache, ""))

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        """exchange.Asker."""
        self._asker.on_error(error, headers + self._line(error.status, None, error.message))

    def _line(self, status: int, cache: str | None, message: str) -> bytes:
        took_s, model = time.monotonic() - self._since, self._model
        detail = detail_of(model.ran, self._asked, self._queued_at, int(took_s * 1e6))
        trace = refused_trace(self._node_id, status, message or "this worker was asked itself", took_s)
        trace.model, trace.version, trace.key = model.name, model.version, f"{self._key:016x}"
        trace.cache, trace.batch = cache, detail.batch
        queue_s, compute_s = detail.queue_us / 1e6, detail.compute_us / 1e6
        rest_ms = milliseconds(took_s - queue_s - compute_s)
        trace.parts_ms = Parts(worker=rest_ms, queue=milliseconds(queue_s), compute=milliseconds(compute_s))
        return header_of(trace)
