"""What is refused before a model has it is told to the plane, which counts it."""

from __future__ import annotations

import pytest

from tests.inference_site.v2.test_wire import FP32, json_body
from tests.support.v2_server import V2Server
from tests.support.wire import request


@pytest.mark.parametrize(
    ("method", "path", "body", "refusals"),
    [
        ("POST", FP32, b"{", 1),
        ("POST", FP32, b'{"inputs":1}', 1),
        ("POST", "/v2/models/nothing/infer", json_body(), 1),
        ("POST", FP32, json_body(), 0),
        ("POST", FP32, b'{"inputs":[]}', 0),  # its model refuses it, and counts it
        ("GET", "/v2/models/nothing", None, 0),  # no inference
    ],
)
def test_a_refused_inference_is_counted_once(v2: V2Server, method: str, path: str, body: bytes | None, refusals: int):
    with v2.connect() as client:
        client.ask(request(method, path, body))
    assert v2.v2.refusals == refusals
