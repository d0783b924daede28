"""V2 as bytes on a connection: keep-alive, pipelines, bodies of every kind, and what a client may do wrong."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import threading
import zlib
from functools import partial
from typing import Any

import pytest

from inference_site.lib.errors import ApiError
from tests.support.processes import wait_until
from tests.support.v2_server import V2Server
from tests.support.waiting import PATIENCE_S
from tests.support.wire import Reply, Wire, chunked, request

FP32 = "/v2/models/fp32/infer"


def json_body(count: int = 2, ident: str | None = "r1", **more: Any) -> bytes:
    tensor = {"name": "IN0", "shape": [1, count], "datatype": "FP32", "data": [float(n) for n in range(count)]}
    return json.dumps({**({"id": ident} if ident is not None else {}), "inputs": [tensor], **more}).encode()


def binary_body(count: int, ident: str = "r1") -> tuple[bytes, str]:
    """(body, header line)."""
    tensor = {"name": "IN0", "shape": [1, count], "datatype": "FP32", "parameters": {"binary_data_size": 4 * count}}
    head = json.dumps({"id": ident, "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    data = struct.pack(f"<{count}f", *range(count))
    return head + data, f"Inference-Header-Content-Length: {len(head)}"


def assert_v2_error(reply: Reply, status: int, code: str | None = None) -> str:
    assert reply.status == status, reply.body[:500]
    assert reply.headers["content-type"] == "application/json"
    content = reply.json
    assert {"error", "code"} <= set(content) <= {"error", "code", "request_id"}
    assert len(content["error"]) > 10
    if code is not None:
        assert content["code"] == code
    error: str = content["error"]
    return error


def test_an_inference_and_its_headers(v2: V2Server):
    with v2.connect() as client:
        for _ in range(3):
            reply = client.ask(request("POST", FP32, json_body()))
            assert reply.status == 200
            assert reply.headers["content-type"] == "application/json"
            assert reply.headers["x-node"] == "fake"
            assert "inference-header-content-length" not in reply.headers
            assert reply.json == {
                "model_name": "fp32",
                "model_version": "1",
                "id": "r1",
                "outputs": [{"name": "OUT0", "datatype": "FP32", "shape": [1, 2], "data": [0.0, 1.0]}],
            }
        body, line = binary_body(5)
        reply = client.ask(request("POST", f"{FP32}?x=1", body, [line]))
        assert reply.headers["content-type"] == "application/octet-stream"
        length = int(reply.headers["inference-header-content-length"])
        assert json.loads(reply.body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 20}
        assert reply.body[length:] == body[-20:]


def test_what_is_null_is_as_left_out(v2: V2Server):
    said = {"inputs": json.loads(json_body())["inputs"]}
    unset = {**said, "id": None, "parameters": None, "outputs": None}
    with v2.connect() as client:
        reply, other = (client.ask(request("POST", FP32, json.dumps(each).encode())) for each in (unset, said))
        assert (reply.status, reply.json) == (200, other.json)


def test_a_known_head_is_not_parsed_again(v2: V2Server):
    body, line = binary_body(3)
    with v2.connect() as client:
        for _ in range(5):
            assert client.ask(request("POST", FP32, body, [line])).status == 200
        assert v2.protocol.parsed == 1
        # But those of repository calls are: who may ask depends on more than the head.
        for _ in range(2):
            assert client.ask(request("POST", "/v2/repository/models/pair/load", b"")).status == 200
        assert v2.protocol.parsed == 3


def test_answers_come_in_the_order_of_the_requests(v2: V2Server):
    large, line = binary_body(100_000, "large")
    packed = gzip.compress(large, 1)
    assert len(packed) > 65536
    with v2.connect() as client:
        client.send(
            request("POST", FP32, json_body(ident="first"))
            + request("POST", FP32, packed, [line, "Content-Encoding: gzip"])  # in a thread
            + request("GET", "/v2")
            + request("POST", FP32, gzip.compress(json_body(50_000, "bomb")), ["Content-Encoding: gzip"])
            + request("POST", "/infer", b'{"request_id":"r","input_data":[1]}')
            + request("POST", "/v2/repository/index")
            + request("POST", FP32, json_body(ident="last"))
        )
        replies = [client.read() for _ in range(7)]
    assert [each.status for each in replies] == [200] * 7
    assert replies[0].json["id"] == "first"
    assert replies[1].body.startswith(b'{"model_name":"fp32","model_version":"1","id":"large"')
    assert replies[2].json["name"]
    assert replies[3].json["id"] == "bomb"
    assert replies[4].json["request_id"] == "r"
    assert isinstance(replies[5].json, list)
    assert replies[6].json["id"] == "last"


@pytest.mark.parametrize("size", [1, 7, 4096, 70_000, 10**6])
def test_a_body_in_pieces_and_in_chunks(v2: V2Server, size: int):
    body, line = binary_body(5_000 if size == 1 else 120_000)
    with v2.connect() as client:
        head = request("POST", FP32, None, [line, f"Content-Length: {len(body)}"])
        if size > 7:
            client.send(head)
            for start in range(0, len(body), size):
                client.send(body[start : start + size])
            assert client.read().body.endswith(body[-1000:])
        parts = [body[start : start + size] for start in range(0, len(body), size)]
        client.send(request("POST", FP32, None, [line, "Transfer-Encoding: chunked"]) + chunked(*parts))
        assert client.read().body.endswith(body[-1000:])


def test_a_client_that_waits_for_100_continue(v2: V2Server):
    body = json_body()
    with v2.connect() as client:
        client.send(request("POST", FP32, None, [f"Content-Length: {len(body)}", "Expect: 100-continue"]))
        assert client.read_interim() == 100
        assert client.ask(body).status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_the_wrong_verb_is_405(v2: V2Server, method: str):
    with v2.connect() as client:
        client.send(request(method, FP32))
        reply = client.read(bodiless=method == "HEAD")
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
        if method != "HEAD":
            assert_v2_error(reply, 405, "method_not_allowed")
        assert client.ask(request("POST", "/v2")).status == 405
        assert client.ask(request("GET", "/v2")).status == 200


def test_head_is_get_without_a_body(v2: V2Server):
    with v2.connect() as client:
        for path, status in (("/v2/health/ready", 200), ("/v2", 200), ("/v2/models/nowhere", 404)):
            client.send(request("HEAD", path))
            reply = client.read(bodiless=True)
            assert reply.status == status
            assert int(reply.headers["content-length"]) > 0
        assert client.ask(request("GET", "/v2")).status == 200


def test_a_process_that_drains_has_no_model_ready_as_it_is_not(v2: V2Server):
    v2.v2.draining = True

    def get(path: str) -> Reply:
        with v2.connect() as client:  # which it closes
            return client.ask(request("GET", path))

    for path in ("/v2/health/ready", "/v2/models/fp32/ready", "/v2/models/fp32/versions/1/ready"):
        assert "draining" in assert_v2_error(get(path), 503, "not_ready")
    assert get("/v2/models/nowhere/ready").status == 404
    assert get("/v2/models/fp32").status == 200


@pytest.mark.parametrize(
    "path",
    ["/v2/", "/v2/x", "/v2//models", "/v2/models", "/v2/models/", "/v2/models/fp32/", "/v2/models/fp32/x", "/v2?x",
     "/v2/models/fp32/versions", "/v2/models/fp32/versions/1/", "/v2/models//infer", "/v2/%00", "/v2/%ff/%zz",
     "/v2/health", "/v2/repository", "/v2/repository/models/fp32", "/v2/models/a/b/c/d/e/f"],
)  # fmt: skip
def test_an_unknown_path_is_404(v2: V2Server, path: str):
    with v2.connect() as client:
        for method in ("GET", "POST"):
            if path != "/v2?x":
                assert_v2_error(client.ask(request(method, path, b"{}")), 404)
        assert client.ask(request("GET", "/v2")).status == 200


def test_paths_that_only_look_like_it_are_the_sites(v2: V2Server):
    with v2.connect() as client:
        for path in ("/v20", "/v2x/models", "/V2", "//v2"):
            assert client.ask(request("GET", path)).json["path"]


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"", "empty_body", "empty"),
        (b"hello", "invalid_json", "not valid"),
        (b'{"inputs":[', "invalid_json", "too early"),
        (b'{"inputs":[{"data":[NaN]}]}', "invalid_json", "a binary tensor of /v2 can hold it"),
        (b'{"inputs":[]}\xff', "invalid_encoding", "UTF-8"),
        (b"[]", "invalid_body", "array"),
        (b"{}", "missing_inputs", "inputs is missing"),
        (b'{"inputs":5}', "invalid_inputs", "no list"),
        (b'{"inputs":[],"outputs":{}}', "invalid_outputs", "no list"),
        (b'{"inputs":[],"id":5}', "invalid_id", "int"),
        (b'{"inputs":[],"parameters":[]}', "invalid_parameters", "array"),
        (b'{"inputs":[],"parameters":{"timeout":"x"}}', "invalid_parameters", "timeout"),
        (b'{"inputs":[],"parameters":{"timeout":-1}}', "invalid_timeout", "-1"),
        (b'{"inputs":[],"parameters":{"binary_data_output":1}}', "invalid_parameters", "binary_data_output"),
        (b'{"inputs":' + b"[" * 100_000, "nested_too_deep", "deep"),
        (struct.pack("<4f", 1, 2, 3, 4), "invalid_encoding", "Inference-Header-Content-Length"),
    ],
)
def test_what_is_no_request_is_400(v2: V2Server, body: bytes, code: str, says: str):
    with v2.connect() as client:
        for _ in range(2):
            assert says in assert_v2_error(client.ask(request("POST", FP32, body)), 400, code)


@pytest.mark.parametrize("value", ["-1", "x", "", "1.5", "99999999999", "0x10", "5,5"])
def test_a_header_length_that_is_none_is_400(v2: V2Server, value: str):
    with v2.connect() as client:
        line = f"Inference-Header-Content-Length: {value}"
        assert_v2_error(client.ask(request("POST", FP32, json_body(), [line])), 400, "invalid_header_length")


def test_a_header_length_beyond_the_body_is_400(v2: V2Server):
    with v2.connect() as client:
        reply = client.ask(request("POST", FP32, json_body(), ["Inference-Header-Content-Length: 5000"]))
        assert "5000" in assert_v2_error(reply, 400, "invalid_header_length")
        reply = client.ask(request("POST", FP32, json_body(), ["Inference-Header-Content-Length: 0"]))
        assert_v2_error(reply, 400, "empty_body")


def test_the_smaller_timeout_counts(v2: V2Server):
    with v2.connect() as client:
        for body_us, header_ms, expected in (
            (None, None, None), (5000, None, 5), (1, None, 1), (0, None, None), (None, 7, 7), (5000, 7, 5),
            (9000, 7, 7), (10**15, None, 600_000), (0, 7, 7),
        ):  # fmt: skip
            more: dict[str, Any] = {} if body_us is None else {"parameters": {"timeout": body_us}}
            lines = [] if header_ms is None else [f"X-Request-Timeout-Ms: {header_ms}"]
            assert client.ask(request("POST", FP32, json_body(**more), lines)).status == 200
            assert v2.v2.timeouts[-1] == expected
        assert_v2_error(client.ask(request("POST", FP32, json_body(), ["X-Request-Timeout-Ms: x"])), 400)


def test_who_leaves_is_not_waited_for(v2: V2Server):
    v2.v2.hold = True
    lines = ["Accept-Encoding: gzip"]
    for headers in ([], lines):
        v2.v2.held.clear()
        with v2.connect() as client:
            client.send(request("POST", FP32, json_body(), headers))
            wait_until("the plane has it", lambda: len(v2.v2.held) == 1)
        wait_until("it is cancelled", lambda: v2.v2.held[0].cancelled)


def test_who_leaves_while_his_answer_is_packed_is_not_waited_for(v2: V2Server):
    v2.v2.result = struct.pack("<I", 2) + b"[]" + b"x" * (8 * 2**20)
    for _ in range(3):
        with v2.connect() as client:
            client.send(request("POST", FP32, json_body(), ["Accept-Encoding: gzip"]))
        wait_until("nobody is left", lambda: not v2.connections())
    v2.v2.result = None
    with v2.connect() as client:
        assert client.ask(request("POST", FP32, json_body())).status == 200


@pytest.mark.parametrize("accepts", ["gzip", "deflate"])
@pytest.mark.parametrize("count", [10, 3_000, 40_000])
def test_an_answer_is_packed_for_who_asks_for_just_that(v2: V2Server, accepts: str, count: int):
    with v2.connect() as client:
        plain = client.ask(request("POST", FP32, json_body(count)))
        reply = client.ask(request("POST", FP32, json_body(count), [f"Accept-Encoding: {accepts}"]))
        if count == 10:
            assert "content-encoding" not in reply.headers
            assert reply.body == plain.body
        else:
            assert reply.headers["content-encoding"] == accepts
            assert zlib.decompress(reply.body, 47) == plain.body
        for other in ("gzip, deflate", "br", "*", "gzip;q=1", ""):
            reply = client.ask(request("POST", FP32, json_body(count), [f"Accept-Encoding: {other}"]))
            assert "content-encoding" not in reply.headers
        # A refusal is not: clients that ask for it read those as they come.
        refused = client.ask(
            request("POST", FP32, json_body(count).replace(b"IN0", b"X" * 2000), [f"Accept-Encoding: {accepts}"])
        )
        assert_v2_error(refused, 400)


@pytest.mark.parametrize("path", [FP32, "/infer"])
def test_bodies_in_every_coding(v2: V2Server, path: str):
    for count in (3, 50_000):
        body = json_body(count) if path == FP32 else b'{"request_id":"r","input_data":[%b]}' % (b"1," * count + b"1")
        raw = zlib.compressobj(wbits=-15)
        with v2.connect() as client:
            plain = client.ask(request("POST", path, body))
            for coding, packed in (
                ("gzip", gzip.compress(body)), ("x-gzip", gzip.compress(body)), ("GZIP", gzip.compress(body, 0)),
                ("deflate", zlib.compress(body)), ("deflate", raw.compress(body) + raw.flush()), ("identity", body),
            ):  # fmt: skip
                reply = client.ask(request("POST", path, packed, [f"Content-Encoding: {coding}"]))
                assert (reply.status, reply.body) == (200, plain.body)


@pytest.mark.parametrize("path", [FP32, "/infer"])
def test_bodies_that_cannot_be_unpacked(v2: V2Server, path: str):
    packed = gzip.compress(json_body(30_000), 0)
    with v2.connect() as client:
        for coding, body, status in (
            ("br", b"x", 415), ("gzip, gzip", packed, 415), ("gzip", b"", 400), ("gzip", b"x", 400),
            ("gzip", packed[:-1], 400), ("gzip", packed[:100], 400), ("gzip", packed + b"x", 400),
            ("gzip", packed + packed, 400), ("gzip", packed[:50] + b"xxxx" + packed[54:], 400), ("deflate", b"x", 400),
            ("deflate", packed, 400), ("gzip", zlib.compress(b"{}"), 400), ("gzip", packed[:20], 400),
        ):  # fmt: skip
            reply = client.ask(request("POST", path, body, [f"Content-Encoding: {coding}"]))
            assert_v2_error(reply, status)
            if status == 415:
                assert reply.headers["accept-encoding"] == "gzip, deflate"
        assert client.ask(request("GET", "/v2")).status == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_413_and_takes_no_more_than_the_limit(small_v2: V2Server, coding: str):
    stream = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    bomb = b"".join(stream.compress(bytes(2**20)) for _ in range(200)) + stream.flush()
    assert len(bomb) < 250_000
    with small_v2.connect() as client:
        for path in (FP32, "/infer"):
            for body in (bomb, bomb[:60_000]):
                reply = client.ask(request("POST", path, body, [f"Content-Encoding: {coding}"]))
                assert "1048576" in assert_v2_error(reply, 413, "body_too_large")
        assert client.ask(request("GET", "/v2")).status == 200
    assert small_v2.protocol.in_flight.used == 0


def test_unpacked_bodies_count_as_those_in_flight(small_v2: V2Server):
    small_v2.v2.hold = True
    packed = gzip.compress(json_body(100_000))
    clients = [small_v2.connect() for _ in range(3)]
    for number, client in enumerate(clients[:2]):
        client.send(request("POST", FP32, packed, ["Content-Encoding: gzip"]))
        wait_until("the plane has it", partial(_holds, small_v2, number + 1))
    assert 10**6 < small_v2.protocol.in_flight.used < 2 * 10**6
    reply = clients[2].ask(request("POST", FP32, packed, ["Content-Encoding: gzip"]))
    assert_v2_error(reply, 503, "overloaded")
    assert reply.headers["retry-after"] == "1"
    for each in clients:
        each.socket.close()
    wait_until("all is given back", lambda: small_v2.protocol.in_flight.used == 0)


def test_a_body_over_the_limit_is_413(small_v2: V2Server):
    with small_v2.connect() as client:
        reply = client.ask(request("POST", FP32, None, [f"Content-Length: {2**20 + 1}"]))
        assert_v2_error(reply, 413, "body_too_large")
        assert client.at_end()
    with small_v2.connect() as client:
        head = request("POST", FP32, None, ["Transfer-Encoding: chunked"])
        client.send(head)
        threading.Thread(target=_send_quietly, args=(client, chunked(bytes(2**20 + 1))), daemon=True).start()
        assert_v2_error(client.read(), 413, "body_too_large")


def test_a_host_that_is_not_allowed_is_djangos(v2: V2Server):
    with v2.connect() as client:
        reply = client.ask(b"GET /v2 HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert reply.json["path"] == "/v2"


def _holds(server: V2Server, count: int) -> bool:
    return len(server.v2.held) == count


def _send_quietly(client: Wire, data: bytes) -> None:
    try:
        client.send(data)
    except OSError:
        return


def test_with_a_token_who_knows_it_changes_the_models(v2: V2Server, settings):
    settings.MODEL_CONTROL_TOKEN = "secret"
    load = "/v2/repository/models/pair/load"
    with v2.connect() as client:
        for lines in ([], ["Authorization: Bearer wrong"], ["Authorization: secret"]):
            assert_v2_error(client.ask(request("POST", load, b"", lines)), 403, "forbidden")
        lines = ["Authorization: Bearer secret", "Origin: http://elsewhere.example", "X-Forwarded-For: 1.2.3.4"]
        assert client.ask(request("POST", load, b"", lines)).json == {}
    assert v2.v2.changes == [("load", "pair")]


def test_a_load_goes_on_when_its_client_leaves_and_says_why_it_failed(v2: V2Server):
    begun, ended = threading.Event(), threading.Event()

    async def load(name: str) -> None:
        begun.set()
        while not ended.is_set():
            await asyncio.sleep(0.01)
        if name == "broken":
            raise ApiError(400, "load_failed", "broken could not be loaded: no such operator")

    v2.v2.loading = load
    with v2.connect() as client:
        client.send(request("POST", "/v2/repository/models/pair/load"))
        assert begun.wait(PATIENCE_S)
    v2.wait_until_left()
    ended.set()
    wait_until("it is loaded", lambda: v2.v2.changes == [("load", "pair")])
    with v2.connect() as client:
        reply = client.ask(request("POST", "/v2/repository/models/broken/load"))
        assert "no such operator" in assert_v2_error(reply, 400, "load_failed")


@pytest.mark.parametrize(
    "line", ["Inference-Header-Content-Length: x", "X-Request-Timeout-Ms: x", "Content-Encoding: br"]
)
def test_a_head_with_a_fault_is_answered_without_a_body_to_head(v2: V2Server, line: str):
    with v2.connect() as client:
        client.send(request("HEAD", FP32, None, [line]))
        assert client.read(bodiless=True).status in (400, 405, 415)
        assert client.ask(request("GET", "/v2")).status == 200
