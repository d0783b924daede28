"""A process without a supervisor is told to stop: not ready, then deaf to new clients, then gone; nobody is cut off."""

import http.client
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.cluster import Server
from tests.support.http import get
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S

INFER = (
    b'POST /infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 44\r\n\r\n{"request_id": "r", "input_data": [1, 2, 3]}'
)
READY = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
# Whoever stops gives its clients seconds. A machine that holds up a test for longer does not do so every time.
TRIES = 5

Make = Callable[[], Server]


@pytest.fixture(params=["gateway", "worker"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """One after the other, not started yet. Both kinds stop alike. A gateway has no worker here: what it answers is a
    503, but an answer."""
    return lambda: getattr(Server, request.param)(tmp_path)


def connect(server: Server) -> socket.socket:
    port = int(server.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def answer(client: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and headers of the next answer on this connection, with its body read. ConnectionError without one."""
    with client.makefile("rb") as stream:
        line = stream.readline()
        if not line:
            raise ConnectionResetError("closed without an answer")
        headers = {name.lower(): value for name, value in http.client.parse_headers(stream).items()}
        stream.read(int(headers["content-length"]))
    return int(line.split()[1]), headers


def ask(client: socket.socket, request: bytes) -> tuple[int, dict[str, str]]:
    client.sendall(request)
    return answer(client)


def is_refused(server: Server) -> bool:
    with suppress(ConnectionRefusedError), connect(server):
        return False
    return True


def tell_to_stop(server: Server) -> None:
    """Returns when it says that it is not ready, as it does while it accepts for the last second."""
    server.process.send_signal(signal.SIGTERM)
    wait_until("it says that it is not ready", lambda: get(f"{server.url}/readyz")[0] == 503)


def once_in_time(make: Make, check: Callable[[Server], None]) -> None:
    """Runs the check on a server that stops, which need not find it there still every time."""
    for left in reversed(range(TRIES)):
        with make() as server:
            server.wait_ready()
            try:
                check(server)
            except ConnectionError:
                if not left:
                    raise
                continue
            assert server.wait() == 0
            return


def test_readiness_drops_while_new_connections_are_still_taken(make: Make):
    def check(server: Server) -> None:
        with connect(server) as kept:
            assert ask(kept, READY)[0] == 200
            tell_to_stop(server)
            with connect(server) as fresh:
                status, headers = ask(fresh, INFER)
                assert (status, headers["connection"]) == (503 if "rungateway" in server.argv else 200, "close")
            status, headers = ask(kept, READY)
            assert (status, headers["connection"]) == (503, "close")
            assert kept.recv(1) == b""

    once_in_time(make, check)


def test_who_has_connected_in_time_is_answered(make: Make):
    """Some have sent nothing when it stops accepting, some wait in its queue, one is in the middle of its body."""

    def check(server: Server) -> None:
        silent, half = connect(server), connect(server)
        half.sendall(INFER[:-10])
        tell_to_stop(server)
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

    once_in_time(make, check)


def test_a_client_that_stays_silent_holds_it_up_for_moments_only(make: Make):
    with make() as server:
        server.wait_ready()
        with connect(server) as silent:
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.wait() == 0
            assert time.monotonic() - began >= 1.0  # the time in which it is not ready, but there
            assert silent.recv(1) == b""  # closed, not reset
