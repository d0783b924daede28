"""V2 through Django: the same calls, the same answers; the server is uvicorn with this project's protocol."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as sync_http
from django.core.asgi import get_asgi_application

from inference_site import lifecycle
from inference_site.exchange import Plane
from tests.inference_site.v2.test_wire import FP32, assert_v2_error, binary_body, json_body
from tests.support.processes import wait_until
from tests.support.v2_server import V2Server
from tests.support.wire import request


class V2Service(lifecycle.Service):
    def __init__(self, server: V2Server) -> None:
        self.loop = server.loop
        self._server = server

    @property
    def plane(self) -> Plane:
        return self._server.v2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[V2Server]:
    with V2Server(app=get_asgi_application()) as running:
        running.protocol.leaves_all_to_django = True
        monkeypatch.setattr(lifecycle, "_service", V2Service(running))
        yield running
        running.assert_quiet(caplog)


def test_the_real_client(server: V2Server):
    array = np.arange(200_000, dtype=np.float32).reshape(2, -1)
    with sync_http.InferenceServerClient(server.url) as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("with space ü")["name"] == "with space ü"
        assert client.get_model_config("pair")["max_batch_size"] == 8
        assert len(client.get_model_repository_index()) == len(server.v2.infos)
        client.load_model("pair")
        client.unload_model("pair")
        for coding in (None, "gzip", "deflate"):
            sent = sync_http.InferInput("IN0", list(array.shape), "FP32")
            sent.set_data_from_numpy(array)
            reply = client.infer(
                "fp32", [sent], request_compression_algorithm=coding, response_compression_algorithm=coding
            )
            np.testing.assert_array_equal(reply.as_numpy("OUT0"), array)
    assert server.v2.changes == [("load", "pair"), ("unload", "pair")]


@pytest.mark.parametrize(
    "kind", ["", "text/html", "application/x-www-form-urlencoded", "multipart/form-data", "a/b;;="]
)
def test_headers_decide_nothing(server: V2Server, kind: str):
    body, line = binary_body(5)
    with server.connect() as client:
        reply = client.ask(request("POST", FP32, body, [line, f"Content-Type: {kind}", f"Accept: {kind}"]))
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["x-node"] == "fake"
        assert reply.body.endswith(body[-20:])
        reply = client.ask(request("POST", FP32, json_body(), [f"Content-Type: {kind}", f"Accept: {kind}"]))
        assert reply.json["outputs"][0]["data"] == [0.0, 1.0]
        assert reply.headers["content-type"] == "application/json"


def test_errors_are_json(server: V2Server):
    with server.connect() as client:
        for method, path, body, headers, status in (
            ("GET", "/v2/nowhere", b"", [], 404),
            ("GET", "/v2/", b"", [], 404),
            ("GET", FP32, b"", [], 405),
            ("DELETE", "/v2", b"", [], 405),
            ("POST", FP32, b"{}", [], 400),
            ("POST", FP32, json_body(), ["Inference-Header-Content-Length: x"], 400),
            ("POST", FP32, json_body(), ["X-Request-Timeout-Ms: x"], 400),
            ("POST", FP32, b"x", ["Content-Encoding: br"], 415),
            ("POST", FP32, b"x", ["Content-Encoding: gzip"], 400),
            ("POST", "/v2/models/nowhere/infer", json_body(), [], 404),
            ("POST", "/v2/models/broken/infer", json_body(), [], 503),
            ("POST", "/v2/repository/models/pair/load", b"", ["Origin: http://x.example"], 403),
        ):
            reply = client.ask(request(method, path, body, headers))
            assert_v2_error(reply, status)
            if status == 405:
                assert reply.headers["allow"] in ("GET", "POST")


def test_a_bomb_is_413(server: V2Server, settings):
    settings.MAX_BODY_BYTES = 10_000
    with server.connect() as client:
        reply = client.ask(request("POST", FP32, gzip.compress(bytes(10**7)), ["Content-Encoding: gzip"]))
        assert_v2_error(reply, 413, "body_too_large")
        reply = client.ask(request("POST", "/infer", gzip.compress(bytes(10**7)), ["Content-Encoding: gzip"]))
        assert_v2_error(reply, 413, "body_too_large")
        packed = gzip.compress(json.dumps({"request_id": "r", "input_data": [1]}).encode())
        assert client.ask(request("POST", "/infer", packed, ["Content-Encoding: gzip"])).json["request_id"] == "r"


def test_who_leaves_is_not_waited_for(server: V2Server):
    server.v2.hold = True
    with server.connect() as client:
        client.send(request("POST", FP32, json_body(), ["X-Request-Timeout-Ms: 70"]))
        wait_until("the plane has it", lambda: len(server.v2.held) == 1)
    wait_until("it is cancelled", lambda: server.v2.held[0].cancelled)
    assert server.v2.timeouts == [70]
