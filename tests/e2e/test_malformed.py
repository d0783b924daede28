"""A client that sends nothing but nonsense harms nobody else, and is told each time what is wrong."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import BinaryIO

import pytest

from tests.support.cluster import Cluster
from tests.support.load import Load, Oracle
from tests.support.processes import ROOT
from tests.support.waiting import PATIENCE_S

KNOWN = "who-asks"
HEAD = b"POST /infer HTTP/1.1\r\nHost: localhost\r\n"


def post(body: bytes, *, path: str = "/infer", verb: str = "POST", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"{verb} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode() + body


def asking(values: bytes) -> bytes:
    return post(b'{"request_id":"%b","input_data":%b}' % (KNOWN.encode(), values))


# What is sent, the status, and the code (any, if empty).
KINDS: dict[str, tuple[bytes, int, str]] = {
    "too many values": (asking(b"[" + b"1," * 64 + b"1]"), 422, "wrong_input_size"),
    "beyond a float32": (asking(b"[1e300]"), 422, "value_out_of_range"),
    "infinite when read": (asking(b"[1e999]"), 400, "invalid_input_data"),
    "4301 digits": (asking(b"[" + b"9" * 4301 + b"]"), 400, ""),
    "a string": (asking(b'["1"]'), 400, "invalid_input_data"),
    "a boolean": (asking(b"[1,true]"), 400, "invalid_input_data"),
    "null among numbers": (asking(b"[null]"), 400, "invalid_input_data"),
    "a list in it": (asking(b"[[1,2]]"), 400, "invalid_input_data"),
    "no list": (asking(b'{"0":1}'), 400, "invalid_input_data"),
    "a number alone": (asking(b"3.5"), 400, "invalid_input_data"),
    "null": (asking(b"null"), 400, "invalid_input_data"),
    "an escaped lone surrogate": (asking(b'["\\ud800"]'), 400, ""),
    "NaN": (asking(b"[NaN]"), 400, ""),
    "Infinity": (asking(b"[-Infinity]"), 400, ""),
    "deep nesting": (asking(b"[" * 100_000 + b"]" * 100_000), 400, ""),
    "unclosed nesting": (asking(b"[" * 100_000), 400, ""),
    "not JSON": (post(b"these are no numbers"), 400, "invalid_json"),
    "half of it": (post(b'{"request_id":"x","input_data":[1.0,'), 400, "invalid_json"),
    "empty": (post(b""), 400, "empty_body"),
    "invalid UTF-8": (post(b'{"request_id":"\xff\xfe","input_data":[1]}'), 400, "invalid_encoding"),
    "a list instead of an object": (post(b"[1,2,3]"), 400, "invalid_body"),
    "no input_data": (post(b'{"request_id":"x"}'), 400, "missing_input_data"),
    "no request_id": (post(b'{"input_data":[1]}'), 400, "missing_request_id"),
    "a number as request_id": (post(b'{"request_id":7,"input_data":[1]}'), 400, "invalid_request_id"),
    "too large": (post(b"", length=16 * 2**20 + 1), 413, "body_too_large"),
    "a path that is none": (post(b"{}", path="/infers"), 404, ""),
    "another verb": (post(b"{}", verb="DELETE"), 405, ""),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400, "invalid_http"),
    "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400, "invalid_http"),
    "a timeout that is none": (HEAD + b"X-Request-Timeout-Ms: 5s\r\n\r\n", 400, "invalid_timeout"),
    "a name that is another's": (HEAD.replace(b"localhost", b"evil.example") + b"\r\n", 400, "invalid_host"),
    "a length that is none": (HEAD + b"Content-Length: ten\r\n\r\n{}", 400, "invalid_http"),
}  # fmt: skip
# Well-formed JSON with a request_id: the answer repeats it.
KNOWS_WHO = {
    "too many values", "beyond a float32", "infinite when read", "a string", "a boolean", "null among numbers",
    "a list in it", "no list", "a number alone", "null",
}  # fmt: skip


def connect(cluster: Cluster) -> socket.socket:
    host, _, port = cluster.gateway_url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def read_answer(stream: BinaryIO) -> tuple[int, bytes, bytes]:
    """Status, head and body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        assert line, f"the connection was closed after {head!r}"
        head += line.lower()
    length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
    return int(head.split(b" ", 2)[1]), head, stream.read(length)


def exchange(cluster: Cluster, sent: bytes) -> tuple[int, bytes, bytes]:
    """The answer to these bytes on a new connection."""
    with closing(connect(cluster)) as client, client.makefile("rb") as stream:
        client.sendall(sent)
        return read_answer(stream)


@pytest.fixture
def load(cluster: Cluster) -> Iterator[Load]:
    """Others, who go on being answered."""
    cases = Oracle(ROOT / "models" / "digits.onnx").random_cases(2_000, seed=1, high=16.0, low=0.0)
    with Load(cluster.gateway_url, cases, connections=4, rate=100) as load:
        yield load
    load.report.assert_no_failure()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gets_its_status_and_a_sentence(cluster, kind):
    sent, expected, code = KINDS[kind]
    status, head, body = exchange(cluster, sent)
    assert status == expected, body
    assert b"\r\ncontent-type: application/json" in head
    answer = json.loads(body)
    assert len(answer["error"].split()) > 2, answer
    assert answer["code"] == code if code else answer["code"], answer
    if kind in KNOWS_WHO:
        assert answer["request_id"] == KNOWN


def test_five_hundred_in_a_row_open_no_breaker(cluster, load):
    before = cluster.stats()
    load.wait_for(20)
    kinds = list(KINDS)
    for number in range(500):
        kind = kinds[number % len(kinds)]
        assert exchange(cluster, KINDS[kind][0])[0] == KINDS[kind][1], f"{kind}, number {number}"
        if number % 25 == 0:
            status, answer = cluster.infer([1.0, 2.0, float(number)], f"good {number}")
            assert (status, answer["request_id"]) == (200, f"good {number}")
    load.wait_for(20)
    after = cluster.stats()
    for was, now in zip(before["circuit_breakers"], after["circuit_breakers"], strict=True):
        assert now["state"] == "CLOSED"
        assert (now["failures"], now["opens"]) == (0, was["opens"])
    assert all(each["connected"] for each in after["workers"])
    assert [each["failures"] for each in after["workers"]] == [each["failures"] for each in before["workers"]]
    assert after["gateway"]["errors"] == before["gateway"]["errors"]
    assert after["gateway"]["client_errors"] - before["gateway"]["client_errors"] >= 300


def test_five_hundred_that_reach_the_workers(cluster, load):
    """All of one kind, one after the other on one connection: what the gateway cannot judge, a worker refuses."""
    opens = [each["opens"] for each in cluster.stats()["circuit_breakers"]]
    with closing(connect(cluster)) as client, client.makefile("rb") as stream:
        for number in range(500):
            client.sendall(asking(b"[%d,null]" % number))
            status, head, body = read_answer(stream)
            assert status == 400
            assert b"\r\nx-node: worker_" in head
            answer = json.loads(body)
            assert (answer["code"], answer["request_id"]) == ("invalid_input_data", KNOWN)
    breakers = cluster.stats()["circuit_breakers"]
    assert [(each["state"], each["failures"]) for each in breakers] == [("CLOSED", 0)] * 3
    assert [each["opens"] for each in breakers] == opens
