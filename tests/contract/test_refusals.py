"""What a client may do wrong, asked through every door: one shape of error, the right status, and never a 500."""

import json

import pytest

from tests.support.doors import LIMIT_BYTES, Door, assert_error, fresh_values
from tests.support.wire import Wire, chunked, request, send_in_background

DEEP = 100_000


def with_data(data: bytes) -> bytes:
    return b'{"request_id":"r1","input_data":%b}' % data


def with_id(ident: bytes) -> bytes:
    return b'{"request_id":%b,"input_data":[1]}' % ident


# What is no JSON, or has no id that could be known.
WITHOUT_ID = {
    "empty": b"",
    "blank": b" \r\n",
    "text": b"hello",
    "cut off": b'{"request_id":"r1","input_data":[1,',
    "a list": b"[1,2,3]",
    "a number": b"5",
    "null": b"null",
    "a string": b'"x"',
    "nothing in it": b"{}",
    "trailing garbage": with_data(b"[1]") + b"x",
    "two objects": with_data(b"[1]") * 2,
    "single quotes": b"{'request_id':'r1','input_data':[1]}",
    "trailing comma": b'{"request_id":"r1","input_data":[1],}',
    "comment": b'{"request_id":"r1","input_data":[1]/**/}',
    "no id": b'{"input_data":[1]}',
    "id null": with_id(b"null"),
    "id number": with_id(b"5"),
    "id true": with_id(b"true"),
    "id list": with_id(b'["r1"]'),
    "id huge integer": with_id(b"9" * 5000),
    "id lone high surrogate": with_id(rb'"\ud800"'),
    "id lone low surrogate": with_id(rb'"\udc00x"'),
    "id two high surrogates": with_id(rb'"\ud800\ud800"'),
    "id bad escape": with_id(rb'"\x41"'),
    "id control character": with_id(b'"a\nb"'),
    "id invalid utf-8": with_id(b'"\xff"'),
    "id overlong utf-8": with_id(b'"\xc0\xaf"'),
    "id surrogate in utf-8": with_id(b'"\xed\xa0\x80"'),
    "invalid utf-8 elsewhere": b'{"request_id":"r1","input_data":[1],"more":"\xff"}',
    "invalid utf-8 deep elsewhere": b'{"more":{"a":["\xe2\x82"]},"request_id":"r1","input_data":[1]}',
    "invalid utf-8 in a key": b'{"request_id":"r1","input_data":[1],"\xfe":1}',
    "invalid utf-8 outside": with_data(b"[1]") + b"\xff",
    "utf-8 with a byte order mark": b"\xef\xbb\xbf" + with_data(b"[1]"),
    "utf-16": with_data(b"[1]").decode().encode("utf-16"),
    "zero bytes": b"\0" * 10,
    "NaN in an unknown member": b'{"request_id":"r1","input_data":[1],"more":NaN}',
    "deep list": b"[" * DEEP,
    "deep list, closed": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * (DEEP // 2),
    "deep elsewhere": b'{"request_id":"r1","more":' + b"[" * DEEP + b"]" * DEEP + b',"input_data":[1]}',
    "deep data": with_data(b"[" * DEEP + b"]" * DEEP),
    "NaN": with_data(b"[NaN]"),
    "Infinity": with_data(b"[1, Infinity]"),
    "-Infinity": with_data(b"[-Infinity]"),
    "NaN alone": with_data(b"NaN"),
    "plus sign": with_data(b"[+1]"),
    "hexadecimal": with_data(b"[0x10]"),
    "no digit after the point": with_data(b"[1.]"),
    "no digit before the point": with_data(b"[.5]"),
    "leading zero": with_data(b"[01]"),
    "two commas": with_data(b"[1,,2]"),
    "comma at the end": with_data(b"[1,]"),
    "no data after the colon": b'{"request_id":"r1","input_data":}',
}
# What is JSON and has an id.
WITH_ID = {
    "no data": b'{"request_id":"r1"}',
    "data null": with_data(b"null"),
    "data number": with_data(b"1.5"),
    "data true": with_data(b"true"),
    "data string": with_data(b'"[1,2]"'),
    "data object": with_data(b'{"0":1}'),
    "data huge integer": with_data(b"9" * 4301),
    "data 1e999": with_data(b"1e999"),
    "data -1e999": with_data(b"-1e999"),
    "holds true": with_data(b"[1, true]"),
    "holds false": with_data(b"[false]"),
    "holds null": with_data(b"[1.5, null, 2]"),
    "holds string": with_data(b'["1"]'),
    "holds list": with_data(b"[[1, 2], [3, 4]]"),
    "holds empty list": with_data(b"[[]]"),
    "holds object": with_data(b"[{}]"),
    "holds 1e999": with_data(b"[1, 1e999]"),
    "holds -1e999": with_data(b"[-1e999]"),
    "holds 4301 digits": with_data(b"[" + b"9" * 4301 + b"]"),
    "holds 100000 digits": with_data(b"[-" + b"9" * 100_000 + b"]"),
}


@pytest.mark.parametrize("name", WITHOUT_ID)
def test_what_cannot_be_read_is_400(door: Door, name: str):
    reply = door.post(WITHOUT_ID[name])
    # Of some of these an id can be read, of others not: whichever it is, the shape holds.
    ident = "r1" if reply.status == 400 and "request_id" in reply.json else None
    assert_error(reply, 400, ident)


@pytest.mark.parametrize("name", WITH_ID)
def test_wrong_data_is_400_and_says_whose(door: Door, name: str):
    known = not any(word in name for word in ("999", "digits", "huge"))
    reply = door.post(WITH_ID[name])
    ident = "r1" if known or (reply.status == 400 and "request_id" in reply.json) else None
    assert_error(reply, 400, ident)


@pytest.mark.parametrize("name", ["lone surrogate", "bad escape", "invalid utf-8"])
def test_strings_that_are_none_in_place_of_data(door: Door, name: str):
    text = {"lone surrogate": rb'"\ud800"', "bad escape": rb'"\q"', "invalid utf-8": b'"\xff"'}[name]
    for data in (text, b"[%b]" % text):
        reply = door.post(with_data(data))
        assert_error(reply, 400, "r1" if "request_id" in reply.json else None)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("no id", "request_id"),
        ("id number", "request_id"),
        ("holds true", "input_data[1]"),
        ("holds null", "input_data[1]"),
        ("data null", "input_data"),
        ("no data", "input_data"),
    ],
)
def test_the_error_names_what_is_wrong(door: Door, name: str, named: str):
    assert named in door.post({**WITHOUT_ID, **WITH_ID}[name]).json["error"]


