"""A worker's heart: cache, single flight and batches around one engine, on one event loop."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from worker_app.core.batcher import Batcher
from worker_app.core.lru import LRU
from worker_app.engine import Engine, EngineError

logger = logging.getLogger(__name__)

# Larger keys are kept as their digest: 32 bytes of BLAKE2b, which nobody can make collide.
_KEY_BYTES = 2048
# A model that answers faster than this runs on the loop itself: handing it to a thread would cost more.
_QUICK_S = 0.0005

Token = object
Key = bytes | str


class Reply(Protocol):
    """Takes one outcome: what the asker passed as `token`, the kind of reply, cache state, status, payload, µs."""

    def __call__(
        self, token: Token, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int, /
    ) -> None: ...


class GatewayStream(Protocol):
    """One of the connections of a gateway."""

    bulk: bool

    def say_draining(self) -> None: ...


class Job:
    """One sample that waits for the engine, and all who asked for it."""

    __slots__ = ("key", "sample", "waiters")

    def __init__(self, key: Key, sample: bytes) -> None:
        self.key = key
        self.sample = sample
        self.waiters: list[tuple[Token, Reply, float]] = []


class Node:
    """Answers requests; `infer` never blocks and calls back exactly once. Not safe for concurrent access."""

    def __init__(self, node_id: str, engine: Engine, settings: NodeSettings | None = None) -> None:
        self.node_id = node_id
        self.engine = engine
        self.settings = settings = settings or NodeSettings()
        self.instance = secrets.token_hex(8)
        self.started_at = time.monotonic()
        self.draining = False
        self.total_requests = 0
        self.cache_hits = 0
        self.joined = 0
        self.errors = 0
        self.gateways: set[GatewayStream] = set()
        self.results: LRU[Key, bytes] = LRU(settings.cache_entries, settings.cache_bytes)
        self._aliases: LRU[Key, Key] = LRU(2 * settings.cache_entries, settings.cache_bytes // 4)
        self.batcher: Batcher[Job] = Batcher(
            time.monotonic,
            max_size=settings.batch_size,
            wait_s=settings.batch_wait_ms / 1000,
            eager=settings.batch_eager,
        )
        self._jobs: dict[Key, Job] = {}
        self._running: list[Job] = []
        self._work = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @property
    def in_flight(self) -> int:
        """Samples that wait or run."""
        return len(self._jobs)

    def infer(self, text: bytes, token: Token, reply: Reply) -> None:
        """Answers the text of an input_data: from the cache, with one that is under way, or from the engine."""
        began = time.perf_counter()
        self.total_requests += 1
        alias = _short(text)
        key = self._aliases.get(alias)
        sample = None
        if key is None:
            try:
                sample = self.engine.input.sample(text)
            except ApiError as error:
                reply(token, Tell.REFUSED, Cache.MISS, error.status, error_body(error.message, error.code), _us(began))
                return
            except Exception as error:  # a bug of ours: another worker may do better, and this stream goes on
                logger.exception("an input could not be read")
                self.errors += 1
                reply(token, Tell.FAILED, Cache.MISS, 503, str(error).encode(), _us(began))
                return
            key = _short(sample)
            self._aliases.put(alias, key, len(alias) + len(key))
        output = self.results.get(key)
        if output is not None:
            self.cache_hits += 1
            reply(token, Tell.RESULT, Cache.HIT, 200, output, _us(began))
            return
        job = self._jobs.get(key)
        if job is not None:
            self.joined += 1
            job.waiters.append((token, reply, began))
            return
        job = Job(key, sample if sample is not None else self.engine.input.sample(text))
        if not self.batcher.put(job):
            reply(token, Tell.BUSY, Cache.MISS, 503, b"", _us(began))
            return
        job.waiters.append((token, reply, began))
        self._jobs[key] = job
        self._work.set()

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
        while (due_s := self.batcher.due_in()) is not None:
            if due_s > 0:
                self._wake_in(loop, due_s)
                return
            self._running = self.batcher.take()
            samples = [job.sample for job in self._running]
            if self.engine.typical_s < _QUICK_S:
                self._finish(self._run(samples))
                await asyncio.sleep(0)  # let what has arrived meanwhile join the next batch
            else:
                self._finish(await loop.run_in_executor(self._thread, self._run, samples))

    def configure(self, settings: NodeSettings) -> None:
        """Takes new settings, in force from the next request and the next batch on; an older revision is ignored."""
        if settings.revision < self.settings.revision:
            return
        self.settings = settings
        self.results.resize(settings.cache_entries, settings.cache_bytes)
        self._aliases.resize(2 * settings.cache_entries, settings.cache_bytes // 4)
        self.batcher.configure(
            max_size=settings.batch_size, wait_s=settings.batch_wait_ms / 1000, eager=settings.batch_eager
        )
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

    def _run(self, samples: Sequence[bytes]) -> Sequence[bytes | ApiError | EngineError]:
        try:
            return self.engine.run(samples)
        except Exception as error:  # a bug of ours: each asker hears of it, and the next batch runs
            logger.exception("a batch of %d failed", len(samples))
            return [EngineError(f"{type(error).__name__}: {error}")] * len(samples)

    def _finish(self, results: Sequence[bytes | ApiError | EngineError]) -> None:
        jobs, self._running = self._running, []
        for job, result in zip(jobs, results, strict=True):
            del self._jobs[job.key]
            cache = Cache.MISS
            if isinstance(result, bytes):
                kind, status, payload = Tell.RESULT, 200, result
                self.results.put(job.key, result, len(job.key) + len(result))
            elif isinstance(result, ApiError):
                kind, status, payload = Tell.REFUSED, result.status, error_body(result.message, result.code)
            else:
                self.errors += 1
                kind, status, payload = Tell.FAILED, 503, str(result).encode()
            for token, reply, began in job.waiters:
                try:
                    reply(token, kind, cache, status, payload, _us(began))
                except Exception:  # a bug at one asker's end must not keep the others from their answers
                    logger.exception("an answer could not be handed over")
                cache = Cache.JOINED

    def _wake_in(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._work.set)


def _short(data: bytes) -> Key:
    """The data itself, or its digest; as text, so that no data can ever be equal to another's digest."""
    return data if len(data) <= _KEY_BYTES else hashlib.blake2b(data, digest_size=32).hexdigest()


def _us(began: float) -> int:
    return int((time.perf_counter() - began) * 1e6)
