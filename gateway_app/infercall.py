"""Asks on their way through the router, and who waits for each."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from gateway_app.core.call import Call
from inference_site.exchange import Asker
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Cache

if TYPE_CHECKING:
    from gateway_app.inference import Inference

logger = logging.getLogger(__name__)


class Refusal(msgspec.Struct):
    """What a worker says about a request that is at fault."""

    error: str
    code: str


_decode_refusal = msgspec.json.Decoder(Refusal).decode


class Follower:
    """Somebody who asks for what is under way already."""

    __slots__ = ("asker", "began", "deadline", "leader")

    def __init__(self, leader: InferCall, asker: Asker, began: float, deadline: float) -> None:
        self.leader = leader
        self.asker = asker
        self.began = began
        self.deadline = deadline

    def cancel(self) -> None:
        """Its client has left."""
        self.leader.unfollow(self)


class InferCall(Call):
    """A call whose outcome its asker is told, and whoever asks the same while it is under way."""

    __slots__ = ("_asker", "_inference", "followers", "generation")

    def __init__(self, inference: Inference, key: int, payload: bytes, asker: Asker | None, timeout_s: float) -> None:
        super().__init__(key, payload, timeout_s)
        self._inference = inference
        self._asker = asker  # None: its client has left
        self.followers: dict[Follower, None] | None = None
        self.generation = inference.generation

    def cancel(self) -> None:
        """Its client has left. What others wait for too goes on."""
        self._asker = None
        if not self.followers:
            self._inference.abandoned(self)

    def unfollow(self, follower: Follower) -> None:
        """The client of somebody who had joined has left."""
        if self.followers is None or follower not in self.followers:  # it has its answer
            return
        del self.followers[follower]
        if not self.followers and self._asker is None:
            self._inference.abandoned(self)

    def on_result(self, cache: int, payload: bytes, time_us: int) -> None:
        """The answer of a worker."""
        inference = self._inference
        inference.finished(self)
        name, now = self.route.name, inference.clock()
        face = inference.faces[name]
        if inference.hot_on and self.generation == inference.generation:
            inference.hot.offer(self.key, self.payload, payload, name)
        took_s = now - self.began
        inference.latency.add(took_s)
        if took_s > inference.slow_s and self.trace is None:
            inference.tracer.slow(self, cache, time_us)
        if self._asker is not None:
            headers = face.replies[cache][self.attempts]
            try:
                self._asker.on_output(payload, face.name_json, cache == Cache.HIT, time_us, headers)
            except Exception:
                _not_told()
        for each in self._take_followers():
            waited_s = now - each.began
            inference.latency.add(waited_s)
            inference.joined_s += waited_s
            inference.joined_answers += 1
            self.route.joined += 1
            try:
                each.asker.on_output(payload, face.name_json, False, int(waited_s * 1e6), face.joined[self.attempts])
            except Exception:
                _not_told()

    def on_refusal(self, status: int, payload: bytes) -> None:
        """The worker found fault with the request."""
        inference = self._inference
        inference.finished(self)
        refusal = _decode_refusal(payload)
        headers = inference.faces[self.route.name].replies[Cache.MISS][self.attempts]
        self._tell_all(ApiError(status, refusal.code, refusal.error), headers)

    def on_error(self, error: ApiError) -> None:
        """Nobody could answer."""
        inference = self._inference
        inference.finished(self)
        if error.status == 504 and self.followers:
            self._leave_behind()
        if error.status >= 500 and self.trace is None:
            inference.tracer.failed(self, error)
        headers = b"x-attempts: %d\r\n" % self.attempts
        if error.retry_after_s is not None:
            headers += b"retry-after: %d\r\n" % error.retry_after_s
        self._tell_all(error, headers)

    def _tell_all(self, error: ApiError, headers: bytes) -> None:
        inference = self._inference
        askers = [each.asker for each in self._take_followers()]
        for asker in askers if self._asker is None else [self._asker, *askers]:
            if error.status < 500:
                inference.client_errors += 1
            else:
                inference.errors += 1
            try:
                asker.on_error(error, headers)
            except Exception:
                _not_told()

    def _leave_behind(self) -> None:
        """The time of this one is over. Who joined later has some left, and goes on without it."""
        now = self._inference.clock()
        # Who has less time than the shortest queue would only hear the same again.
        others = {each: None for each in self.followers or () if each.deadline > now + self.busy_us / 1e6}
        self.followers = {each: None for each in self.followers or () if each not in others}
        if others:
            left_s = min(each.deadline for each in others) - now
            call = InferCall(self._inference, self.key, self.payload, None, left_s)
            call.followers = others
            for each in others:
                each.leader = call
            self._inference.begin(call)

    def _take_followers(self) -> tuple[Follower, ...]:
        followers, self.followers = tuple(self.followers or ()), None
        return followers


class TracedCall(InferCall):
    """One whose way is noted."""

    __slots__ = ("trace",)


def _not_told() -> None:
    """One asker's trouble must not keep the others from their answers."""
    logger.exception("an answer could not be handed over")
