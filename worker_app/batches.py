"""Runs what waits for one engine, batch after batch, in as many sessions as it has."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from inference_site.lib.datatypes import BYTES
from inference_site.lib.nodesettings import NodeSettings
from worker_app.aside import Aside, Unread
from worker_app.core.admission import Pace
from worker_app.core.batcher import Batcher
from worker_app.engine import Engine, EngineError, Run
from worker_app.explained import Ran
from worker_app.job import Job
from worker_app.lastrun import LastRun
from worker_app.samples import Sample

logger = logging.getLogger(__name__)

# A model that answers faster than this runs on the loop itself: handing it to a thread would cost more.
_QUICK_S = 0.0005
# But only if its input is at most so many times as large as what it has been given of late; that is smoothed like the
# engine's own estimate of the time.
_LARGER = 2.0
_GAIN = 0.2
# The estimate of a wait may be this much too short, and an answer that comes too late is work for nothing.
_MARGIN = 1.1
# After so long without work the engine gives back the memory that large batches have left it with.
IDLE_S = 30.0


class Batches:
    """The queue of one engine, and who runs it. Not safe for concurrent access.

    Whoever extends it says which jobs are still wanted, and takes what has become of them.
    """

    def __init__(self, engine: Engine, name: str, last_run: LastRun | None) -> None:
        """name: for its threads."""
        self.engine = engine
        self.last_run = last_run or LastRun()
        self.closed = False
        self.when_idle: Callable[[], None] | None = None  # called, instead of what it does when it is idle
        self.pace = Pace(engine.fixed_s, engine.each_s)
        self.ran: Ran | None = None  # while the results of a run are handed over
        self._runs = 0
        self.batcher: Batcher[Job] = Batcher(time.monotonic, max_size=1, wait_s=0)
        self._queue_s = 0.0  # the longest that a request may wait
        self._row_s = 0.0  # that a row takes while there is enough to do
        self._running: dict[int, list[Job]] = {}  # by session
        self._running_rows = 0
        self.aside = Aside(name, self._attend)  # what is to be read before it can be queued
        self._work = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._worked_at = 0.0
        self._said_held = False  # that memory could not be given back
        # What is known of the time that a run takes is worth little for inputs of other sizes than those that were run.
        self._varies = any(
            -1 in each.shape[1 if engine.batches else 0 :] or each.datatype == BYTES for each in engine.inputs
        )
        self._row_bytes = _row_bytes(engine.read(engine.probe))  # of late
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"{name}-{slot}") for slot in range(engine.sessions)]

    @property
    def in_flight(self) -> int:
        """Samples that wait or run."""
        return len(self.aside) + self.batcher.first + len(self.batcher) + sum(map(len, self._running.values()))

    @property
    def full(self) -> bool:
        """Whether so much waits already that nothing more is taken in."""
        return self.batcher.rows + len(self.aside) >= self.batcher.limit

    @property
    def rate(self) -> float:
        """Rows per second that the engine gets through while there is enough to do."""
        return self.engine.sessions * self.pace.rate(self.batcher.max_size)

    @property
    def wait_s(self) -> float:
        """How long a request that comes now would wait for its turn."""
        return (self.batcher.rows + self._running_rows) * self._row_s

    def wake(self) -> None:
        """Makes `work` return: there may be something to do."""
        self._work.set()

    async def work(self) -> None:
        """Returns once something waits for the engine."""
        await self._work.wait()
        self._work.clear()

    async def run_batches(self, slot: int = 0) -> None:
        """Runs batch after batch until none is due, in one of the engine's sessions. One caller for each at a time."""
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        while (due_s := self.batcher.due_in()) is not None:
            if due_s > 0:
                self._wake_in(loop, due_s)
                return
            jobs = self.batcher.take(self._wanted)
            if not jobs:
                continue
            rows, release = sum(job.sample.rows for job in jobs), self.batcher.release
            self._runs += 1
            number = self._runs
            self._running[slot] = jobs
            self._running_rows += rows
            if self.engine.sessions > 1 and self.batcher.due_in() == 0:
                self._work.set()  # for the other sessions
            quick = self.engine.typical_s < _QUICK_S and rows <= self.batcher.max_size and self._usual(jobs)
            started = time.monotonic()
            try:
                run = await self._run_jobs(loop, jobs, slot, quick)
            finally:
                self._running_rows -= rows
                del self._running[slot]
            self.ran = Ran(number, rows, jobs, release, slot, started, run)
            try:
                self._finish(jobs, run, started)
            finally:
                self.ran = None
            if quick:
                await asyncio.sleep(0)  # let what has arrived meanwhile join the next batch
            ended = time.monotonic()
            self.pace.note(rows, ended - began)
            self._admit()
            began = ended
        self._rest()

    def tune(self, limits: NodeSettings) -> None:
        """Takes new limits, for what waits already too."""
        self._queue_s = limits.queue_ms / 1000
        # Without batches several samples in one session would only keep the other sessions idle.
        alone = not self.engine.batches and self.engine.sessions > 1
        self.batcher.configure(
            max_size=1 if alone else limits.batch_size, wait_s=limits.batch_wait_ms / 1000, eager=limits.batch_eager
        )
        self._admit()
        if self.in_flight:
            self._work.set()  # what waits may be due by the new limits

    def close(self) -> None:
        """Ends the engine's threads; whoever asks from now on hears that it is gone."""
        self.closed = True
        for timer in (self._timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self.aside.close()
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)

    def _wanted(self, job: Job) -> bool:
        """Whether somebody waits for a job whose turn has come."""
        raise NotImplementedError

    def _finish(self, jobs: list[Job], run: Run, started: float) -> None:
        """A batch has run, from that moment on."""
        raise NotImplementedError

    async def _attend(self, unread: Unread) -> None:
        """It is the turn of a large ask to be read."""
        raise NotImplementedError

    def _admit(self) -> None:
        """Takes in what the engine can do in time, as far as is known now."""
        size, sessions = self.batcher.max_size, self.engine.sessions
        self.batcher.limit = self.pace.queue_limit(size, sessions * self._queue_s)
        self._row_s = 1 / self.rate

    def _too_late(self, left_ms: int) -> bool:
        """Whether a request that comes now could not be answered in time, its own batch included if that will be full.

        With less before it than a batch it is let in: what is known of small batches is not good enough to refuse it.
        """
        wait_s = self.wait_s
        if self.batcher.rows >= self.batcher.max_size:
            wait_s += self.batcher.max_size * self._row_s
        return left_ms < 1000 * wait_s * _MARGIN

    def _usual(self, jobs: list[Job]) -> bool:
        """Whether these are not much larger than what was run of late."""
        if not self._varies:
            return True
        largest = max(_row_bytes(job.sample) for job in jobs)
        usual = largest <= _LARGER * self._row_bytes
        self._row_bytes += _GAIN * (largest - self._row_bytes)
        return usual

    async def _run_jobs(self, loop: asyncio.AbstractEventLoop, jobs: list[Job], slot: int, quick: bool) -> Run:
        samples = [job.sample for job in jobs]
        watched = jobs[0].watched
        async with self.last_run.beside() if watched is None else self.last_run.alone(watched):
            if quick and watched is None:
                return self._run(samples, slot)
            return await loop.run_in_executor(self._threads[slot], self._run, samples, slot)

    def _run(self, samples: list[Sample], slot: int) -> Run:
        try:
            return self.engine.run(samples, slot)
        except Exception as error:  # a bug of ours: each asker hears of it, and the next batch runs
            logger.exception("a batch of %d failed", len(samples))
            return Run([EngineError(f"{type(error).__name__}: {error}")] * len(samples), 0, 0, 0)

    def _rest(self) -> None:
        """Whenever there is nothing to do; after a while the engine gives back what it does not need."""
        if self.in_flight or self.closed:
            return
        if self.when_idle is not None:
            self.when_idle()
            return
        self._worked_at = time.monotonic()
        if self._idle_timer is None:
            self._idle_timer = asyncio.get_running_loop().call_later(IDLE_S, self._shrink)

    def _shrink(self) -> None:
        self._idle_timer = None
        left_s = self._worked_at + IDLE_S - time.monotonic()
        if self.in_flight or left_s > 0:
            self._idle_timer = asyncio.get_running_loop().call_later(max(left_s, IDLE_S / 10), self._shrink)
        else:
            self._threads[0].submit(self._give_back)

    def _give_back(self) -> None:
        try:
            self.engine.shrink()
        except Exception as error:  # it goes on serving, with what it holds
            if not self._said_held:
                self._said_held = True
                logger.warning("%s could not give its memory back: %s", self.engine.path.name, error)

    def _wake_in(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._work.set)


def _row_bytes(sample: Sample) -> float:
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in sample.parts) / sample.rows
