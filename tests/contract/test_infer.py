"""`POST /infer` as the original API has it, asked through every door."""

import json

import numpy as np
import onnxruntime
import pytest

from tests.support.doors import Door, fresh_values
from tests.support.processes import ROOT
from tests.support.wire import request

KEYS = {"request_id": str, "output_data": list, "node_id": str, "cached": bool, "inference_time_us": int}
ODD_IDS = {
    "empty": "",
    "unicode": "Zahl №7 — 数字 🚀",
    "escapes": '"\\/\b\f\n\r\t\x00\x1f\x7f',
    "markup": "</script><b>{%s}%d",
    "10 kB": "ü" * 5_000,
}


@pytest.fixture(scope="session")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(ROOT / "models/digits.onnx", providers=["CPUExecutionProvider"])


def probabilities(session: onnxruntime.InferenceSession, values: list[float]) -> list[float]:
    padded = np.array([values + [0.0] * (64 - len(values))], np.float32)
    output: list[float] = session.run(["probabilities"], {session.get_inputs()[0].name: padded})[0][0].tolist()
    return output


def test_keys_types_and_values(door: Door):
    reply = door.infer(fresh_values(), "unique_request_id")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    answer = reply.json
    for key, kind in KEYS.items():
        assert type(answer[key]) is kind, key
    assert all(type(value) is float for value in answer["output_data"])
    assert answer["request_id"] == "unique_request_id"
    assert answer["node_id"] in door.nodes
    assert answer["inference_time_us"] > 0


def test_the_second_of_the_same_is_cached(door: Door):
    values = fresh_values()
    first, second, third = (door.infer(values, f"r{number}") for number in range(3))
    assert [each.json["cached"] for each in (first, second, third)] == [False, True, True]
    assert [each.headers["x-cache"] for each in (first, second, third)] == ["miss", "hit", "hit"]
    assert [each.json["request_id"] for each in (first, second, third)] == ["r0", "r1", "r2"]
    assert first.json["output_data"] == second.json["output_data"]
    for each in (first, second, third):
        assert each.headers["x-node"] == each.json["node_id"] == first.json["node_id"]
        assert type(each.json["inference_time_us"]) is int


def test_the_time_of_a_hit_is_measured(door: Door):
    values = fresh_values()
    times = [door.infer(values).json["inference_time_us"] for _ in range(20)]
    assert all(time_us >= 0 for time_us in times)
    assert len(set(times)) > 1, "a constant is no measurement"
    assert times != [times[0]] + [50] * 19


def test_what_one_door_has_asked_is_cached_for_every_other(all_doors: dict[str, Door]):
    values = fresh_values()
    first = all_doors["gateway"].infer(values)
    assert first.json["cached"] is False
    owner = next(name for name in ("worker", "worker-django") if first.json["node_id"] in all_doors[name].nodes)
    for name in ("gateway-django", "daphne", owner, "gateway"):
        reply = all_doors[name].infer(values)
        assert reply.json["cached"] is True, name
        assert reply.headers["x-cache"] == "hit", name
        assert reply.json["node_id"] == first.json["node_id"], name
        assert reply.json["output_data"] == first.json["output_data"], name


@pytest.mark.parametrize("count", [0, 1, 3, 63, 64])
def test_the_answer_is_the_models(door: Door, session: onnxruntime.InferenceSession, count: int):
    # The demo model's record says that what is missing is zero.
    values = fresh_values(count) if count else []
    output = door.infer(values).json["output_data"]
    np.testing.assert_allclose(output, probabilities(session, values), atol=1e-5)


@pytest.mark.parametrize("values", [[0], [-0.0, 5], [1e-320, 2.5], [3.4e38], [-16.25, 1e2, 0.1e1], [2**53]])
def test_ways_to_write_a_number(door: Door, session: onnxruntime.InferenceSession, values: list[float]):
    reply = door.infer(values)
    assert reply.status == 200
    np.testing.assert_allclose(reply.json["output_data"], probabilities(session, values), atol=1e-5)


