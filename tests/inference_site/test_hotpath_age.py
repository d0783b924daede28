"""Requests that never arrive whole, idle connections, and clients that do not go: time is moved by the tests."""

import pytest

from inference_site.connection import BYTES_PER_S, KEEP_ALIVE_S, LINGER_S, MESSAGE_S
from tests.support.hot_server import HotServer
from tests.support.processes import wait_until
from tests.support.wire import request


def post(body: bytes, path: str = "/infer") -> bytes:
    return request("POST", path, body)


@pytest.mark.parametrize(
    "begun",
    [
        b"P",
        b"POST /infer HTTP/1.1\r\nHost: localh",
        post(b"12345")[:-5],
        post(b"12345")[:-1],
        post(b"12345", "/page")[:-1],
    ],
)
@pytest.mark.parametrize("before", [b"", post(b"before"), request("GET", "/livez")])
def test_a_request_that_does_not_arrive(strict_server: HotServer, before: bytes, begun: bytes):
    with strict_server.connect() as client:
        if before:
            assert client.ask(before).status == 200
        client.send(begun)
        strict_server.wait_until_reading()
        strict_server.age(MESSAGE_S - 1)
        assert len(strict_server.connections()) == 1
        strict_server.age(2)
        reply = client.read()
        assert (reply.status, reply.json["code"], reply.closes) == (408, "request_timeout", True)
        assert client.at_end()
    strict_server.wait_until_left()
    assert strict_server.plane.bodies == ([b"before"] if before.startswith(b"POST") else [])


def test_a_slow_request_that_arrives_in_time_is_answered(strict_server: HotServer):
    with strict_server.connect() as client:
        for _ in range(2):
            client.send(post(b"12345")[:-5])
            strict_server.wait_until_reading()
            strict_server.age(MESSAGE_S - 1)
            assert client.ask(b"12345").body == b"12345"


def test_a_large_request_has_more_time(strict_server: HotServer):
    body = b"x" * (4 * BYTES_PER_S)
    with strict_server.connect() as client:
        client.send(post(body)[:-1])

        def received() -> int:
            return sum(each._body_bytes for each in strict_server.connections())

        wait_until("all but a byte has come", lambda: received() == len(body) - 1)
        strict_server.age(MESSAGE_S + 3)
        assert client.ask(b"x").body == body


def test_the_wait_for_an_answer_is_not_the_clients_fault(strict_server: HotServer):
    with strict_server.connect() as client, strict_server.connect() as reader:
        client.send(post(b"later") + post(b"behind")[:-1])
        reader.send(request("GET", "/held"))
        strict_server.wait_until_held(b"later")
        wait_until("the page has begun", lambda: "/held" in strict_server.site.seen)
        strict_server.age(KEEP_ALIVE_S + MESSAGE_S + 100)
        strict_server.release(b"later")
        strict_server.open_gate()
        assert client.read().body == b"later"
        assert client.ask(b"d").body == b"behind"
        assert reader.read().json["path"] == "/held"


@pytest.mark.parametrize("before", [b"", post(b"before"), request("GET", "/livez")])
def test_an_idle_connection_is_closed(strict_server: HotServer, before: bytes):
    with strict_server.connect() as client:
        for _ in range(2 if before else 1):
            if before:
                assert client.ask(before).status == 200
            wait_until("it is open", strict_server.connections)
            strict_server.age(KEEP_ALIVE_S)
            assert len(strict_server.connections()) == 1
        strict_server.age(1)
        assert client.at_end()
    strict_server.wait_until_left()


def test_empty_lines_do_not_keep_a_connection_open(strict_server: HotServer):
    with strict_server.connect() as client:
        client.send(b"\r\n\r\n")
        wait_until("it is open", strict_server.connections)
        strict_server.age(KEEP_ALIVE_S + 1)
        assert client.at_end()


def test_a_client_that_does_not_go_is_cut_off(strict_server: HotServer):
    with strict_server.connect() as client:
        reply = client.ask(request("POST", "/infer", None, ["Content-Length: 999999999"]) + b"some of it")
        assert reply.status == 413
        assert client.at_end()  # for what the server sends; it still takes what the client does
        assert len(strict_server.connections()) == 1
        strict_server.age(LINGER_S + 1)
        strict_server.wait_until_left()
