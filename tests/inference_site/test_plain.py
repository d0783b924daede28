"""What a client of `POST /infer` is answered."""

import json

from inference_site.lib.errors import ApiError
from inference_site.plain import PlainAsker

Answers = list[tuple[int, bytes, bytes]]


def test_an_output_is_answered_under_the_requests_id() -> None:
    answers: Answers = []
    asker = PlainAsker('r "1"', lambda *answer: answers.append(answer))
    asker.on_output(b"[1.5,2.0]", b'"worker_1"', True, 12, b"x-node: worker_1\r\n")
    [(status, headers, body)] = answers
    assert (status, headers) == (200, b"x-node: worker_1\r\n")
    assert json.loads(body) == {
        "request_id": 'r "1"',
        "output_data": [1.5, 2.0],
        "node_id": "worker_1",
        "cached": True,
        "inference_time_us": 12,
    }


def test_an_error_keeps_its_status_its_headers_and_the_requests_id() -> None:
    answers: Answers = []
    asker = PlainAsker("r", lambda *answer: answers.append(answer))
    asker.on_error(ApiError(503, "overloaded", "try later", retry_after_s=7), b"retry-after: 7\r\n")
    [(status, headers, body)] = answers
    assert (status, headers) == (503, b"retry-after: 7\r\n")
    assert json.loads(body) == {"error": "try later", "code": "overloaded", "request_id": "r"}
