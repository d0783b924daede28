"""`POST /infer` on the worker itself, without a gateway in between."""

from __future__ import annotations

import asyncio
import math

import msgspec

from inference_site.exchange import Answer
from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.payload import decode_request, encode_answer, request_id_of
from worker_app.job import Job
from worker_app.node import Node

_encode = msgspec.json.encode


class DirectInfer:
    """The data plane of a worker process."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.node_json = _encode(node.node_id)
        self.heads = {
            cache: b"x-node: %b\r\nx-cache: %b\r\n" % (node.node_id.encode(), cache.name.lower().encode())
            for cache in Cache
        }

    @property
    def draining(self) -> bool:
        """Whether connections are to be closed after their next answer."""
        return self.node.draining

    def infer(self, body: bytes, answer: Answer, timeout_ms: int | None = None, /) -> Asker | None:
        """Takes the body of a `POST /infer`; `answer` is called exactly once, perhaps at once, unless it is cancelled.

        The client waits for `timeout_ms`, and then gets 504; None: it has named no limit.
        """
        try:
            request_id, text, _ = decode_request(body)
        except ApiError as error:
            answer(error.status, b"", error_body(error.message, error.code, request_id_of(body)))
            return None
        asker = Asker(self, request_id, answer)
        return asker if asker.ask(text, timeout_ms) else None


class Asker:
    """A client's request that is under way."""

    __slots__ = ("_answer", "_job", "_plane", "_request_id", "_timer")

    def __init__(self, plane: DirectInfer, request_id: str, answer: Answer) -> None:
        self._plane = plane
        self._request_id = request_id
        self._answer = answer
        self._job: Job | None = None
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, text: bytes, timeout_ms: int | None) -> bool:
        """Asks the node; whether it is still under way."""
        self._job = self._plane.node.infer(text, self, _reply, timeout_ms or 0)
        if self._job is not None and timeout_ms is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._expire, timeout_ms)
        return self._job is not None

    def cancel(self) -> None:
        """The client has left."""
        if self._timer is not None:
            self._timer.cancel()
        if self._job is not None:
            self._plane.node.cancel(self._job, self, _reply)
            self._job = None

    def reply(self, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int) -> None:
        """The node's answer."""
        self._job = None
        if self._timer is not None:
            self._timer.cancel()
        head = self._plane.heads[cache]
        if kind is Tell.RESULT:
            cached = cache is Cache.HIT
            self._answer(200, head, encode_answer(self._request_id, payload, self._plane.node_json, cached, time_us))
        elif kind is Tell.REFUSED:
            self._answer(status, head, b'%b,"request_id":%b}' % (payload[:-1], _encode(self._request_id)))
        elif kind is Tell.EXPIRED:
            self._refuse(504, head, "the time for this request passed before it was its turn", "deadline_passed")
        elif kind is Tell.BUSY:
            head += b"retry-after: %d\r\n" % max(1, math.ceil(time_us / 1e6))
            message = (
                f"this worker has {time_us / 1e6:.1f} s of work waiting, more than it may or this request can wait"
            )
            self._refuse(503, head, f"{message}; try again later, or ask the gateway", "overloaded")
        else:
            self._refuse(503, head + b"retry-after: 1\r\n", payload.decode(errors="replace"), "worker_failed")

    def _expire(self, timeout_ms: int) -> None:
        """The node looks at a deadline when it is the request's turn; the client is not to wait for that."""
        self.cancel()
        message = f"no answer within {timeout_ms} ms; allow more time in X-Request-Timeout-Ms, or try again later"
        self._refuse(504, self._plane.heads[Cache.MISS], message, "deadline_passed")

    def _refuse(self, status: int, head: bytes, message: str, code: str) -> None:
        self._answer(status, head, error_body(message, code, self._request_id))


def _reply(token: object, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int) -> None:
    assert isinstance(token, Asker)
    token.reply(kind, cache, status, payload, time_us)
