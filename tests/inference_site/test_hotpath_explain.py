"""`X-Explain` on the hot path: which values it takes, what is explained there, and that nothing else changes."""

import gzip
import time

import pytest

from tests.inference_site.conftest import LIMIT_BYTES
from tests.support.hot_server import HotServer
from tests.support.v2_plane import V2Plane
from tests.support.wire import chunked, post, request

EXPLAIN = "X-Explain: 1"


def test_it_is_handed_on_with_the_moment_at_which_the_request_had_come(server: HotServer):
    began = time.monotonic()
    with server.connect() as client:
        for headers in ((EXPLAIN,), ("x-explain:1",), (EXPLAIN, "X-Request-Timeout-Ms: 50")):
            assert client.ask(post(b"body", *headers)).headers["x-explain"] == "200"
        head = request("POST", "/infer", None, [EXPLAIN, "Transfer-Encoding: chunked"])
        assert client.ask(head + chunked(b"in ", b"chunks")).headers["x-explain"] == "200"
        assert client.ask(post(gzip.compress(b"packed"), EXPLAIN, "Content-Encoding: gzip")).body == b"packed"
    assert len(server.plane.sinces) == 5
    assert all(since is not None and began <= since <= time.monotonic() for since in server.plane.sinces)
    assert server.plane.timeouts == [None, None, 50, None, None]


def test_others_are_not_explained(server: HotServer):
    with server.connect() as client:
        for headers in ((), ("X-Explain: 0",), ("X-Explain: 0",), ()):
            assert "x-explain" not in client.ask(post(b"body", *headers)).headers
            assert client.ask(post(b"body", EXPLAIN)).headers["x-explain"] == "200"
    assert [since is not None for since in server.plane.sinces] == [False, True] * 4
    assert len(server.plane.explained) == 4


def test_requests_in_one_packet_are_explained_one_by_one(server: HotServer):
    wanted = [True, False, True, True, False]
    with server.connect() as client:
        client.send(b"".join(post(b"%d" % place, *([EXPLAIN] if each else ())) for place, each in enumerate(wanted)))
        for place, each in enumerate(wanted):
            reply = client.read()
            assert reply.body == b"%d" % place
            assert ("x-explain" in reply.headers) == each


@pytest.mark.parametrize("value", ["2", "yes", "true", "", "1,1", "01", "1 1", "²", "x" * 3000])
def test_a_value_that_is_none_is_400_and_the_connection_lives(server: HotServer, value: str):
    body = b'{"request_id":"r1","input_data":[1]}'
    with server.connect() as client:
        reply = client.ask(post(body, f"X-Explain: {value}"))
        assert (reply.status, reply.json["code"], reply.json["request_id"]) == (400, "invalid_explain", "r1")
        assert value[:20].strip() in reply.json["error"]
        assert len(reply.json["error"]) < 200
        assert "x-explain" not in reply.headers
        assert client.ask(post(b"fine")).body == b"fine"
    assert server.plane.bodies == [b"fine"]


def test_what_is_refused_before_the_plane_has_it_is_explained_too(strict_server: HotServer):
    with strict_server.connect() as client:
        reply = client.ask(post(b"{}", EXPLAIN, "X-Request-Timeout-Ms: soon"))
        assert (reply.status, reply.headers["x-explain"]) == (400, "400")
        assert strict_server.plane.explained == [(400, reply.json["error"])]
        assert client.ask(post(b"not packed", EXPLAIN, "Content-Encoding: gzip")).headers["x-explain"] == "400"
        assert client.ask(post(b"bad body", EXPLAIN)).headers["x-explain"] == "400"
    with strict_server.connect() as client:
        head = request("POST", "/infer", None, [EXPLAIN, "Transfer-Encoding: chunked"])
        client.send(head + b"%x\r\n" % (2 * LIMIT_BYTES) + b"x" * 2 * LIMIT_BYTES)
        reply = client.read()
        assert (reply.status, reply.headers["x-explain"]) == (413, "413")


def test_a_body_that_is_not_even_read_is_explained(strict_server: HotServer):
    too_much = f"Content-Length: {LIMIT_BYTES + 1}"
    for headers, told in (([EXPLAIN, "Expect: 100-continue"], "413"), (["X-Explain: 0"], None), ([], None)):
        with strict_server.connect() as client:
            reply = client.ask(request("POST", "/infer", None, [too_much, *headers]))
            assert (reply.status, reply.headers.get("x-explain"), reply.interim) == (413, told, ())
            assert client.at_end()
    assert strict_server.plane.explained == [(413, reply.json["error"])]


def test_of_v2_only_inferences_are_explained():
    plane = V2Plane()
    with HotServer(plane=plane) as server, server.connect() as client:
        assert "x-explain" not in client.ask(request("GET", "/v2", None, [EXPLAIN])).headers
        assert client.ask(request("GET", "/v2/health/live", None, ["X-Explain: whatever"])).status == 200
        reply = client.ask(request("POST", "/v2/models/nothing/infer", b"{}", [EXPLAIN]))
        assert (reply.status, reply.headers["x-explain"]) == (404, "404")
        reply = client.ask(request("POST", "/v2/models/nothing/infer", b"{}", ["X-Explain: whatever"]))
        assert (reply.status, reply.json["code"]) == (400, "invalid_explain")
        too_much = [EXPLAIN, f"Content-Length: {2**40}"]
        for path, told in (("/v2/repository/index", None), ("/v2/models/nothing/infer", "413")):
            with server.connect() as other:
                reply = other.ask(request("POST", path, None, too_much))
                assert (reply.status, reply.headers.get("x-explain")) == (413, told)
