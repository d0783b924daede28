"""`POST /infer` on the worker itself, without a gateway in between."""

from __future__ import annotations

from typing import cast

import msgspec

from inference_site.exchange import Answer
from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.payload import decode_request, encode_answer, request_id_of
from worker_app.node import Node

_encode = msgspec.json.encode


class DirectInfer:
    """The data plane of a worker process."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._node_json = _encode(node.node_id)
        self._heads = {
            cache: b"x-node: %b\r\nx-cache: %b\r\n" % (node.node_id.encode(), cache.name.lower().encode())
            for cache in Cache
        }

    @property
    def draining(self) -> bool:
        """Whether connections are to be closed after their next answer."""
        return self.node.draining

    def infer(self, body: bytes, answer: Answer) -> None:
        """Takes the body of a `POST /infer`; `answer` is called exactly once, perhaps at once."""
        try:
            request_id, text = decode_request(body)
        except ApiError as error:
            answer(error.status, b"", error_body(error.message, error.code, request_id_of(body)))
        else:
            self.node.infer(text, (request_id, answer), self._reply)

    def _reply(self, token: object, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int) -> None:
        request_id, answer = cast(tuple[str, Answer], token)
        head = self._heads[cache]
        if kind is Tell.RESULT:
            answer(200, head, encode_answer(request_id, payload, self._node_json, cache is Cache.HIT, time_us))
        elif kind is Tell.REFUSED:
            answer(status, head, b'%b,"request_id":%b}' % (payload[:-1], _encode(request_id)))
        else:
            busy = kind is Tell.BUSY
            message = "this worker's queue is full; try again" if busy else payload.decode(errors="replace")
            code = "overloaded" if busy else "worker_failed"
            answer(503, head + b"retry-after: 1\r\n", error_body(message, code, request_id))
