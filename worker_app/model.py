"""One version of a model that is loaded: cache, single flight and batches around its engine, on one event loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from inference_site.lib import asks
from inference_site.lib.catalog import ModelInfo, State
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from worker_app.aside import LARGE_BYTES, Unread, reads_at_once
from worker_app.core.keys import LONG_BYTES, alias_by_key, alias_of
from worker_app.engine import Engine, Run
from worker_app.job import Job, Reply, Token, Waiting, elapsed_us
from worker_app.largeasks import LargeAsks
from worker_app.lastrun import LastRun
from worker_app.samples import Sample


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


class Model(LargeAsks):
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
        super().__init__(engine, last_run)
        self.number = number
        self.made_of: tuple[Any, ...] = ()  # see Want
        self.current = True  # it may be found; else it is here for those who still use its number
        self.held = False  # it is not found, and not unloaded: another one is to be loaded in its place
        self.when_changed: Callable[[], None] | None = None
        self._info: ModelInfo
        self.configure(settings or NodeSettings(), record or engine.record)

    @property
    def info(self) -> ModelInfo:
        """What the gateway and clients are told of it."""
        if self._info.current != self.current:
            self._info = self._describe()
        return self._info

    def ask(
        self,
        payload: bytes,
        token: Token,
        reply: Reply,
        left_ms: int = 0,
        watched: int | None = None,
        routing: int | None = None,
    ) -> Waiting | None:
        """Answers an ask (see asks): from the cache, with one that is under way, or from the engine.

        What is not run within `left_ms` (0: no limit) is answered EXPIRED, and BUSY at once if that can be told now.
        `watched`, a key: a worker was lost that had this ask. It runs before all that waits, alone. `routing`: its
        routing key, if that is known. Returns what is waited for, for `cancel`; None if it is answered.
        """
        began = time.monotonic()
        self.tally.requests += 1
        if self.closed:
            reply(token, Tell.GONE, Cache.MISS, 404, b"", 0)
            return None
        if len(payload) > LARGE_BYTES and (self.cached or not reads_at_once(payload)):
            return self._ask_aside(Unread(payload, routing, watched), token, reply, began, left_ms)
        sample = key = None
        if self.cached:
            if len(payload) > LONG_BYTES and reads_at_once(payload):
                sample = self._read(payload, token, reply, began)
                if sample is None:
                    return None
                key = sample.key
                self._note_alias(alias_by_key(routing or asks.key_of(payload, self.seed), key), key)
            else:
                alias = alias_of(payload, self.seed)
                key = self.aliases.get(alias)
                if key is None:
                    sample = self._read_if_room(payload, token, reply, began, watched)
                    if sample is None:
                        return None
                    key = sample.key
                    self._note_alias(alias, key)
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
        sample = sample or self._read_if_room(payload, token, reply, began, watched)
        if sample is None:
            return None
        job = Job(sample, watched)
        if not self._queue(job, left_ms, key is not None and self.full):  # without a key it was looked at a moment ago
            self._refuse(token, reply)
            return None
        job.join(token, reply, began, left_ms)
        if key is not None:
            self._flying[key] = job
        return job

    def check(self, token: Token, reply: Reply, left_ms: int = 0) -> Job | None:
        """Runs the warm-up input as `ask` runs a request, before all that waits: a RESULT without payload, or FAILED.

        The cache has no part in it. Returns like `ask`.
        """
        began = time.monotonic()
        if self.engine.cold:  # nothing is known that it must be able to run
            reply(token, Tell.RESULT, Cache.MISS, 200, b"", elapsed_us(began))
            return None
        job = Job(self.engine.read(self.engine.probe), is_check=True)
        if not self.batcher.put_first(job):
            self._refuse(token, reply)
            return None
        job.join(token, reply, began, left_ms)
        self._work.set()
        return job

    def cancel(self, asked: Waiting, token: Token, reply: Reply) -> None:
        """This asker has left: it gets no reply, and what only it has asked for is not run."""
        if isinstance(asked, Unread):
            asked.leave(token, reply)
            if asked.job is None:
                if not asked.waiters:
                    self.tally.abandoned += 1
                    self.aside.discard(asked)
                    self._rest()
                return
            asked = asked.job
        asked.leave(token, reply)
        if isinstance(asked, Job) and not asked.waiters and self.batcher.discard(asked):
            self.tally.abandoned += 1
            self._forget(asked)
            self._rest()

    def configure(self, settings: NodeSettings, record: Record, share: int = 1) -> None:
        """Takes new settings, in force from the next request and the next batch on; `share` as for limits_of."""
        self.record, self._settings, self._share = record, settings, share
        limits = self.limits = limits_of(settings, record, share)
        self.cached = record.cached is not False
        self.results.resize(limits.cache_entries, limits.cache_bytes)
        self.aliases.resize(2 * limits.cache_entries, limits.cache_bytes // 4)
        self.tune(limits)
        self._info = self._describe()

    def _read_if_room(
        self, payload: bytes, token: Token, reply: Reply, began: float, watched: int | None
    ) -> Sample | None:
        if self.full and watched is None:  # so there is no point in reading it
            self._refuse(token, reply)
            return None
        return self._read(payload, token, reply, began)

    def _read(self, payload: bytes, token: Token, reply: Reply, began: float) -> Sample | None:
        """The sample of an ask; None if it has been answered, because it has none."""
        try:
            return self.engine.read(payload)
        except Exception as error:
            self._unreadable((token, reply, began, 0.0), error)
        return None

    def _finish(self, jobs: list[Job], run: Run, started: float) -> None:
        super()._finish(jobs, run, started)
        if self._info.batches != self.engine.batches:  # it has found that it does not, whatever the shapes say
            self.configure(self._settings, self.record, self._share)
            if self.when_changed is not None:
                self.when_changed()

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