def test_too_many_values_are_422(door: Door):
    reply = door.infer([0.5] * 65, "long")
    content = assert_error(reply, 422, "long")
    assert "65" in content["error"]
    assert "64" in content["error"]
    assert reply.headers["x-node"] in door.nodes


@pytest.mark.parametrize("value", ["1e300", "-1e300", "3.5e38"])
def test_a_value_that_the_models_type_cannot_hold_is_422(door: Door, value: str):
    content = assert_error(door.post(with_data(b"[1, %b]" % value.encode())), 422, "r1")
    assert "input_data[1]" in content["error"]


def test_refusals_open_no_breaker_and_stop_nobody(gateway: Door):
    for number in range(40):
        assert gateway.infer([0.5] * 65, f"r{number}").status == 422
        assert gateway.post(WITH_ID["holds null"]).status == 400
    assert {each["state"] for each in gateway.ask("GET", "/stats").json["circuit_breakers"]} == {"CLOSED"}
    assert gateway.infer(fresh_values()).status == 200


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "path", ["/nowhere", "/infer/", "/infer/x", "//infer", "/%2finfer", "/Infer", "/v9", "/%00", "/%ff"]
)
def test_an_unknown_path_is_404(door: Door, method: str, path: str):
    body = b"{}" if method == "POST" else None
    assert_error(door.ask(method, path, body), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/infer"), ("PUT", "/infer"), ("DELETE", "/infer"), ("PATCH", "/infer"),
        ("POST", "/health"), ("DELETE", "/health"), ("POST", "/livez"), ("PUT", "/livez"), ("POST", "/readyz"),
    ],
)  # fmt: skip
def test_the_wrong_verb_is_405(door: Door, method: str, path: str):
    reply = door.ask(method, path, b"{}" if method != "GET" else None)
    assert_error(reply, 405)
    assert reply.headers["allow"]


