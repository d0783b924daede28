"""A worker's heart: cache, single flight and batches around one engine, on one event loop."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from worker_app.core.admission import Pace
from worker_app.core.batcher import Batcher
from worker_app.core.keys import Key, alias_of, key_of
from worker_app.core.lru import LRU
from worker_app.engine import Engine, EngineError
from worker_app.job import Job, Reply, Token, elapsed_us, hand_over
from worker_app.lastrun import LastRun

logger = logging.getLogger(__name__)

# A model that answers faster than this runs on the loop itself: handing it to a thread would cost more.
_QUICK_S = 0.0005
# The estimate of a wait may be this much too short, and an answer that comes too late is work for nothing.
_MARGIN = 1.1


class GatewayStream(Protocol):
    """One of the connections of a gateway."""

    bulk: bool

    def say_draining(self) -> None: ...


class Node:
    """Answers requests; `infer` never blocks and calls back once, or never if cancelled.

    Not safe for concurrent access.
    """

    def __init__(
        self,
        node_id: str,
        engine: Engine,
        settings: NodeSettings | None = None,
        last_run: LastRun | None = None,
    ) -> None:
        self.node_id = node_id
        self.engine = engine
        self.last_run = last_run or LastRun()
        self.settings = settings = settings or NodeSettings()
        self.instance = secrets.token_hex(8)
        self.started_at = time.monotonic()
        self.draining = False
        self.total_requests = 0
        self.cache_hits = 0
        self.joined = 0
        self.kept = 0  # results taken over from other workers
        self.errors = 0
        self.expired = 0  # requests whose time had passed when it was their turn
        self.abandoned = 0  # samples that nobody waited for any more when it was their turn
        self.gateways: set[GatewayStream] = set()
        self.results: LRU[Key, bytes] = LRU(settings.cache_entries, settings.cache_bytes)
        self.aliases: LRU[Key, Key] = LRU(2 * settings.cache_entries, settings.cache_bytes // 4)
        self.batcher: Batcher[Job] = Batcher(
            time.monotonic,
            max_size=settings.batch_size,
            wait_s=settings.batch_wait_ms / 1000,
            eager=settings.batch_eager,
        )
        self.pace = Pace(engine.fixed_s, engine.each_s)
        self._admit()
        self._jobs: dict[Key, Job] = {}
        self._running: list[Job] = []
        self._work = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @property
    def in_flight(self) -> int:
        """Samples that wait or run."""
        return len(self._jobs)

    @property
    def rate(self) -> float:
        """Samples per second that the engine gets through while there is enough to do."""
        return self.pace.rate(self.settings.batch_size)

    @property
    def wait_s(self) -> float:
        """How long a request that comes now would wait for its turn."""
        return (len(self.batcher) + len(self._running)) * self._sample_s

    def infer(
        self, text: bytes, token: Token, reply: Reply, left_ms: int = 0, watched: int | None = None
    ) -> Job | None:
        """Answers the text of an input_data: from the cache, with one that is under way, or from the engine.

        What is not run within `left_ms` (0: no limit) is answered EXPIRED, and BUSY at once if that can be told now.
        `watched`, a key: a worker was lost that had this input. It runs before all that waits, alone.
        Returns the job that is waited for, for `cancel`; None if it is answered.
        """
        began = time.monotonic()
        self.total_requests += 1
        alias = alias_of(text)
        key = self.aliases.get(alias)
        sample = None
        if key is None:
            if self.batcher.full and watched is None:  # so there is no point in reading it
                self._refuse(token, reply)
                return None
            try:
                sample = self.engine.input.sample(text)
            except ApiError as error:
                body = error_body(error.message, error.code)
                reply(token, Tell.REFUSED, Cache.MISS, error.status, body, elapsed_us(began))
                return None
            except Exception as error:  # a bug of ours: another worker may do better, and this stream goes on
                logger.exception("an input could not be read")
                self.errors += 1
                reply(token, Tell.FAILED, Cache.MISS, 503, str(error).encode(), elapsed_us(began))
                return None
            key = key_of(sample)
            self.aliases.put(alias, key, len(alias) + len(key))
        output = self.results.get(key)
        if output is not None:
            self.cache_hits += 1
            reply(token, Tell.RESULT, Cache.HIT, 200, output, elapsed_us(began))
            return None
        job = self._jobs.get(key)
        if job is not None:
            self.joined += 1
            job.join(token, reply, began, left_ms)
            return job
        job = Job(key, sample if sample is not None else self.engine.input.sample(text), watched)
        if watched is None or not self.batcher.put_first(job):
            if self.batcher.full or (left_ms and self._too_late(left_ms)):
                self._refuse(token, reply)
                return None
            job.watched = None  # it will not run alone
            self.batcher.put(job)
        job.join(token, reply, began, left_ms)
        self._jobs[key] = job
        self._work.set()
        return job

    def check(self, token: Token, reply: Reply, left_ms: int = 0) -> Job | None:
        """Runs the warm-up input as `infer` runs a request, before all that waits: a RESULT without payload, or FAILED.

        The cache has no part in it. Returns like `infer`.
        """
        began = time.monotonic()
        job = Job(None, self.engine.zeros)
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
            self.abandoned += 1
            self._forget(job)

    def keep(self, alias: Key, key: Key, output: bytes) -> None:
        """Takes over another worker's result if there is room, as the first to be forgotten."""
        kept = self.results.put_oldest(key, output, len(key) + len(output))
        self.kept += kept
        if kept or key in self.results:
            self.aliases.put_oldest(alias, key, len(alias) + len(key))

    def wake(self) -> None:
        """Makes `work` return: there may be something to do."""
        self._work.set()

    async def work(self) -> None:
        """Returns once something waits for the engine."""
        await self._work.wait()
        self._work.clear()

    async def run_batches(self) -> None:
        """Runs batch after batch until none is due. One caller at a time: it owns the engine."""
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        while (due_s := self.batcher.due_in()) is not None:
            if due_s > 0:
                self._wake_in(loop, due_s)
                return
            self._running = self.batcher.take(self._wanted)
            if not self._running:
                continue
            samples = [job.sample for job in self._running]
            size, watched = len(samples), self._running[0].watched
            if watched is not None:
                self.last_run.began(watched)
            quick = self.engine.typical_s < _QUICK_S
            results = self._run(samples) if quick else await loop.run_in_executor(self._thread, self._run, samples)
            if watched is not None:
                self.last_run.ended()
            self._finish(results)
            if quick:
                await asyncio.sleep(0)  # let what has arrived meanwhile join the next batch
            ended = time.monotonic()
            self.pace.note(size, ended - began)
            self._admit()
            began = ended

    def configure(self, settings: NodeSettings) -> None:
        """Takes new settings, in force from the next request and the next batch on."""
        self.settings = settings
        self.results.resize(settings.cache_entries, settings.cache_bytes)
        self.aliases.resize(2 * settings.cache_entries, settings.cache_bytes // 4)
        self.batcher.configure(
            max_size=settings.batch_size, wait_s=settings.batch_wait_ms / 1000, eager=settings.batch_eager
        )
        self._admit()
        self._work.set()  # what waits may be due by the new settings
        logger.info("settings of revision %d are in force: %s", settings.revision, settings)

    def drain(self) -> None:
        """Tells the gateways that this process is about to stop; it goes on answering."""
        self.draining = True
        for gateway in tuple(self.gateways):
            gateway.say_draining()

    def close(self) -> None:
        """Ends the engine's thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _admit(self) -> None:
        """Takes in what the engine can do in time, as far as is known now."""
        settings = self.settings
        self.batcher.limit = self.pace.queue_limit(settings.batch_size, settings.queue_ms / 1000)
        self._sample_s = 1 / self.rate

    def _too_late(self, left_ms: int) -> bool:
        """Whether a request that comes now could not be answered in time, its own batch included if that will be full.

        With less before it than a batch it is let in: what is known of small batches is not good enough to refuse it.
        """
        wait_s = self.wait_s
        if len(self.batcher) >= self.batcher.max_size:
            wait_s += self.batcher.max_size * self._sample_s
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
        self.expired += len(late)
        if not job.waiters:
            self._forget(job)
        for waiter in late:
            hand_over(waiter, Tell.EXPIRED, Cache.MISS, 504, b"")
        return bool(job.waiters)

    def _run(self, samples: Sequence[bytes]) -> Sequence[bytes | ApiError | EngineError]:
        try:
            return self.engine.run(samples)
        except Exception as error:  # a bug of ours: each asker hears of it, and the next batch runs
            logger.exception("a batch of %d failed", len(samples))
            return [EngineError(f"{type(error).__name__}: {error}")] * len(samples)

    def _finish(self, results: Sequence[bytes | ApiError | EngineError]) -> None:
        jobs, self._running = self._running, []
        for job, result in zip(jobs, results, strict=True):
            key, cache = job.key, Cache.MISS
            self._forget(job)
            if isinstance(result, bytes):
                kind, status, payload = Tell.RESULT, 200, result if key is not None else b""
                if key is not None:
                    self.results.put(key, result, len(key) + len(result))
            elif isinstance(result, ApiError) and key is not None:
                kind, status, payload = Tell.REFUSED, result.status, error_body(result.message, result.code)
            else:
                self.errors += 1
                kind, status, payload = Tell.FAILED, 503, str(result).encode()
            for waiter in job.waiters:
                hand_over(waiter, kind, cache, status, payload)
                cache = Cache.JOINED

    def _forget(self, job: Job) -> None:
        """Nobody can join this job any more."""
        if job.key is not None:
            del self._jobs[job.key]

    def _wake_in(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._work.set)
