"""Requests that never arrive whole, idle connections, and clients that do not go: time is moved by the tests."""

import socket

import pytest

from inference_site.connection import BYTES_PER_S, KEEP_ALIVE_S, LINGER_S, MESSAGE_S, UNREAD_S
from tests.inference_site.conftest import LIMIT_BYTES
from tests.support.hot_server import HotServer
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S
from tests.support.wire import Wire, post, request


@pytest.mark.parametrize(
    "begun",
    [
        b"P",
        b"POST /infer HTTP/1.1\r\nHost: localh",
        post(b"12345")[:-5],
        post(b"12345")[:-1],
        post(b"12345", path="/page")[:-1],
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


ANSWER = b"x" * (LIMIT_BYTES - 100)


def fill(server: HotServer, client: Wire, path: str = "/infer") -> None:
    """Sends requests, and reads no answer, until the server takes no more."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    left = memoryview(post(ANSWER, path=path) * 1000)
    (connection,) = server.connections()
    steady = 0
    while steady < 10:
        unsent = server.call(connection.transport.get_write_buffer_size)
        sent = send_what_fits(client, left)
        left = left[sent:]
        assert left, "the server takes whatever is sent"
        is_steady = not sent and unsent and unsent == server.call(connection.transport.get_write_buffer_size)
        steady = steady + 1 if is_steady else 0


def send_what_fits(client: Wire, data: memoryview) -> int:
    """How many bytes there was room for in a moment."""
    client.socket.settimeout(0.02)
    try:
        return client.socket.send(data)
    except TimeoutError:
        return 0
    finally:
        client.socket.settimeout(PATIENCE_S)


def wait_until_steady(server: HotServer) -> None:
    """Until the network has taken of the only connection's answers what there is room for."""
    (connection,) = server.connections()
    seen: list[int] = []

    def is_steady() -> bool:
        seen.append(server.call(connection.transport.get_write_buffer_size))
        return seen[-1] > 0 and seen[-5:] == seen[-1:] * 5

    wait_until("no more is sent", is_steady)


@pytest.mark.parametrize("path", ["/infer", "/page"])
def test_a_client_that_reads_no_answer_is_cut_off(strict_server: HotServer, path: str):
    with strict_server.connect() as client:
        wait_until("it is open", strict_server.connections)
        fill(strict_server, client, path)
        strict_server.age(1)
        strict_server.age(UNREAD_S - 1)
        assert len(strict_server.connections()) == 1
        strict_server.age(2)
        strict_server.wait_until_left()


@pytest.mark.parametrize("headers", [[], ["Connection: close"]])
def test_a_client_that_leaves_its_only_answer_unread_is_cut_off(strict_server: HotServer, headers: list[str]):
    with strict_server.connect() as client:
        client.send(request("POST", "/infer", b"later", headers))
        strict_server.wait_until_held(b"later")
        strict_server.release(b"later", 200, b"x" * 40_000_000)
        wait_until_steady(strict_server)
        strict_server.age(1)
        strict_server.age(UNREAD_S - 1)
        assert len(strict_server.connections()) == 1
        strict_server.age(2)
        strict_server.wait_until_left()


def test_a_client_that_reads_slowly_is_not(strict_server: HotServer):
    answer = b"x" * 40_000_000
    with strict_server.connect() as client:
        client.send(post(b"later"))
        strict_server.wait_until_held(b"later")
        strict_server.release(b"later", 200, answer)
        (connection,) = strict_server.connections()
        received = b""
        for _ in range(4):
            unsent = strict_server.call(connection.transport.get_write_buffer_size)
            assert unsent > 0
            strict_server.age(UNREAD_S - 5)
            while strict_server.call(connection.transport.get_write_buffer_size) == unsent:
                received += client.socket.recv(500_000)
        assert strict_server.connections() == [connection]
        while len(received) < len(answer):
            received += client.socket.recv(5_000_000)
        assert received.endswith(answer[:1000])


def test_a_client_that_reads_no_answer_is_nobody_to_wait_for_at_the_end(strict_server: HotServer):
    with strict_server.connect() as client:
        wait_until("it is open", strict_server.connections)
        fill(strict_server, client)
        (connection,) = strict_server.connections()
        wait_until("it is stalled", lambda: connection._stalled)
        assert connection.idle
        strict_server.call(connection.shutdown)
        strict_server.call(connection.shutdown)
        strict_server.wait_until_left()


@pytest.mark.parametrize("begun", [b"PO", post(b"12345")[:-1], post(b"12345", path="/page")[:-1]])
def test_what_has_not_come_whole_at_the_end_is_told_so(strict_server: HotServer, begun: bytes):
    with strict_server.connect() as client:
        client.send(begun)
        strict_server.wait_until_reading()
        (connection,) = strict_server.connections()
        strict_server.call(connection.shutdown)
        reply = client.read()
        assert (reply.status, reply.json["code"], reply.closes) == (503, "draining", True)
        assert client.at_end()
    strict_server.wait_until_left()
    assert strict_server.plane.bodies == []


def test_what_is_being_answered_at_the_end_is_answered(strict_server: HotServer):
    with strict_server.connect() as client, strict_server.connect() as behind:
        client.send(post(b"later"))
        behind.send(post(b"later too") + b"POST /in")
        strict_server.wait_until_held(b"later", b"later too")
        for connection in strict_server.connections():
            strict_server.call(connection.shutdown)
        strict_server.release(b"later")
        strict_server.release(b"later too")
        (reply,) = client.read_all()
        assert (reply.body, reply.closes) == (b"later", True)
        first, second = behind.read_all()
        assert (first.body, second.json["code"]) == (b"later too", "draining")