@pytest.mark.parametrize("path", ["/", "/static/inference/page.css"])
def test_so_it_is_for_pages_and_files(door: Door, path: str):
    reply = door.ask("OPTIONS", path)
    content = assert_error(reply, 405, code="method_not_allowed")
    assert reply.headers["allow"] == "GET, HEAD"
    assert content["error"] == f"OPTIONS is not for {path}; use GET or HEAD"


@pytest.mark.parametrize("path", ["/", "/health", "/livez", "/v2", "/v2/health/ready", "/nowhere", "/infer", "/v2/x"])
def test_a_head_is_that_of_the_answer(door: Door, path: str):
    whole = door.ask("GET", path)
    with Wire.to(door.url) as client:
        client.send(request("HEAD", path, None, ["Connection: close"]))
        head = client.read(bodiless=True)
        assert client.at_end()
    assert head.status == whole.status
    assert head.headers.keys() == whole.headers.keys()
    assert head.headers["content-type"] == whole.headers["content-type"]


def test_what_is_there_is_said_where_nothing_is(door: Door):
    content = assert_error(door.ask("GET", "/nowhere"), 404, code="not_found")
    named = content["error"].partition("see ")[2].split(", ")
    assert ("/stats" in named) == door.gateway
    for path in named:
        assert door.ask("OPTIONS", path).status in (200, 405)


def test_a_websocket_that_is_asked_for_as_a_page_says_what_it_is(gateway: Door):
    for method in ("GET", "POST"):
        reply = gateway.ask(method, "/live", b"" if method == "POST" else None)
        assert_error(reply, 426, code="upgrade_required")
        assert reply.headers["upgrade"] == "websocket"


def test_the_admin_is_found_without_its_slash(gateway: Door):
    reply = gateway.ask("GET", "/admin")
    assert (reply.status, reply.headers["location"]) == (302, "/admin/")


def test_the_wrong_verb_for_stats_is_405(gateway: Door):
    assert_error(gateway.ask("POST", "/stats", b"{}"), 405)


@pytest.mark.parametrize("accept", ["image/png", "garbage", "text/plain", ""])
def test_errors_are_json_whatever_is_asked_for(door: Door, accept: str):
    for method, path, status in (("GET", "/nowhere", 404), ("DELETE", "/infer", 405), ("POST", "/infer", 400)):
        assert_error(door.ask(method, path, b"x" if method == "POST" else None, [f"Accept: {accept}"]), status)


@pytest.mark.parametrize("path", ["/infer", "/infer?x=1"])
def test_a_body_over_the_limit_is_413(door: Door, path: str):
    fits = with_data(b"[1" + b" " * (LIMIT_BYTES - len(with_data(b"[1]"))) + b"]")
    assert len(fits) == LIMIT_BYTES
    assert door.ask("POST", path, fits).status == 200
    with Wire.to(door.url) as client:
        send_in_background(client, request("POST", path, fits + b" "))
        content = assert_error(client.read(), 413, code="body_too_large")
    assert str(LIMIT_BYTES) in content["error"]


def test_a_declared_length_over_the_limit_is_413_before_the_body(all_doors: dict[str, Door]):
    # Only the hot path sees a head before its body; the other servers collect the whole first.
    for name in ("gateway", "worker"):
        for path in ("/infer", "/infer?x=1", "/stats", "/nowhere"):
            with Wire.to(all_doors[name].url) as client:
                reply = client.ask(request("POST", path, None, [f"Content-Length: {LIMIT_BYTES + 1}"]))
                assert_error(reply, 413, code="body_too_large")
                assert client.at_end()


def test_chunks_beyond_the_limit_are_413(door: Door):
    data = with_data(b"[1" + b" " * LIMIT_BYTES + b"]")
    with Wire.to(door.url) as client:
        head = request("POST", "/infer", None, ["Transfer-Encoding: chunked"])
        send_in_background(client, head + chunked(data[:1000], data[1000:]))
        assert_error(client.read(), 413, code="body_too_large")
    assert door.infer([1.0]).status == 200


def test_many_values_are_refused_by_their_count(door: Door):
    body = json.dumps({"request_id": "r1", "input_data": [0] * 80_000}).encode()
    assert len(body) < LIMIT_BYTES
    assert_error(door.post(body), 422, "r1")
