"""A process without a supervisor is told to stop: not ready, then deaf to new clients, then gone; nobody is cut off."""

import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.cluster import Server
from tests.support.http import get
from tests.support.processes import wait_until

INFER = (
    b'POST /infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 44\r\n\r\n{"request_id": "r", "input_data": [1, 2, 3]}'
)
READY = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(params=["gateway", "worker"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Both stop alike. A gateway has no worker here: what it answers is a 503, but an answer."""
    with getattr(Server, request.param)(tmp_path) as running:
        yield running.wait_ready()


def connect(server: Server) -> socket.socket:
    port = int(server.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=20.0)


def answer(client: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and headers of the next answer on this connection, with its body read."""
    with client.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = {name.lower(): value for name, value in http.client.parse_headers(stream).items()}
        stream.read(int(headers["content-length"]))
    return status, headers


def ask(client: socket.socket, request: bytes) -> tuple[int, dict[str, str]]:
    client.sendall(request)
    return answer(client)


def is_refused(server: Server) -> bool:
    with suppress(ConnectionRefusedError), connect(server):
        return False
    return True


def test_readiness_drops_while_new_connections_are_still_taken(server: Server):
    with connect(server) as kept:
        assert ask(kept, READY)[0] == 200
        server.process.send_signal(signal.SIGTERM)
        wait_until("it says that it is not ready", lambda: get(f"{server.url}/readyz")[0] == 503)
        with connect(server) as fresh:
            status, headers = ask(fresh, INFER)
            assert (status, headers["connection"]) == (503 if "rungateway" in server.argv else 200, "close")
        status, headers = ask(kept, READY)
        assert (status, headers["connection"]) == (503, "close")
        assert kept.recv(1) == b""
    assert server.wait() == 0


def test_who_has_connected_in_time_is_answered(server: Server):
    """Some have sent nothing when it stops accepting, some wait in its queue, one is in the middle of its body."""
    silent, half = connect(server), connect(server)
    half.sendall(INFER[:-10])
    server.process.send_signal(signal.SIGTERM)
    wait_until("it says that it is not ready", lambda: get(f"{server.url}/readyz")[0] == 503)
    os.kill(server.process.pid, signal.SIGSTOP)
    queued = [connect(server) for _ in range(20)]
    time.sleep(1.5)  # when it goes on, its time to accept is over
    os.kill(server.process.pid, signal.SIGCONT)
    wait_until("it refuses connections", lambda: is_refused(server))
    for client in (silent, *queued):
        client.sendall(INFER)
    half.sendall(INFER[-10:])
    answers = [answer(client) for client in (silent, half, *queued)]
    assert {headers["connection"] for _, headers in answers} == {"close"}
    assert len({status for status, _ in answers}) == 1
    assert server.wait() == 0


def test_a_client_that_stays_silent_holds_it_up_for_moments_only(server: Server):
    with connect(server) as silent:
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - began >= 1.0  # the time in which it is not ready, but there
        assert silent.recv(1) == b""  # closed, not reset
