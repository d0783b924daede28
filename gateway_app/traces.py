"""Which requests are traced, and what has become of the last of them."""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from gateway_app.core.trail import Trail, Try
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Cache
from inference_site.lib.trace import (
    MAX_ATTEMPTS,
    Attempt,
    Parts,
    Trace,
    header_of,
    milliseconds,
    new_id,
    now_text,
    shorten,
)
from inference_site.lib.window import LatencyWindow, RateWindow

if TYPE_CHECKING:
    from gateway_app.core.router import Router
    from gateway_app.infercall import Follower, InferCall
    from inference_site.exchange import Asker

logger = logging.getLogger(__name__)

KEPT = 200
# Of each kind no more are kept in a second; of those that are sampled there is one for each model.
PER_SECOND = {"explained": 20, "failed": 10, "slow": 2}
# A request is very slow that takes so many times what 99 of 100 take, and not less than this.
SLOW_FACTOR, SLOW_FLOOR_S = 3.0, 0.001
# What 99 of 100 take is known once so many have been answered.
ENOUGH = 200


class TraceLog:
    """The newest traces of one gateway, of all its models."""

    def __init__(self) -> None:
        self.sampled = 0
        self._kept: deque[Trace] = deque(maxlen=KEPT)
        self._left = dict(PER_SECOND)
        self._rate = RateWindow(10)

    @property
    def sampled_per_s(self) -> float:
        """How many requests were traced unasked, in the last ten seconds."""
        return round(self._rate.per_second(), 2)

    def has_room(self, kind: str) -> bool:
        """Whether another one of this kind would be kept in this second."""
        return self._left.get(kind, 1) > 0

    def add(self, trace: Trace) -> None:
        """Keeps one, unless there are too many of its kind in this second."""
        kind = trace.kept
        if kind == "sampled":
            self.sampled += 1
        elif self._left[kind] <= 0:
            return
        else:
            self._left[kind] -= 1
        self._kept.append(trace)

    def roll(self) -> None:
        """Ends a second."""
        self._left = dict(PER_SECOND)
        self._rate.roll(self.sampled)

    def newest(self, count: int) -> list[Trace]:
        """So many, the newest first."""
        return list(islice(reversed(self._kept), count))

    def recent(self) -> list[dict[str, Any]]:
        """What is kept, the newest first."""
        kept = tuple(self._kept)  # at once: this may be called in another thread
        return [msgspec.to_builtins(each) for each in reversed(kept)]


def next_sample(requests: int, per_second: float) -> int:
    """The number of the request that is traced unasked, of those of the next second; `requests` came until now."""
    return requests + 1 + int(random.random() * per_second)


def slow_from_s(latency: LatencyWindow) -> float:
    """What takes longer than this is very slow."""
    if latency.count < ENOUGH:
        return math.inf
    (p99_ms,) = latency.quantiles_ms(0.99)
    return math.inf if p99_ms is None else max(SLOW_FLOOR_S, SLOW_FACTOR * p99_ms / 1000)


class Tracer:
    """Traces requests for one model: those that are to be explained, one a second, those that failed or were slow."""

    def __init__(self, router: Router, clock: Callable[[], float], log: TraceLog) -> None:
        self.clock = clock
        self.log = log
        self.name = self.version = ""  # of the model
        self.router = router

    def follow(self, asker: Asker, key: int, since: float | None) -> Tracing:
        """Puts itself between a request and its asker. It had come whole at that moment and is to be explained; None:
        it came now, and is sampled."""
        return Tracing(self, asker, key, since)

    def failed(self, call: InferCall, error: ApiError) -> None:
        """Nobody could answer a call that was not traced."""
        if self.log.has_room("failed"):
            waited = Parts(waiting=self._since(call.began), queue=None, compute=None)
            attempts = [Attempt(route.name, None, None, "failed", "") for route in call.tried]
            self._keep(call, "failed", error.status, error.message, attempts, waited)

    def slow(self, call: InferCall, cache: int, time_us: int) -> None:
        """A call that was not traced has been answered late."""
        if self.log.has_room("slow"):
            attempts = [Attempt(route.name, None, None, "failed", "") for route in call.tried]
            began_ms, took_ms = milliseconds(call.sent_at - call.began), self._since(call.sent_at)
            attempts.append(Attempt(call.route.name, began_ms, took_ms, "answered", ""))
            worker_ms = min(took_ms, time_us / 1000)
            parts = Parts(0.0, began_ms, took_ms - worker_ms, worker_ms, None, None)
            self._keep(call, "slow", 200, "", attempts, parts, Cache(cache).name.lower())

    def _keep(
        self,
        call: InferCall,
        kind: str,
        status: int,
        why: str,
        attempts: list[Attempt],
        parts: Parts,
        cache: str | None = None,
    ) -> None:
        trace = self.trace(call.key, status, kind)
        trace.answered_by = call.route.name if status == 200 else "gateway"
        trace.cache, trace.why, trace.attempts, trace.parts_ms = cache, shorten(why), attempts[-MAX_ATTEMPTS:], parts
        trace.total_ms = self._since(call.began)
        self.log.add(trace)

    def trace(self, key: int, status: int, kind: str) -> Trace:
        """One of which nothing else is known."""
        owner = next(iter(self.router.ring.owners(key)), "")
        return Trace(
            new_id(), now_text(), self.name, self.version, f"{key:016x}", status, "gateway", None, "", owner, [], None,
            Parts(), 0.0, kind,
        )  # fmt: skip

    def _since(self, moment: float) -> float:
        return milliseconds(self.clock() - moment)


