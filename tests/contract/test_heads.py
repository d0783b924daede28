"""What a request's head may say besides its path: how long the client waits, and which name it has called."""

import json

import pytest

from tests.support.doors import LIMIT_BYTES, Door, assert_error, fresh_values
from tests.support.wire import Wire, request, send_in_background

BODY = json.dumps({"request_id": "r1", "input_data": [1.0, 2.0, 3.0]}).encode()


@pytest.mark.parametrize("value", ["1", "60000", "600000", "0600000"])
def test_a_timeout_is_whole_milliseconds(door: Door, value: str):
    warm = door.post(BODY)
    assert warm.status == 200
    reply = door.post(BODY, f"X-Request-Timeout-Ms: {value}")
    assert reply.status in ((200, 504) if value == "1" else (200,))  # a busy machine may take more than one


@pytest.mark.parametrize("value", ["0", "600001", "-5", "1.5", "1e3", "5s", "soon", "0x10", "1,2", "9" * 400])
def test_any_other_timeout_is_400(door: Door, value: str):
    content = assert_error(door.post(BODY, f"X-Request-Timeout-Ms: {value}"), 400, "r1", code="invalid_timeout")
    assert value[:40] in content["error"]
    assert "600000" in content["error"]


def test_two_timeouts_are_400(door: Door):
    reply = door.post(BODY, "X-Request-Timeout-Ms: 500", "X-Request-Timeout-Ms: 500")
    assert_error(reply, 400, "r1", code="invalid_timeout")


def test_a_wrong_timeout_leaves_the_connection_as_it_was(door: Door):
    with Wire.to(door.url) as client:
        wrong = request("POST", "/infer", BODY, ["X-Request-Timeout-Ms: never"])
        for _ in range(2):
            assert_error(client.ask(wrong), 400, "r1", code="invalid_timeout")
            assert client.ask(request("POST", "/infer", BODY)).status == 200


@pytest.mark.parametrize("v2", [False, True])
def test_an_answer_explains_itself_if_asked(door: Door, v2: bool):
    values = fresh_values(64)
    tensor = {"name": "input", "shape": [1, 64], "datatype": "FP32", "data": values}
    path = "/v2/models/digits/infer" if v2 else "/infer"
    body = json.dumps({"inputs": [tensor]} if v2 else {"request_id": "r1", "input_data": values}).encode()
    for cache in ("miss", "hit"):
        reply = door.ask("POST", path, body, ["X-Explain: 1"])
        told = json.loads(reply.headers["x-explain"])
        assert (told["status"], told["cache"], told["answered_by"]) == (200, cache, reply.headers["x-node"])
        assert (told["model"], told["version"], len(told["key"])) == ("digits", "1", 16)
        assert (told["batch"] is None) == (cache == "hit")
        assert sum(told["parts_ms"].values()) == pytest.approx(told["total_ms"], rel=0.05)
    for headers in ([], ["X-Explain: 0"]):
        assert "x-explain" not in door.ask("POST", path, body, headers).headers


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/infer", b"{", [], 400),
        ("/infer", BODY, ["X-Request-Timeout-Ms: soon"], 400),
        ("/infer", BODY.replace(b"{", b'{"model": "nothing", ', 1), [], 404),
        ("/infer", BODY.replace(b"1.0", b'"a"'), [], 400),
        ("/v2/models/nothing/infer", b"{}", [], 404),
        ("/v2/models/digits/infer", b"{}", [], 400),
    ],
)
def test_so_does_a_refusal(door: Door, path: str, body: bytes, headers: list[str], status: int):
    reply = door.ask("POST", path, body, ["X-Explain: 1", *headers])
    told = json.loads(reply.headers["x-explain"])
    assert (reply.status, told["status"]) == (status, status)
    assert told["why"]
    assert told["cache"] is None
    assert sum(told["parts_ms"].values()) == pytest.approx(told["total_ms"], rel=0.05)


