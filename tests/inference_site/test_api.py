"""`/infer` through Django, before a plane that a test controls; the server is uvicorn with this project's protocol."""

import socket
from collections.abc import Iterator
from typing import cast

import pytest
from django.core.asgi import get_asgi_application

from inference_site import lifecycle
from inference_site.exchange import Plane
from tests.support.hot_server import HotServer
from tests.support.processes import wait_until
from tests.support.wire import close, post, reset


class EchoService(lifecycle.Service):
    def __init__(self, server: HotServer) -> None:
        self.loop = server.loop
        self._plane = server.plane

    @property
    def plane(self) -> Plane:
        return cast(Plane, self._plane)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[HotServer]:
    with HotServer(app=get_asgi_application()) as running:
        running.protocol.leaves_all_to_django = True
        monkeypatch.setattr(lifecycle, "_service", EchoService(running))
        yield running
        running.assert_quiet(caplog)


def test_a_timeout_is_handed_on(server: HotServer):
    with server.connect() as client:
        assert client.ask(post(b"1", "X-Request-Timeout-Ms: 250")).body == b"1"
        assert client.ask(post(b"2")).body == b"2"
    assert server.plane.timeouts == [250, None]


@pytest.mark.parametrize("leave", [close, reset])
def test_a_client_that_leaves_cancels_its_request(server: HotServer, leave):
    for number in range(3):
        client = server.connect()
        client.send(post(b"later %d" % number))
        server.wait_until_held(b"later %d" % number)
        leave(client)
        wait_until("nobody waits", lambda: server.plane.in_flight == 0)
    server.wait_until_left()
    assert server.plane.cancelled == [b"later 0", b"later 1", b"later 2"]
    with server.connect() as client:
        assert client.ask(post(b"fine")).body == b"fine"


def test_a_client_that_has_only_shut_down_its_side_gets_its_answer(server: HotServer):
    with server.connect() as client:
        client.send(post(b"later"))
        server.wait_until_held(b"later")
        client.socket.shutdown(socket.SHUT_WR)
        wait_until("its end has come", lambda: server.protocol.ended)
        server.age(1)
        server.release(b"later")
        assert [reply.body for reply in client.read_all()] == [b"later"]
    assert server.plane.cancelled == []
