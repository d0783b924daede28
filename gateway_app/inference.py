"""What happens to a `POST /infer` in the gateway before the router has it and after it has answered."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from xxhash import xxh3_64_intdigest

from gateway_app.core.call import Call
from gateway_app.core.hotcache import HotCache
from gateway_app.core.router import Router
from gateway_app.core.watch import MAX_ATTEMPTS
from inference_site.exchange import Answer, Ticket
from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.frames import Cache
from inference_site.lib.payload import decode_request, encode_answer, request_id_of
from inference_site.lib.window import LatencyWindow

logger = logging.getLogger(__name__)

_encode = msgspec.json.encode


class Face:
    """How a worker shows in answers: its name as JSON, and ready-made header lines."""

    __slots__ = ("hot", "joined", "name_json", "replies")

    def __init__(self, node_id: str) -> None:
        self.name_json = _encode(node_id)
        self.hot = _head(node_id, "gateway", 0)
        # By the worker's cache state, then by the number of workers that were asked.
        self.replies = [[_head(node_id, each.name.lower(), n) for n in range(MAX_ATTEMPTS + 1)] for each in Cache]
        self.joined = self.replies[Cache.JOINED]


class Follower:
    """Somebody who asks for what is under way already."""

    __slots__ = ("answer", "began", "deadline", "leader", "request_id")

    def __init__(self, leader: InferCall, request_id: str, answer: Answer, began: float, deadline: float) -> None:
        self.leader = leader
        self.request_id = request_id
        self.answer = answer
        self.began = began
        self.deadline = deadline

    def cancel(self) -> None:
        """Its client has left."""
        self.leader.unfollow(self)


class InferCall(Call):
    """A call whose outcome is written as the JSON of `/infer`, for whoever asks the same while it is under way too."""

    __slots__ = ("_answer", "_inference", "_request_id", "followers", "generation")

    def __init__(
        self, inference: Inference, key: int, text: bytes, request_id: str, answer: Answer | None, timeout_s: float
    ) -> None:
        super().__init__(key, text, timeout_s)
        self._inference = inference
        self._request_id = request_id
        self._answer = answer  # None: its client has left
        self.followers: dict[Follower, None] | None = None
        self.generation = inference.generation

    def cancel(self) -> None:
        """Its client has left. What others wait for too goes on."""
        self._answer = None
        if not self.followers:
            self._inference.abandoned(self)

    def unfollow(self, follower: Follower) -> None:
        """The client of somebody who had joined has left."""
        if self.followers is None or follower not in self.followers:  # it has its answer
            return
        del self.followers[follower]
        if not self.followers and self._answer is None:
            self._inference.abandoned(self)

    def on_result(self, cache: int, payload: bytes, time_us: int) -> None:
        """The answer of a worker."""
        inference = self._inference
        inference.finished(self)
        name, now = self.route.name, inference.clock()
        face = inference.faces[name]
        if inference.hot_on and self.generation == inference.generation:
            inference.offer(self.key, self.payload, payload, name)
        inference.latency.add(now - self.began)
        if self._answer is not None:
            body = encode_answer(self._request_id, payload, face.name_json, cache == Cache.HIT, time_us)
            _hand_over(self._answer, 200, face.replies[cache][self.attempts], body)
        for each in self._take_followers():
            inference.latency.add(now - each.began)
            body = encode_answer(each.request_id, payload, face.name_json, False, int((now - each.began) * 1e6))
            _hand_over(each.answer, 200, face.joined[self.attempts], body)

    def on_refusal(self, status: int, payload: bytes) -> None:
        """The worker found fault with the request."""
        inference = self._inference
        inference.finished(self)
        head = inference.faces[self.route.name].replies[Cache.MISS][self.attempts]
        for request_id, answer in self._everybody():
            inference.client_errors += 1
            _hand_over(answer, status, head, b'%b,"request_id":%b}' % (payload[:-1], _encode(request_id)))

    def on_error(self, error: ApiError) -> None:
        """Nobody could answer."""
        inference = self._inference
        inference.finished(self)
        if error.status == 504 and self.followers:
            self._leave_behind()
        head = b"x-attempts: %d\r\n" % self.attempts
        if error.retry_after_s is not None:
            head += b"retry-after: %d\r\n" % error.retry_after_s
        for request_id, answer in self._everybody():
            if error.status < 500:
                inference.client_errors += 1
            else:
                inference.errors += 1
            _hand_over(answer, error.status, head, error_body(error.message, error.code, request_id))

    def _leave_behind(self) -> None:
        """The time of this one is over. Who joined later has some left, and goes on without it."""
        now = self._inference.clock()
        # Who has less time than the shortest queue would only hear the same again.
        others = {each: None for each in self.followers or () if each.deadline > now + self.busy_us / 1e6}
        self.followers = {each: None for each in self.followers or () if each not in others}
        if others:
            left_s = min(each.deadline for each in others) - now
            call = InferCall(self._inference, self.key, self.payload, self._request_id, None, left_s)
            call.followers = others
            for each in others:
                each.leader = call
            self._inference.begin(call)

    def _take_followers(self) -> tuple[Follower, ...]:
        followers, self.followers = tuple(self.followers or ()), None
        return followers

    def _everybody(self) -> list[tuple[str, Answer]]:
        asked = [(each.request_id, each.answer) for each in self._take_followers()]
        return asked if self._answer is None else [(self._request_id, self._answer), *asked]


class Inference:
    """Answers from the hot cache, lets a request join an identical one in flight, and gives the rest to the router."""

    def __init__(self, router: Router, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.faces: dict[str, Face] = {}
        self.hot = HotCache()
        self.hot_on = False
        self.latency = LatencyWindow()
        self.requests = 0
        self.joined = 0
        self.errors = 0
        self.client_errors = 0
        self._router = router
        self._flying: dict[int, InferCall] = {}
        self._wanted = True
        self._models: dict[str, str] = {}
        self.generation = 0  # of the models that run: what began in an earlier one is neither kept nor joined

    def infer(self, body: bytes, answer: Answer, timeout_ms: int | None = None) -> Ticket | None:
        """Takes the body of a `POST /infer`, as exchange.Plane says."""
        self.requests += 1
        try:
            request_id, text, _ = decode_request(body)
        except ApiError as error:
            self.client_errors += 1
            answer(error.status, b"", error_body(error.message, error.code, request_id_of(body)))
            return None
        key = xxh3_64_intdigest(text)
        if self.hot_on:
            began = self.clock()
            kept = self.hot.get(key, text)
            if kept is not None:
                face = self.faces[kept.maker]
                took = self.clock() - began
                self.latency.add(took)
                answer(200, face.hot, encode_answer(request_id, kept.output, face.name_json, True, int(took * 1e6)))
                return None
        timeout_s = timeout_ms / 1000 if timeout_ms is not None else self._router.policy.timeout_s
        leader = self._flying.get(key)
        if leader is not None and leader.payload == text:
            now = self.clock()
            if now + timeout_s >= leader.deadline:  # else it could not wait for the other one's answer
                self.joined += 1
                follower = Follower(leader, request_id, answer, now, now + timeout_s)
                if leader.followers is None:
                    leader.followers = {}
                leader.followers[follower] = None
                return follower
        call = InferCall(self, key, text, request_id, answer, timeout_s)
        self.begin(call)
        return call

    def begin(self, call: InferCall) -> None:
        """Gives a new call to the router; others may join it, rather than one that has more time than they have."""
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

    def offer(self, key: int, text: bytes, output: bytes, maker: str) -> None:
        """A result for the hot cache."""
        self.hot.offer(key, text, output, maker)

    def show(self, name: str, node_id: str) -> None:
        """How a worker is called in answers."""
        self.faces[name] = Face(node_id)

    def use_hot_cache(self, wanted: bool) -> None:
        """The operator's switch."""
        self._wanted = wanted
        self._check_models()

    def serves(self, name: str, digest: str) -> None:
        """A worker has said which model it runs."""
        if self._models.get(name) != digest:
            self._begin_generation()
        self._models[name] = digest
        self._check_models()

    def gone(self, name: str) -> None:
        """A worker is no longer configured."""
        digest = self._models.pop(name, None)
        if digest is not None and digest not in self._models.values():
            self._begin_generation()  # what it still answers is that model's
        self._check_models()

    def _begin_generation(self) -> None:
        self.hot.flush()
        self._flying.clear()
        self.generation += 1

    def _check_models(self) -> None:
        """Results are kept only while every worker runs the same model."""
        self.hot_on = self._wanted and len(set(self._models.values())) == 1
        if not self.hot_on:
            self.hot.flush()


def _hand_over(answer: Answer, status: int, head: bytes, body: bytes) -> None:
    """One asker's trouble must not keep the others from their answers."""
    try:
        answer(status, head, body)
    except Exception:
        logger.exception("an answer could not be handed over")


def _head(node_id: str, cache: str, attempts: int) -> bytes:
    return f"x-node: {node_id}\r\nx-cache: {cache}\r\nx-attempts: {attempts}\r\n".encode()