@pytest.mark.parametrize("path", ["/infer", "/infer?x=1", "/v2/models/digits/infer"])
def test_so_does_the_refusal_of_a_body_that_is_too_large(door: Door, path: str):
    body = b" " * (LIMIT_BYTES + 1)
    for headers, explained in (["X-Explain: 1"], True), ([], False):
        with Wire.to(door.url) as client:
            send_in_background(client, request("POST", path, body, headers))
            reply = client.read()
        assert_error(reply, 413, code="body_too_large")
        assert ("x-explain" in reply.headers) == explained
        if explained:
            told = json.loads(reply.headers["x-explain"])
            assert (told["status"], told["why"]) == (413, reply.json["error"])


@pytest.mark.parametrize("value", ["2", "yes", "1, 1"])
def test_any_other_wish_for_that_is_400(door: Door, value: str):
    content = assert_error(door.post(BODY, f"X-Explain: {value}"), 400, "r1", code="invalid_explain")
    assert value in content["error"]


def with_host(method: str, path: str, *hosts: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"Host: {host}" for host in hosts), f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "a b", "[::1", "", "@"]
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/infer"), ("GET", "/livez"), ("GET", "/stats")])
def test_a_name_that_is_not_this_gateways_is_400(gateway: Door, method: str, path: str, host: str):
    """Else a page under a name that its owner points to this machine could ask it in a visitor's browser."""
    with Wire.to(gateway.url) as client:
        assert_error(client.ask(with_host(method, path, host, body=BODY if path == "/infer" else b"")), 400)


def test_the_refused_name_is_named(gateway: Door):
    with Wire.to(gateway.url) as client:
        content = assert_error(client.ask(with_host("POST", "/infer", "evil.example", body=BODY)), 400)
    assert content["code"] == "invalid_host"
    assert "evil.example" in content["error"]
    assert "ALLOWED_HOSTS" in content["error"]


@pytest.mark.parametrize("hosts", [("evil.example", "localhost"), ("localhost", "evil.example")])
def test_two_names_are_400(gateway: Door, hosts: tuple[str, str]):
    with Wire.to(gateway.url) as client:
        assert_error(client.ask(with_host("POST", "/infer", *hosts, body=BODY)), 400)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8000", "[::1]:80", "localhost."])
def test_its_own_names_are_answered(gateway: Door, host: str):
    for path in ("/infer", "/infer?by=django"):
        with Wire.to(gateway.url) as client:
            assert client.ask(with_host("POST", path, host, body=BODY)).status == 200


@pytest.mark.parametrize("hosts", [("evil.example",), ("worker-1.internal:9",)])
def test_a_worker_has_any_name(worker: Door, hosts: tuple[str, ...]):
    for path in ("/infer", "/infer?by=django", "/infer"):
        with Wire.to(worker.url) as client:
            assert client.ask(with_host("POST", path, *hosts, body=BODY)).status == 200


def test_a_client_that_names_no_host_is_answered(door: Door):
    with Wire.to(door.url) as client:
        assert client.ask(with_host("POST", "/infer", body=BODY)).status == 200


def test_a_form_that_was_not_asked_for_is_refused_in_json(gateway: Door):
    assert_error(gateway.ask("POST", "/", b""), 403, code="csrf_failed")
    page = gateway.ask("POST", "/", b"", ["Accept: text/html"])
    assert (page.status, page.headers["content-type"]) == (403, "text/html; charset=utf-8")


def test_a_form_with_too_many_fields_is_called_so(door: Door):
    form = ["Content-Type: application/x-www-form-urlencoded"]
    assert_error(door.ask("POST", "/infer", b"a=1&" * 2000, form), 400)
    if not door.fast:
        assert door.ask("POST", "/infer", b"a=1&" * 2000, form).json["code"] == "too_many_fields"
    assert door.infer(fresh_values()).status == 200
