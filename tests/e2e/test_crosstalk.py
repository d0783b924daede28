"""Ten thousand requests through one gateway, fifty at a time: each gets the answer to its own input."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tests.support import onnx_models
from tests.support.load import Case, Load, Oracle
from tests.support.processes import wait_until

PADDED = json.dumps({"pad_with_zeros": True})
REFUSED = [
    Case(b'[1.0,"2.0"]', status=400, code="invalid_input_data"),
    Case(b"[1.0,true]", status=400, code="invalid_input_data"),
    Case(b"[1e999]", status=400, code="invalid_input_data"),
    Case(b"[[1.0,2.0]]", status=400, code="invalid_input_data"),
    Case(b"null", status=400, code="invalid_input_data"),
    Case(b"[1e39]", status=422, code="value_out_of_range"),
    Case(json.dumps([0.5] * 65).encode(), status=422, code="wrong_input_size"),
]


def test_ten_thousand_mixed_requests(make_cluster, tmp_path):
    model = onnx_models.mlp(tmp_path / "small.onnx", (64, 128, 10))
    model.with_suffix(".json").write_text(PADDED)
    oracle = Oracle(model)
    shuffle = random.Random(0)
    repeated = oracle.random_cases(200, seed=1)
    short = [case for size in range(1, 51) for case in oracle.random_cases(10, seed=size, size=size)]
    cases = [
        *oracle.random_cases(5_000, seed=2),  # each of them once: run by the model
        *shuffle.choices(repeated, k=3_500),
        *short,
        *shuffle.choices(REFUSED, k=1_000),
    ]
    shuffle.shuffle(cases)
    assert len(cases) == 10_000

    running = make_cluster(model=model)
    with Load(running.gateway_url, cases, connections=50, total=len(cases)) as load:
        report = load.finish()
    report.assert_no_failure()
    assert len(report.answers) == len(cases)
    assert {each.case for each in report.answers} == set(range(len(cases)))
    assert report.statuses[200] == 9_000
    # The mixture was one: all workers took part, and there were hits among the repeated ones as well as misses.
    assert set(report.nodes()) == set(running.names)
    assert 2_000 < sum(each.cached for each in report.answers) <= 3_500
    wait_until("nothing is in flight", lambda: running.stats()["gateway"]["in_flight"] == 0)


def test_large_bodies_beside_small_ones(make_cluster, tmp_path):
    """20,000 values are about 150 KB of JSON: beyond 64 KiB, bodies travel on a connection of their own."""
    model = onnx_models.linear(tmp_path / "wide.onnx", n_in=20_000)
    model.with_suffix(".json").write_text(PADDED)
    oracle = Oracle(model)
    shuffle = random.Random(0)
    # Positive, so that nothing cancels out in the sum; the short ones large, as their weights are small.
    large = oracle.random_cases(150, seed=1, low=0.0, high=10.0)
    assert all(len(case.text) > 100_000 for case in large)
    small = []
    for size in (5, 64, 500):
        small += oracle.random_cases(300, seed=size, size=size, low=0.0, high=1e5)
    too_many = Case(json.dumps([1] * 20_001).encode(), status=422, code="wrong_input_size")
    assert len(too_many.text) < 64 * 1024
    too_large = Case(json.dumps([0.25] * 20_001).encode(), status=422, code="wrong_input_size")
    assert len(too_large.text) > 64 * 1024
    cases = [*large, *large[:50], *small, *shuffle.choices([too_many, too_large], k=20)]
    shuffle.shuffle(cases)

    running = make_cluster(workers=2, model=model)
    with Load(running.gateway_url, cases, connections=50, total=len(cases)) as load:
        report = load.finish()
    report.assert_no_failure()
    assert len(report.answers) == len(cases)
    assert set(report.nodes()) == set(running.names)


@contextmanager
def liar(answer: dict) -> Iterator[str]:
    """A server that gives this answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"request_id": asked["request_id"], "node_id": "liar", **answer}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ({"output_data": [1.0, 2.0]}, 0),
        ({"output_data": [1.0, 2.0001]}, 3),
        ({"output_data": [2.0, 1.0]}, 3),
        ({"output_data": [1.0, 2.0, 3.0]}, 3),
        ({"output_data": [1.0, 2.0], "request_id": "another's"}, 3),
        ({"error": "no"}, 3),
    ],
)
def test_the_load_notices_a_wrong_answer(answer, wrong):
    case = Case(b"[0]", np.array([1.0, 2.0], np.float32))
    with liar(answer) as url, Load(url, [case], connections=1, total=3) as load:
        report = load.finish()
    assert (len(report.failures), len(report.answers)) == (wrong, 3 - wrong)
    assert all(each.cause == "wrong" for each in report.failures)
