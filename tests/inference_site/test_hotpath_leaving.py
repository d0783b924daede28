"""Clients that leave while their requests wait: the plane is told, and who only ends its sending is still answered."""

import resource
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.support.hot_server import HotServer
from tests.support.processes import wait_until
from tests.support.wire import Wire, close, post, request, reset

GET_HELD = request("GET", "/held")
Leave = Callable[[Wire], None]


def wait_until_half_closed(server: HotServer) -> None:
    wait_until("its end has come", lambda: server.protocol.ended)


@pytest.mark.parametrize("leave", [close, reset])
@pytest.mark.parametrize("kind", ["known head", "new head", "chunked", "after another"])
def test_its_request_is_cancelled(strict_server: HotServer, leave: Leave, kind: str):
    server = strict_server
    if kind == "known head":
        with server.connect() as client:
            client.ask(post(b"before"))
    client = server.connect()
    if kind == "chunked":
        client.send(request("POST", "/infer", None, ["Transfer-Encoding: chunked"]) + b"6\r\nlater!\r\n0\r\n\r\n")
    elif kind == "after another":
        client.send(post(b"first!") + post(b"later!"))
        assert client.read().body == b"first!"
    else:
        client.send(post(b"later!"))
    server.wait_until_held(b"later!")
    leave(client)
    server.wait_until_left()
    assert server.plane.cancelled == [b"later!"]
    assert server.plane.in_flight == 0


def test_requests_behind_it_are_never_begun(strict_server: HotServer):
    client = strict_server.connect()
    client.send(post(b"later") + post(b"2") + request("GET", "/3") + post(b"4"))
    strict_server.wait_until_held(b"later")
    reset(client)
    strict_server.release(b"later")  # what is behind a request is not read before, so only now is the end noticed
    strict_server.wait_until_left()
    assert strict_server.plane.bodies[:1] == [b"later"]
    assert b"4" not in strict_server.plane.bodies
    assert strict_server.plane.in_flight == 0


@pytest.mark.parametrize("leave", [close, reset])
def test_a_request_to_the_application_is_told(strict_server: HotServer, leave: Leave):
    client = strict_server.connect()
    client.send(GET_HELD)
    wait_until("the page has begun", lambda: "/held" in strict_server.site.seen)
    leave(client)
    strict_server.wait_until_left()
    strict_server.open_gate()


def test_a_half_closed_client_is_answered_however_long_it_takes(strict_server: HotServer):
    with strict_server.connect() as client:
        client.send(post(b"later"))
        strict_server.wait_until_held(b"later")
        client.socket.shutdown(socket.SHUT_WR)
        wait_until_half_closed(strict_server)
        strict_server.age(30)
        strict_server.age(30)
        strict_server.release(b"later")
        (reply,) = client.read_all()
        assert (reply.body, reply.closes) == (b"later", True)
    assert strict_server.plane.cancelled == []


def test_a_half_closed_client_of_the_application_is_answered(strict_server: HotServer):
    with strict_server.connect() as client:
        client.send(post(b"1") + GET_HELD)
        wait_until("the page has begun", lambda: "/held" in strict_server.site.seen)
        client.socket.shutdown(socket.SHUT_WR)
        wait_until_half_closed(strict_server)
        strict_server.open_gate()
        first, page = client.read_all()
        assert (first.body, page.json["path"]) == (b"1", "/held")


def test_a_half_closed_client_of_http_1_0_gets_no_interim_answer(strict_server: HotServer):
    with strict_server.connect() as client:
        client.send(request("POST", "/infer", b"later", version="1.0"))
        strict_server.wait_until_held(b"later")
        client.socket.shutdown(socket.SHUT_WR)
        wait_until_half_closed(strict_server)
        strict_server.release(b"later")
        (reply,) = client.read_all()
        assert (reply.body, reply.interim) == (b"later", ())


def test_a_client_that_ends_within_a_request_is_gone(strict_server: HotServer):
    with strict_server.connect() as client:
        client.send(post(b"12345")[:-1])
        strict_server.wait_until_reading()
        client.socket.shutdown(socket.SHUT_WR)
        assert client.at_end()
    strict_server.wait_until_left()
    assert strict_server.plane.bodies == []


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("leave", [close, reset])
def test_a_thousand_that_leave_at_once(strict_server: HotServer, leave: Leave, many_files: None):
    clients = []
    for number in range(1000):
        client = strict_server.connect()
        client.send(post(b"later %03d" % number))
        clients.append(client)
    wait_until("all are in flight", lambda: strict_server.plane.in_flight == 1000)
    for client in clients:
        leave(client)
    wait_until("none is in flight", lambda: strict_server.plane.in_flight == 0)
    strict_server.wait_until_left()
    assert len(strict_server.plane.cancelled) == 1000
    with strict_server.connect() as client:
        assert client.ask(post(b"fine")).body == b"fine"
