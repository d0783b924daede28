"""What happens to an ask in the gateway before the router has it: hot results, and joining."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from gateway_app.core.hotcache import HotCache
from gateway_app.core.router import Router
from gateway_app.face import Face
from gateway_app.infercall import Follower, InferCall, TracedCall
from gateway_app.traces import TraceLog, Tracer, Tracing, next_sample, slow_from_s
from inference_site.exchange import Asker, Ticket
from inference_site.lib.asks import key_of
from inference_site.lib.errors import ApiError
from inference_site.lib.window import LatencyWindow

# A frame can't hold more.
ANY_SIZE = 2**32 - 1


class Inference:
    """Answers asks of one model: from the hot cache, by letting one join an identical one in flight, by the router."""

    def __init__(
        self,
        router: Router,
        clock: Callable[[], float],
        faces: Mapping[str, Face],
        seed: int = 0,
        traces: TraceLog | None = None,
    ) -> None:
        self.clock = clock
        self.tracer = Tracer(router, clock, traces or TraceLog())
        self.sample_at = 0  # the number of the next request that is traced unasked
        self.slow_s = math.inf  # what takes longer than this is very slow
        self._rolled = -1  # requests at the end of the last second
        self.faces = faces  # by worker: all that may ever answer
        self.seed = seed  # of the keys
        self.hot = HotCache()
        self.hot_on = False
        self.latency = LatencyWindow()
        self.requests = 0
        self.joined = 0
        self.errors = 0
        self.client_errors = 0
        self.hot_s = 0.0  # that hits took, and that those waited who had joined
        self.joined_s = 0.0
        self.joined_answers = 0
        self.deadline_s: float | None = None  # of an ask that names none; None: as the policy says
        self.most_bytes = ANY_SIZE  # of an ask: a worker that is sent a larger one cuts the stream
        self._router = router
        self._flying: dict[int, InferCall] = {}
        self._wanted = True
        self.keeps = True
        self._digests: dict[str, str] = {}  # of the workers that are there
        self._before: dict[str, str] = {}  # what each worker answered with when it was there last
        self.generation = 0  # of what may be kept: what began in an earlier one is neither kept nor joined

    def ask(
        self, payload: bytes, asker: Asker, timeout_ms: int | None = None, since: float | None = None
    ) -> Ticket | None:
        """Answers an ask, as exchange.Served says."""
        self.requests += 1
        key = key_of(payload, self.seed)
        tracing: Tracing | None = None
        if since is not None or self.requests == self.sample_at:
            asker = tracing = self.tracer.follow(asker, key, since)
        if self.hot_on:
            began = self.clock()
            kept = self.hot.get(key, payload)
            if kept is not None:
                face = self.faces[kept.maker]
                took = self.clock() - began
                self.latency.add(took)
                self.hot_s += took
                if tracing is not None:
                    tracing.kept_by = kept.maker
                asker.on_output(kept.output, face.name_json, True, int(took * 1e6), face.hot)
                return None
        timeout_s = timeout_ms / 1000 if timeout_ms is not None else self.deadline_s or self._router.policy.timeout_s
        leader = self._flying.get(key)
        if leader is not None and leader.payload == payload:
            now = self.clock()
            if now + timeout_s >= leader.deadline:  # else it could not wait for the other one's answer
                self.joined += 1
                follower = Follower(leader, asker, now, now + timeout_s)
                if leader.followers is None:
                    leader.followers = {}
                leader.followers[follower] = None
                if tracing is not None:
                    tracing.follower = follower
                return follower
        if len(payload) > self.most_bytes:
            self.client_errors += 1
            asker.on_error(_too_large(len(payload), self.most_bytes), b"")
            return None
        if tracing is None:
            call = InferCall(self, key, payload, asker, timeout_s)
        else:
            call = TracedCall(self, key, payload, asker, timeout_s)
            call.trace = tracing.trail
        self.begin(call)
        return call

    def roll(self, per_second: float) -> None:
        """Ends a second, in which so many asks came."""
        self.latency.roll()
        self.sample_at = next_sample(self.requests, per_second)
        if self.requests != self._rolled:
            self._rolled = self.requests
            self.slow_s = slow_from_s(self.latency)

    def begin(self, call: InferCall) -> None:
        """Gives a new call to the router; others may join it, rather than one that has more time than they have."""
        if self.keeps:
            self._flying[call.key] = call
        try:
            self._router.submit(call)
        except Exception:  # a bug of ours: it must not be joined for ever
            self.finished(call)
            raise

    def abandoned(self, call: InferCall) -> None:
        """Nobody waits for this call any more."""
        self.finished(call)
        self._router.cancel(call)

    def finished(self, call: InferCall) -> None:
        """Nobody can join this call any more."""
        if self._flying.get(call.key) is call:
            del self._flying[call.key]

    def use_hot_cache(self, wanted: bool) -> None:
        """The operator's switch."""
        self._wanted = wanted
        self._check_digests()

    def keep_results(self, keeps: bool) -> None:
        """Whether equal asks have equal answers: if not, none is kept, and each is asked for itself."""
        self.keeps = keeps
        if not keeps:
            self._flying.clear()
        self._check_digests()

    def serve(self, digests: Mapping[str, str]) -> None:
        """Which file of the model each worker that is there answers with, from now on."""
        if not digests:  # nobody is there: what is kept is as good as it was
            return
        others = any(self._before.get(worker, digest) != digest for worker, digest in digests.items())
        if others or set(self._digests.values()) - set(digests.values()):
            self.forget()
        self._digests = dict(digests)
        self._before.update(digests)
        self._check_digests()

    def forget(self) -> None:
        """What has been computed until now is not kept, and what is being computed is neither kept nor joined."""
        self.hot.flush()
        self._flying.clear()
        self.generation += 1

    def rename(self, before: str, after: str) -> None:
        """A worker turns out to have another name; what it made is as good as it was."""
        for digests in (self._digests, self._before):
            if before in digests:
                digests[after] = digests.pop(before)

    def _check_digests(self) -> None:
        """Results are kept only while every worker answers with the same file."""
        self.hot_on = self._wanted and self.keeps and len(set(self._digests.values())) == 1
        if not self.hot_on:
            self.hot.flush()


def _too_large(size: int, limit: int) -> ApiError:
    message = f"the inputs are {size} bytes when unpacked, workers take {limit}; send less, or raise MAX_BODY_BYTES"
    return ApiError(413, "body_too_large", message)
