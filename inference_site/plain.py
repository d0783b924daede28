"""Who waits for the answer to one `POST /infer`."""

from __future__ import annotations

import msgspec

from inference_site.exchange import Answer
from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.payload import encode_answer


class PlainAsker(msgspec.Struct):  # one is made for each request: a struct is, in half the time
    """Gives `answer` the JSON of what it is told, under the request's id; an Asker."""

    request_id: str
    answer: Answer

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        """The answer: 200."""
        self.answer(200, headers, encode_answer(self.request_id, output, node_json, cached, time_us))

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        """Why there is none; a Retry-After is in the headers already."""
        self.answer(error.status, headers, error_body(error.message, error.code, self.request_id))
