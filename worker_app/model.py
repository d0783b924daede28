"""One version of a model that is loaded: cache, single flight and batches around its engine, on one event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from inference_site.lib.asks import seed_of
from inference_site.lib.catalog import ModelInfo, State
from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from worker_app.core.admission import Pace
from worker_app.core.batcher import Batcher
from worker_app.core.keys import Key, alias_of
from worker_app.core.lru import LRU
from worker_app.engine import Engine, EngineError, Run
from worker_app.job import Job, Reply, Token, elapsed_us, hand_over
from worker_app.lastrun import LastRun
from worker_app.samples import Sample
from worker_app.tally import Tally

logger = logging.getLogger(__name__)

# A model that answers faster than this runs on the loop itself: handing it to a thread would cost more.
_QUICK_S = 0.0005
# The estimate of a wait may be this much too short, and an answer that comes too late is work for nothing.
_MARGIN = 1.1
# After so long without work it gives back the memory that large batches have left it with.
IDLE_S = 30.0


def limits_of(settings: NodeSettings, record: Record, share: int = 1) -> NodeSettings:
    """The settings for one model: its record's where it says something. `share` models divide the cache's bytes."""
    own = {
        name: value
        for name in ("cache_entries", "batch_size", "batch_wait_ms")
        if (value := getattr(record, name)) is not None
    }
    if record.cached is False:
        own["cache_entries"] = 0
    return msgspec.structs.replace(settings, cache_bytes=settings.cache_bytes // max(1, share), **own)


class Model:
    """Answers asks; `ask` never blocks and calls back once, or never if cancelled.

    Not safe for concurrent access.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        number: int = 1,
        settings: NodeSettings | None = None,
        record: Record | None = None,
        last_run: LastRun | None = None,
    ) -> None:
        """settings: the worker's; record: the model's, as its operator has it by now."""
        self.engine = engine
        self.number = number
        self.name, self.version = engine.name, engine.version
        self.seed = seed_of(self.name, self.version)
        self.made_of: tuple[Any, ...] = ()  # see Want
        self.current = True  # it may be found; else it is here for those who still use its number
        self.closed = False
        self.tally = Tally()
        self.when_idle: Callable[[], None] | None = None
        self.when_changed: Callable[[], None] | None = None
        self.last_run = last_run or LastRun()
        self._flying: dict[Key, Job] = {}  # what may be joined
        self._running: dict[int, list[Job]] = {}  # by session
        self._running_rows = 0
        self._work = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._worked_at = 0.0
        self._threads = [
            ThreadPoolExecutor(1, thread_name_prefix=f"{self.name}-{slot}") for slot in range(engine.sessions)
        ]
        self.pace = Pace(engine.fixed_s, engine.each_s)
        self.results: LRU[Key, bytes] = LRU(0, 0)
        self.aliases: LRU[Key, Key] = LRU(0, 0)
        self.batcher: Batcher[Job] = Batcher(time.monotonic, max_size=1, wait_s=0)
        self._info: ModelInfo
        self.configure(settings or NodeSettings(), record or engine.record)

    @property
    def info(self) -> ModelInfo:
        """What the gateway and clients are told of it."""
        if self._info.current != self.current:
            self._info = self._describe()
        return self._info

    @property
    def in_flight(self) -> int:
        """Samples that wait or run."""
        return self.batcher.first + len(self.batcher) + sum(map(len, self._running.values()))

    @property
    def rate(self) -> float:
        """Rows per second that the engine gets through while there is enough to do."""
        return self.engine.sessions * self.pace.rate(self.batcher.max_size)

    @property
    def wait_s(self) -> float:
        """How long a request that comes now would wait for its turn."""
        return (self.batcher.rows + self._running_rows) * self._row_s

    def ask(
        self, payload: bytes, token: Token, reply: Reply, left_ms: int = 0, watched: int | None = None
    ) -> Job | None:
        """Answers an ask (see asks): from the cache, with one that is under way, or from the engine.

        What is not run within `left_ms` (0: no limit) is answered EXPIRED, and BUSY at once if that can be told now.
        `watched`, a key: a worker was lost that had this ask. It runs before all that waits, alone.
        Returns the job that is waited for, for `cancel`; None if it is answered.
        """
        began = time.monotonic()
        self.tally.requests += 1
        if self.closed:
            reply(token, Tell.GONE, Cache.MISS, 404, b"", 0)
            return None
        sample = None
        if self.cached:
            alias = alias_of(payload, self.seed)
            key = self.aliases.get(alias)
            if key is None:
                sample = self._read(payload, token, reply, began, watched is not None)
                if sample is None:
                    return None
                key = sample.key
                self.aliases.put(alias, key, len(alias) + len(key))
            output = self.results.get(key)
            if output is not None:
                self.tally.hit(began)
                reply(token, Tell.RESULT, Cache.HIT, 200, output, elapsed_us(began))
                return None
            self.tally.miss(began)
            job = self._flying.get(key)
            if job is not None:
                self.tally.joined += 1
                job.join(token, reply, began, left_ms)
                return job
        if sample is None:
            sample = self._read(payload, token, reply, began, watched is not None)
            if sample is None:
                return None
        job = Job(sample, watched)
        if watched is None or not self.batcher.put_first(job):
            if self.batcher.full or (left_ms and self._too_late(left_ms)):
                self._refuse(token, reply)
                return None
            job.watched = None  # it will not run alone
            self.batcher.put(job, sample.rows, sample.group)
        job.join(token, reply, began, left_ms)
        if self.cached:
            self._flying[sample.key] = job
        self._work.set()
        return job

    def check(self, token: Token, reply: Reply, left_ms: int = 0) -> Job | None:
        """Runs the warm-up input as `ask` runs a request, before all that waits: a RESULT without payload, or FAILED.

        The cache has no part in it. Returns like `ask`.
        """
        began = time.monotonic()
        job = Job(self.engine.read(self.engine.probe), is_check=True)
        if not self.batcher.put_first(job):
            self._refuse(token, reply)
            return None
        job.join(token, reply, began, left_ms)
        self._work.set()
        return job

    def cancel(self, job: Job, token: Token, reply: Reply) -> None:
        """This asker of a job has left: it gets no reply, and if it was the only one, the job is not run."""
        job.leave(token, reply)
        if not job.waiters and self.batcher.discard(job):
            self.tally.abandoned += 1
            self._forget(job)
            self._rest()

    def keep(self, alias: Key, key: Key, output: bytes) -> None:
        """Takes over another worker's result if there is room, as the first to be forgotten."""
        kept = self.results.put_oldest(key, output, len(key) + len(output))
        self.tally.kept += kept
        if kept or key in self.results:
            self.aliases.put_oldest(alias, key, len(alias) + len(key))

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
            rows = sum(job.sample.rows for job in jobs)
            self._running[slot] = jobs
            self._running_rows += rows
            if self.engine.sessions > 1 and self.batcher.due_in() == 0:
                self._work.set()  # for the other sessions
            quick = self.engine.typical_s < _QUICK_S and rows <= self.batcher.max_size
            started = time.monotonic()
            try:
                run = await self._run_jobs(loop, jobs, slot, quick)
            finally:
                self._running_rows -= rows
                del self._running[slot]
            self._finish(jobs, run, started)
            if self._info.batches != self.engine.batches:
                self._stop_batching()
            if quick:
                await asyncio.sleep(0)  # let what has arrived meanwhile join the next batch
            ended = time.monotonic()
            self.pace.note(rows, ended - began)
            self._admit()
            began = ended
        self._rest()

    def configure(self, settings: NodeSettings, record: Record, share: int = 1) -> None:
        """Takes new settings, in force from the next request and the next batch on; `share` as for limits_of."""
        self.record, self._settings, self._share = record, settings, share
        limits = self.limits = limits_of(settings, record, share)
        self.cached = record.cached is not False
        self.results.resize(limits.cache_entries, limits.cache_bytes)
        self.aliases.resize(2 * limits.cache_entries, limits.cache_bytes // 4)
        # Without batches several samples in one session would only keep the other sessions idle.
        alone = not self.engine.batches and self.engine.sessions > 1
        self.batcher.configure(
            max_size=1 if alone else limits.batch_size, wait_s=limits.batch_wait_ms / 1000, eager=limits.batch_eager
        )
        self._info = self._describe()
        self._admit()
        if self.in_flight:
            self._work.set()  # what waits may be due by the new settings

    def close(self) -> None:
        """Ends the engine's threads; whoever asks from now on hears that it is gone."""
        self.closed = True
        for timer in (self._timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, payload: bytes, token: Token, reply: Reply, began: float, watched: bool) -> Sample | None:
        """The sample of an ask; None if it has been answered, because it has none or there is no room."""
        if self.batcher.full and not watched:  # so there is no point in reading it
            self._refuse(token, reply)
            return None
        try:
            return self.engine.read(payload)
        except ApiError as error:
            self.tally.fail(began)
            body = error_body(error.message, error.code)
            reply(token, Tell.REFUSED, Cache.MISS, error.status, body, elapsed_us(began))
        except Exception as error:  # a bug of ours: another worker may do better, and this stream goes on
            logger.exception("an input could not be read")
            self.tally.errors += 1
            self.tally.fail(began)
            reply(token, Tell.FAILED, Cache.MISS, 503, str(error).encode(), elapsed_us(began))
        return None

    def _describe(self) -> ModelInfo:
        engine, limits = self.engine, self.limits
        return ModelInfo(
            number=self.number,
            name=self.name,
            version=self.version,
            state=State.READY,
            digest=engine.digest,
            current=self.current,
            inputs=engine.inputs,
            outputs=engine.outputs,
            output=engine.output,
            batches=engine.batches,
            max_batch_size=limits.batch_size if engine.batches else 0,
            max_wait_us=0 if limits.batch_eager else int(limits.batch_wait_ms * 1000),
            cached=self.cached,
            deadline_ms=self.record.deadline_ms,
            provider=engine.provider,
        )

    def _admit(self) -> None:
        """Takes in what the engine can do in time, as far as is known now."""
        size, sessions = self.batcher.max_size, self.engine.sessions
        self.batcher.limit = self.pace.queue_limit(size, sessions * self.limits.queue_ms / 1000)
        self._row_s = 1 / self.rate

    def _too_late(self, left_ms: int) -> bool:
        """Whether a request that comes now could not be answered in time, its own batch included if that will be full.

        With less before it than a batch it is let in: what is known of small batches is not good enough to refuse it.
        """
        wait_s = self.wait_s
        if self.batcher.rows >= self.batcher.max_size:
            wait_s += self.batcher.max_size * self._row_s
        return left_ms < 1000 * wait_s * _MARGIN

    def _refuse(self, token: Token, reply: Reply) -> None:
        """Says BUSY, and for how long."""
        reply(token, Tell.BUSY, Cache.MISS, 503, b"", int(self.wait_s * 1e6))

    def _wanted(self, job: Job) -> bool:
        """Whether somebody waits for a job whose turn has come; whose time has passed is told so."""
        now = time.monotonic()
        if now < job.soonest:
            return True
        late = job.take_late(now)
        if not job.is_check:
            self.tally.expired += len(late)
        if not job.waiters:
            self._forget(job)
        for waiter in late:
            if not job.is_check:
                self.tally.fail(waiter[2])
            hand_over(waiter, Tell.EXPIRED, Cache.MISS, 504, b"")
        return bool(job.waiters)

    async def _run_jobs(self, loop: asyncio.AbstractEventLoop, jobs: list[Job], slot: int, quick: bool) -> Run:
        samples = [job.sample for job in jobs]
        watched = jobs[0].watched
        if watched is None:
            if quick:
                return self._run(samples, slot)
            return await loop.run_in_executor(self._threads[slot], self._run, samples, slot)
        async with self.last_run.lock:
            self.last_run.began(watched)
            try:
                return await loop.run_in_executor(self._threads[slot], self._run, samples, slot)
            finally:
                self.last_run.ended()

    def _run(self, samples: list[Sample], slot: int) -> Run:
        try:
            return self.engine.run(samples, slot)
        except Exception as error:  # a bug of ours: each asker hears of it, and the next batch runs
            logger.exception("a batch of %d failed", len(samples))
            return Run([EngineError(f"{type(error).__name__}: {error}")] * len(samples), 0, 0, 0)

    def _finish(self, jobs: list[Job], run: Run, started: float) -> None:
        tally = self.tally
        if not jobs[0].is_check:  # which runs alone
            tally.batch(jobs, run, started)
        for job, result in zip(jobs, run.results, strict=True):
            cache, count = Cache.MISS, tally.fail
            self._forget(job)
            if isinstance(result, bytes):
                kind, status, payload, count = Tell.RESULT, 200, b"" if job.is_check else result, tally.success
                if self.cached and not job.is_check:
                    key = job.sample.key
                    self.results.put(key, result, len(key) + len(result))
            elif isinstance(result, ApiError) and not job.is_check:
                kind, status, payload = Tell.REFUSED, result.status, error_body(result.message, result.code)
            else:
                tally.errors += 1
                kind, status, payload = Tell.FAILED, 503, str(result).encode()
            for waiter in job.waiters:
                if not job.is_check:
                    count(waiter[2])
                hand_over(waiter, kind, cache, status, payload)
                cache = Cache.JOINED

    def _stop_batching(self) -> None:
        """The engine has found that this model does not batch, whatever its shapes say."""
        self.configure(self._settings, self.record, self._share)
        if self.when_changed is not None:
            self.when_changed()

    def _forget(self, job: Job) -> None:
        """Nobody can join this job any more."""
        if self._flying and self._flying.get(key := job.sample.key) is job:
            del self._flying[key]

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
            self._threads[0].submit(self.engine.shrink)

    def _wake_in(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._work.set)
