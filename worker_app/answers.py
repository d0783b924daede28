"""What becomes of asks: who waits for the same sample gets one answer, and the cache keeps it."""

from __future__ import annotations

import logging
import time

from inference_site.lib.asks import seed_of
from inference_site.lib.catalog import Statistics
from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.frames import Cache, Tell
from worker_app.batches import Batches
from worker_app.core.keys import Key
from worker_app.core.lru import LRU
from worker_app.engine import Engine, Run
from worker_app.job import Job, Reply, Token, Waiter, Waiting, hand_over
from worker_app.lastrun import LastRun
from worker_app.tally import Tally

logger = logging.getLogger(__name__)


class Answers(Batches):
    """Cache and single flight around the batches of one engine. Not safe for concurrent access."""

    def __init__(self, engine: Engine, last_run: LastRun | None) -> None:
        super().__init__(engine, engine.name, last_run)
        self.name, self.version = engine.name, engine.version
        self.seed = seed_of(self.name, self.version)
        self.tally = Tally()
        self.cached = True
        self.results: LRU[Key, bytes] = LRU(0, 0)
        self.aliases: LRU[Key, Key] = LRU(0, 0)  # of asks, the keys of their samples
        self._flying: dict[Key, Job] = {}  # what may be joined
        self._share = 1  # models that the worker has

    @property
    def statistics(self) -> Statistics:
        """V2's, as they are now."""
        found = self.tally.statistics
        found.cache_evictions = self.results.evictions
        return found

    def keep(self, alias: Key, key: Key, output: bytes) -> None:
        """Takes over another worker's result if there is room, as the first to be forgotten."""
        kept = self.results.put_oldest(key, output, len(key) + len(output))
        self.tally.kept += kept
        if kept or key in self.results:
            self.aliases.put_oldest(alias, key, len(alias) + len(key))

    def flush(self) -> int:
        """Forgets all results; how many there were. What is under way is neither joined nor kept."""
        forgotten = len(self.results)
        self._flying.clear()
        self.results.clear()
        self.aliases.clear()
        return forgotten

    def _note_alias(self, alias: Key, key: Key) -> None:
        self.aliases.put(alias, key, len(alias) + len(key))

    def _queue(self, job: Job, left_ms: int, full: bool) -> bool:
        """Queues a job, before all others if it is watched; False if there is no room, or not enough time."""
        if job.watched is None or not self.batcher.put_first(job):
            if full or (left_ms and self._too_late(left_ms)):
                return False
            if not self.batcher.put(job, job.sample.rows, job.sample.group):
                return False
            job.watched = None  # it will not run alone
        self._work.set()
        return True

    def _wanted(self, job: Job) -> bool:
        """Whether somebody waits for a job whose turn has come."""
        wanted = self._awaited(job)
        if not wanted:
            self._forget(job)
        return wanted

    def _awaited(self, job: Waiting) -> bool:
        """Whether somebody waits for it, now that it is its turn; whose time has passed is told so."""
        now = time.monotonic()
        if now < job.soonest:
            return bool(job.waiters)
        late = job.take_late(now)
        if not job.is_check:
            self.tally.expired += len(late)
        for waiter in late:
            if not job.is_check:
                self.tally.late(waiter[2])
            hand_over(waiter, Tell.EXPIRED, Cache.MISS, 504, b"")
        return bool(job.waiters)

    def _finish(self, jobs: list[Job], run: Run, started: float) -> None:
        tally = self.tally
        if not jobs[0].is_check:  # which runs alone
            tally.batch(jobs, run, started)
        for job, result in zip(jobs, run.results, strict=True):
            cache, count = Cache.MISS, tally.fail
            keeps = self._forget(job) and self.cached
            if isinstance(result, bytes):
                kind, status, payload, count = Tell.RESULT, 200, b"" if job.is_check else result, tally.success
                if keeps:
                    key = job.sample.key
                    self.results.put(key, result, len(key) + len(result))
            elif isinstance(result, ApiError) and not job.is_check:
                kind, status, payload = Tell.REFUSED, result.status, self._fault(result)
            else:
                tally.errors += 1
                count = tally.broken
                kind, status, payload = Tell.FAILED, 503, str(result).encode()
            for waiter in job.waiters:
                if not job.is_check:
                    count(waiter[2])
                hand_over(waiter, kind, cache, status, payload)
                cache = Cache.JOINED

    def _forget(self, job: Job) -> bool:
        """Nobody can join this job any more; whether somebody could."""
        if self._flying and self._flying.get(key := job.sample.key) is job:
            del self._flying[key]
            return True
        return False

    def _refuse(self, token: Token, reply: Reply) -> None:
        """Says BUSY, and for how long."""
        reply(token, Tell.BUSY, Cache.MISS, 503, b"", int(self.wait_s * 1e6))

    def _unreadable(self, waiter: Waiter, error: Exception) -> None:
        """Tells why an ask has no sample."""
        self.tally.fail(waiter[2])
        if isinstance(error, ApiError):
            hand_over(waiter, Tell.REFUSED, Cache.MISS, error.status, self._fault(error))
        else:  # a bug of ours: another worker may do better, and this stream goes on
            logger.error("an input could not be read", exc_info=error)
            self.tally.errors += 1
            hand_over(waiter, Tell.FAILED, Cache.MISS, 503, str(error).encode())

    def _fault(self, error: ApiError) -> bytes:
        """What is wrong with a request. Who has not named a model must know which one it was, if there are several."""
        is_unclear = self._share > 1 and error.status == 422
        return error_body(f"{self.name}: {error.message}" if is_unclear else error.message, error.code)
