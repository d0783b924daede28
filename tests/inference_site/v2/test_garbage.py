"""Requests that were right until a few bytes of them were changed: an answer each, never a 500, never a hang."""

from __future__ import annotations

import gzip
import random

import pytest

from tests.inference_site.v2.test_wire import FP32, binary_body, json_body
from tests.support.v2_server import V2Server
from tests.support.wire import Wire, chunked, request

STATUSES = {200, 400, 403, 404, 405, 408, 413, 415, 422, 431, 503}


def whole_requests() -> list[bytes]:
    body, line = binary_body(7)
    return [
        request("POST", FP32, json_body(ident="ü", outputs=[{"name": "OUT0"}], parameters={"timeout": 5_000_000})),
        request("POST", FP32, body, [line]),
        request("POST", FP32, gzip.compress(body), [line, "Content-Encoding: gzip", "Accept-Encoding: gzip"]),
        request("POST", FP32, None, [line, "Transfer-Encoding: chunked"]) + chunked(body[:50], body[50:]),
        request("POST", "/v2/models/bytes/infer", json_body().replace(b"FP32", b"BYTES")),
        request("POST", "/v2/repository/index", b'{"ready": true}'),
        request("POST", "/v2/repository/models/pair/load", b'{"parameters": {"config": "{}"}}'),
        request("GET", "/v2/models/pair/versions/1/config"),
        request("GET", "/v2/models/stats?x=y"),
    ]


def mutated(rng: random.Random, data: bytes, tokens: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(changed))
        what = rng.randrange(5)
        if what == 0:
            changed[at] = rng.randrange(256)
        elif what == 1:
            del changed[at : at + rng.randrange(1, 20)]
        elif what == 2:
            changed[at:at] = rng.choice(tokens)
        elif what == 3:
            changed[at : at + 4] = rng.randbytes(4)
        else:
            changed[at:at] = changed[at : at + 30]
        if not changed:
            break
    return bytes(changed)


TOKENS = [
    b"{", b"}", b"[", b"]", b'"', b",", b"-1", b"1e999", b"null", b"true", b"9" * 30, b"\xff", b"\0", b"\r\n", b"%00",
    b"%zz", b"/", b"//", b"..", b"\\ud800", b'"binary_data_size":99999999999,', b'"shape":[-1],', b"NaN", b"0x",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_changed_requests_are_answered(v2: V2Server, seed: int):
    rng = random.Random(seed)
    for _ in range(120):
        data = mutated(rng, rng.choice(whole_requests()), TOKENS)
        if b"\nhost:" not in data.lower():
            continue
        with v2.connect() as client:
            _ask_and_end(client, data)
    with v2.connect() as client:
        assert client.ask(request("POST", FP32, json_body())).status == 200


@pytest.mark.parametrize("seed", range(4))
def test_changed_bodies_are_answered_on_one_connection(v2: V2Server, seed: int):
    rng = random.Random(seed)
    with v2.connect() as client:
        for _ in range(300):
            body, line = binary_body(7)
            kind = rng.randrange(3)
            if kind == 0:
                data = request("POST", FP32, mutated(rng, json_body(), TOKENS))
            elif kind == 1:
                data = request("POST", FP32, mutated(rng, body, TOKENS), [line])
            else:
                data = request(
                    "POST", FP32, mutated(rng, gzip.compress(body), TOKENS), [line, "Content-Encoding: gzip"]
                )
            reply = client.ask(data)
            assert reply.status in STATUSES, (reply.status, data)
            assert reply.status == 200 or reply.json["error"]


def _ask_and_end(client: Wire, data: bytes) -> None:
    client.send(data)
    client.socket.shutdown(1)  # what is not whole ends here
    try:
        replies = client.read_all()
    except (EOFError, ConnectionError):
        return
    for reply in replies:
        assert reply.status in STATUSES, (reply.status, data)
