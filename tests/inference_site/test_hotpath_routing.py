"""What the hot path leaves to the application, and clients that misbehave while they are served."""

import socket

import pytest

from tests.support.hot_server import HotServer
from tests.support.processes import wait_until
from tests.support.wire import post, request, reset

H2C = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"]
GET_PAGE = request("GET", "/livez")


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/infer", []),
        ("PUT", "/infer", []),
        ("POST", "/infer/", []),
        ("POST", "/infer?x=1", []),
        ("POST", "/Infer", []),
        ("POST", "/infe%72", []),
        ("POST", "/%2finfer", []),
        ("POST", "//infer", []),
        ("POST", "/./infer", []),
        ("POST", "http://localhost/infer", []),
        ("POST", "/infer", ["Accept: text/html,application/xhtml+xml"]),
    ],
)
def test_what_is_left_to_the_application(server: HotServer, method: str, path: str, headers: list[str]):
    with server.connect() as client:
        for _ in range(2):
            reply = client.ask(request(method, path, b"the body", headers))
            assert reply.status == 200
            assert (reply.json["method"], reply.json["body"]) == (method, "the body")
        assert client.ask(post(b"hot")).body == b"hot"
    assert server.plane.bodies == [b"hot"]


def test_an_offer_to_upgrade_to_http_2_is_declined_and_the_request_answered(server: HotServer):
    # As `curl --http2` sends it. Whichever side answers it, its body must be in it.
    with server.connect() as client:
        reply = client.ask(post(b"the body", *H2C))
        assert reply.status == 200
        assert reply.body == b"the body" or reply.json["body"] == "the body"


def test_the_body_of_an_offer_to_upgrade_is_never_taken_for_a_request(server: HotServer):
    hidden = request("GET", "/hidden")
    with server.connect() as client:
        head = post(hidden, *H2C)[: -len(hidden)]
        client.send(head)
        wait_until("the head has come", lambda: server.connections() and server.connections()[0].cycle is not None)
        client.send(hidden)
        assert client.read().status == 200
        client.socket.shutdown(socket.SHUT_WR)
        client.read_all()
    assert "/hidden" not in server.site.seen


def test_a_request_behind_an_offer_to_upgrade_is_answered_or_the_connection_closed(server: HotServer):
    with server.connect() as client:
        client.send(post(b"the body", *H2C) + post(b"behind"))
        reply = client.read()
        assert reply.status == 200
        if not reply.closes:
            assert client.read().body == b"behind"


def test_a_websocket_upgrade_is_left_to_uvicorn(strict_server: HotServer):
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    headers = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key]
    with strict_server.connect() as client:
        assert client.ask(post(b"hot")).body == b"hot"
        client.send(request("GET", "/websocket", None, headers))
        assert client.read(bodiless=True).status == 403  # the application behind takes none
    assert strict_server.plane.bodies == [b"hot"]


@pytest.mark.parametrize("leave", [reset, lambda client: client.socket.close()])
def test_clients_that_leave_break_nothing(server: HotServer, leave):
    for begun in (b"", b"PO", post(b"12345")[:-40], post(b"12345")[:-5], post(b"12345")[:-1]):
        client = server.connect()
        client.send(begun)
        leave(client)
    server.wait_until_left()
    # Who has only closed may still read, for all that the server knows, and what is behind a request is read after it:
    # so the server may hear of the end only when it answers.
    for behind in (b"", post(b"2"), GET_PAGE, post(b"2")[:-1], b"garbage\r\n\r\n"):
        client = server.connect()
        client.send(post(b"later") + behind)
        server.wait_until_held(b"later")
        leave(client)
        if leave is reset and not behind:
            server.wait_until_left()
        server.release(b"later")  # raises here what the plane would have to bear
        server.wait_until_left()
    client = server.connect()
    client.send(request("GET", "/held") + post(b"behind"))
    wait_until("the page has begun", lambda: "/held" in server.site.seen)
    leave(client)
    server.open_gate()
    server.wait_until_left()
    with server.connect() as other:
        assert other.ask(post(b"fine")).body == b"fine"
        assert other.ask(GET_PAGE).status == 200


def test_a_client_that_never_reads_does_not_fill_the_memory(server: HotServer):
    # Its answers wait in the kernel and in the transport; past a bound no further request of its is served.
    answer, count = 500_000, 60
    with server.connect() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.socket.settimeout(1)
        sent = 0
        try:
            for _ in range(count):
                client.send(post(b"x" * answer))
                sent += 1
        except TimeoutError:
            pass  # the server has stopped to read
        waiting = [each.transport.get_write_buffer_size() for each in server.connections()]
        assert max(waiting) < 10 * answer, f"{sent} requests sent"
