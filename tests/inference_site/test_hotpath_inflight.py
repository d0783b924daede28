"""The budget for request bodies in flight: what is beyond it is refused at once, and nothing else is lost."""

from collections.abc import Iterator

import pytest

from inference_site import reading
from inference_site.inflight import SMALL_BYTES, InFlightBytes
from tests.support.hot_server import HotServer
from tests.support.processes import wait_until
from tests.support.wire import Reply, Wire, chunked, post, request

LIMIT = 1_000_000
LARGE = b"later" + b"x" * 400_000
CHUNKED = ["Transfer-Encoding: chunked"]


@pytest.fixture
def server() -> Iterator[HotServer]:
    with HotServer(max_in_flight_bytes=LIMIT) as running:
        yield running
        assert running.errors == []
        wait_until("all is given back", lambda: running.protocol.in_flight.used == 0)


def assert_overloaded(reply: Reply) -> None:
    assert (reply.status, reply.json["code"], reply.closes) == (503, "overloaded", True)
    assert reply.headers["retry-after"] == "1"
    assert str(LIMIT) in reply.json["error"]


def hold(server: HotServer, count: int) -> list[Wire]:
    """So many large requests are being answered."""
    clients = [server.connect() for _ in range(count)]
    for client in clients:
        client.send(post(LARGE))
    wait_until("they are in flight", lambda: server.plane.in_flight == count)
    return clients


def test_beyond_it_large_bodies_are_refused_before_they_are_read(server: HotServer):
    clients = hold(server, 2)
    assert server.protocol.in_flight.used == 2 * len(LARGE)
    with server.connect() as other:
        other.send(post(LARGE)[:-400_000])
        assert_overloaded(other.read())
    with server.connect() as other:
        assert other.ask(post(b"small")).body == b"small"
        assert other.ask(post(b"x" * SMALL_BYTES)).status == 200
        assert other.ask(post(b"x" * 100_000)).status == 200
    for client in clients:
        client.socket.close()
    wait_until("they have left", lambda: server.plane.in_flight == 0)
    with server.connect() as other:
        assert other.ask(post(b"x" * LIMIT)).status == 200
        assert other.ask(post(b"x" * LIMIT)).status == 200


@pytest.mark.parametrize("path", ["/infer", "/page"])
def test_what_has_no_length_is_counted_as_it_comes(server: HotServer, path: str):
    clients = hold(server, 2)
    with server.connect() as other:
        other.send(request("POST", path, None, CHUNKED) + chunked(b"x" * 100_000)[:-5])
        wait_until("it is counted", lambda: server.protocol.in_flight.used == 2 * len(LARGE) + 100_000)
        other.send(chunked(b"x" * 100_000)[:-5])
        assert_overloaded(other.read())
    for client in clients:
        client.socket.close()


def test_bodies_for_the_application_are_counted(server: HotServer):
    with server.connect() as first, server.connect() as second:
        first.send(post(b"x" * 600_000, path="/held"))
        wait_until("it is counted", lambda: server.protocol.in_flight.used == 600_000)
        assert_overloaded(second.ask(post(b"x" * 600_000, path="/held")))
        server.open_gate()
        assert first.read().status == 200
        wait_until("it is given back", lambda: server.protocol.in_flight.used == 0)
        first.send(post(b"x" * 600_000, path="/page")[:-1])
        wait_until("it is counted", lambda: server.protocol.in_flight.used > 500_000)


@pytest.mark.parametrize(
    "data",
    [
        post(LARGE),
        post(LARGE)[:-1],
        post(LARGE, path="/page")[:-1],
        post(LARGE, path="/held") + post(LARGE),
        post(b"later") + post(LARGE),
        post(b"later") + post(LARGE, path="/page"),
        post(b"later") + request("POST", "/infer", None, CHUNKED) + chunked(LARGE)[:-5],
    ],
)
def test_clients_that_leave_give_theirs_back(server: HotServer, data: bytes, monkeypatch: pytest.MonkeyPatch):
    # Of a request behind another only what came in one piece with that one is read, and nobody knows how much it is.
    monkeypatch.setattr(reading, "SMALL_BYTES", 1_000)
    client = server.connect()
    client.send(data)
    wait_until("it is counted", lambda: server.protocol.in_flight.used > 1_000)
    client.socket.close()
    server.open_gate()
    for body in list(server.plane.held):
        server.release(body)
    server.wait_until_left()
    assert server.protocol.in_flight.used == 0


def test_the_count():
    class Body:
        counted_bytes = 0

    budget, one, two = InFlightBytes(200_000), Body(), Body()
    assert budget.count(one, 100_000)
    assert budget.count(one, 150_000)
    assert budget.used == one.counted_bytes == 150_000
    assert not budget.count(two, 50_001)
    assert (budget.used, two.counted_bytes) == (150_000, 0)
    assert not budget.admits(50_001)
    assert budget.admits(50_000)
    budget.give_back(one)
    budget.give_back(one)
    assert budget.used == 0
    assert budget.count(two, 200_000)