@runtime_checkable
class Passed(Protocol):
    """An Asker that another version did not answer before."""

    @property
    def earlier(self) -> Try:
        """How that went."""


class Tracing:
    """Hands on what its asker is told, with X-Explain if that was asked for, and keeps the trace; an Asker."""

    __slots__ = ("_asker", "_explained", "_key", "_since", "_tracer", "follower", "kept_by", "trail")

    def __init__(self, tracer: Tracer, asker: Asker, key: int, since: float | None) -> None:
        self._tracer = tracer
        self._asker = asker
        self._key = key
        self._explained = since is not None
        self._since = tracer.clock() if since is None else since
        self.trail = Trail(tracer.clock)
        if isinstance(asker, Passed):
            self.trail.passed(asker.earlier)
        self.kept_by: str | None = None  # the worker whose result the gateway had kept
        self.follower: Follower | None = None  # it has joined another request as this one

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        """exchange.Asker."""
        self._asker.on_output(output, node_json, cached, time_us, headers + self._explain(200, ""))

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        """exchange.Asker."""
        self._asker.on_error(error, headers + self._explain(error.status, error.message))

    def _explain(self, status: int, message: str) -> bytes:
        """The header line, if it is wanted."""
        try:
            trace = self._trace(status, message)
            self._tracer.log.add(trace)
            return header_of(trace) if self._explained else b""
        except Exception:  # whatever is wrong with the explanation, the client gets its answer
            logger.exception("a request could not be explained")
            return b""

    def _trace(self, status: int, message: str) -> Trace:
        now = self._tracer.clock()
        trail = self.trail if self.follower is None else self.follower.leader.trace or self.trail
        answer = trail.answer
        kind = "explained" if self._explained else "failed" if status >= 500 else "sampled"
        trace = self._tracer.trace(self._key, status, kind)
        trace.attempts = [self._attempt(each, now) for each in trail.tries[-MAX_ATTEMPTS:]]
        if self.kept_by is not None:
            trace.cache, trace.why = "gateway", f"kept here: one of the hottest results, made by {self.kept_by}"
        elif self.follower is not None:
            before_ms = 1000 * (self.follower.began - self.follower.leader.began)
            trace.why = f"joined a request for the same input that had come {before_ms:.1f} ms before"
            if before_ms < 0:  # it has another leader than at first
                trace.why = "the request for the same input that it had joined has run out of time; it went on alone"
            if status < 400:
                trace.cache = "joined"
        elif answer is not None:
            trace.why = answer.why
            if status < 400:
                trace.cache = Cache(answer.cache).name.lower()
        if answer is not None and status < 500:
            trace.answered_by = answer.worker
            trace.batch = answer.detail.batch if answer.detail is not None else None
        elif trace.cache == "joined" and self.follower is not None:
            trace.answered_by = self.follower.leader.route.name
        if status >= 400 and (answer is None or status >= 500):
            trace.why = message
        trace.why = shorten(trace.why)
        trace.parts_ms = self._parts(answer, now)
        trace.total_ms = milliseconds(now - self._since)
        return trace

    def _parts(self, answer: Try | None, now: float) -> Parts:
        if self.follower is not None:
            joined_ms = milliseconds(self.follower.began - self._since)
            return Parts(gateway=joined_ms, waiting=milliseconds(now - self.follower.began))
        first_at = self.trail.first_at
        if first_at is None:
            return Parts(gateway=milliseconds(now - self._since))
        if answer is None:
            return Parts(gateway=milliseconds(first_at - self._since), waiting=milliseconds(now - first_at))
        took_s, detail = answer.ended - answer.began, answer.detail
        worker_s = min(answer.worker_s, took_s)
        queue_s = min(worker_s, detail.queue_us / 1e6) if detail is not None else 0.0
        compute_s = min(worker_s - queue_s, detail.compute_us / 1e6) if detail is not None else 0.0
        return Parts(
            gateway=milliseconds(first_at - self._since + now - answer.ended),
            waiting=milliseconds(answer.began - first_at),
            network=milliseconds(took_s - worker_s),
            worker=milliseconds(worker_s - queue_s - compute_s),
            queue=milliseconds(queue_s),
            compute=milliseconds(compute_s),
        )

    def _attempt(self, tried: Try, now: float) -> Attempt:
        """`tried` may go on: the client's time was over, or it is another one's."""
        ended = tried.ended if tried.outcome else now
        return Attempt(
            tried.worker,
            round((tried.began - self._since) * 1000, 4),
            milliseconds(ended - tried.began),
            tried.outcome or "under way",
            shorten(tried.reason),
        )