@pytest.mark.parametrize("ident", ODD_IDS.values(), ids=ODD_IDS.keys())
@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_request_id_comes_back_as_it_was(door: Door, ident: str, ascii_only: bool):
    body = {"request_id": ident, "input_data": [1.0, 2.0, 3.0]}
    reply = door.post(json.dumps(body, ensure_ascii=ascii_only).encode())
    assert reply.status == 200
    assert reply.json["request_id"] == ident


@pytest.mark.parametrize(
    "body",
    [
        b'{"input_data": [1, 2], "more": {"a": [null, "x", {"b": true}]}, "request_id": "r1", "last": 1e5}',
        b' \r\n\t{ "request_id" : "r1" ,\n "input_data" : [ 1 , 2 ] } \r\n',
        b'{"\\u0072equest_id":"r\\u0031","input_data":[1,2]}',
        b'{"request_id":"r1","input_data":[1,2],"":"","request_id2":5}',
    ],
)
def test_other_keys_order_and_blanks_do_not_matter(door: Door, body: bytes):
    reply = door.post(body)
    assert (reply.status, reply.json.get("request_id")) == (200, "r1")


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Content-Type:",),
        *(
            (f"Content-Type: {kind}",)
            for kind in (
                "application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "text/plain", "text/html",
                "application/octet-stream", "application/x-www-form-urlencoded", "multipart/form-data",
                "multipart/form-data; boundary=x", "application/xml", "application/json; charset=nonsense",
                "garbage", "a/b/c;;=", "\xff\xfe",
            )
        ),
        *(
            (f"Accept: {kind}",)
            for kind in ("*/*", "application/json", "text/plain", "image/png", "application/xml;q=0.9", "no", "", ";")
        ),
        ("Accept-Encoding: br", "Accept-Language: tlh", "Accept-Charset: x"),
        ("Cookie: sessionid=forged; csrftoken=forged", "Origin: http://elsewhere.example"),
        ("Authorization: Basic AAAA", "X-HTTP-Method-Override: DELETE"),
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
    ],
    ids=repr,
)  # fmt: skip
def test_headers_decide_nothing(door: Door, headers: tuple[str, ...]):
    reply = door.infer([1.0, 2.0, 3.0], "r1", *headers)
    if door.name == "daphne" and "multipart" in "".join(headers):
        assert reply.status in (200, 400)  # Daphne itself reads such a body, and refuses what is no form
        return
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/json"
    assert reply.json["request_id"] == "r1"


def test_a_large_request_takes_the_same_way(door: Door, session: onnxruntime.InferenceSession):
    values = fresh_values(64)
    text = (", " + " " * 2_000).join(map(repr, values))
    assert len(text) > 100_000
    replies = [door.post(b'{"request_id":"large","input_data":[%b]}' % text.encode()) for _ in range(2)]
    assert [each.json["cached"] for each in replies] == [False, True]
    np.testing.assert_allclose(replies[0].json["output_data"], probabilities(session, values), atol=1e-5)


def test_a_chunked_request(door: Door):
    head = request("POST", "/infer", None, ["Transfer-Encoding: chunked"])
    from tests.support.wire import Wire, chunked

    with Wire.to(door.url) as client:
        reply = client.ask(head + chunked(b'{"request_id":"in ', b'parts","input_data":[1', b",2]}"))
    assert (reply.status, reply.json["request_id"]) == (200, "in parts")


def test_a_browser_gets_the_page_with_the_form(door: Door):
    reply = door.ask("GET", "/infer", None, ["Accept: text/html,application/xhtml+xml,*/*;q=0.8"])
    assert reply.headers["content-type"].startswith("text/html")
    reply = door.infer([1.0, 2.0, 3.0], "from a browser", "Accept: text/html,*/*;q=0.8")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/html")
    assert b"from a browser" in reply.body
