"""Who waits for the answer to one `POST /infer`."""

from __future__ import annotations

from inference_site.exchange import Answer
from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.payload import encode_answer


class PlainAsker:
    """Gives `answer` the JSON of what it is told, under the request's id; an Asker."""

    __slots__ = ("_answer", "_request_id")

    def __init__(self, request_id: str, answer: Answer) -> None:
        self._request_id = request_id
        self._answer = answer

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        """The answer: 200."""
        self._answer(200, headers, encode_answer(self._request_id, output, node_json, cached, time_us))

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        """Why there is none; a Retry-After is in the headers already."""
        self._answer(error.status, headers, error_body(error.message, error.code, self._request_id))
