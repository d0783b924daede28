"""Offers to upgrade, and CONNECT: after either the parser stops, and what follows must not be read out of step."""

import threading

from tests.support.hot_server import HotServer
from tests.support.wire import Reply, chunked, request

H2C = ["Connection: Upgrade", "Upgrade: h2c"]
NEXT = request("GET", "/next")


def offer(body: bytes) -> bytes:
    return request("POST", "/infer", body, H2C)


def paths_or_bodies(replies: list[Reply]) -> list[object]:
    return [reply.json["path"] if reply.body.startswith(b"{") else reply.body for reply in replies]


def test_offers_behind_each_other_are_answered_each_with_its_own_body(server: HotServer):
    page = request("POST", "/page", None, [*H2C, "Transfer-Encoding: chunked"]) + chunked(b"in parts")
    with server.connect() as client:
        client.send(
            offer(b"first") + offer(b"second") + page + request("POST", "/infer", b"third") + offer(b"4") + NEXT
        )
        replies = [client.read() for _ in range(6)]
    assert paths_or_bodies(replies) == [b"first", b"second", "/page", b"third", b"4", "/next"]
    assert replies[2].json["body"] == "in parts"
    assert server.plane.bodies == [b"first", b"second", b"third", b"4"]


def test_thousands_of_offers_in_one_write(server: HotServer):
    count = 2000
    with server.connect() as client:
        writer = threading.Thread(target=client.send, args=(b"".join(offer(b"%d" % each) for each in range(count)),))
        writer.start()
        for number in range(count):
            assert client.read().body == b"%d" % number
        writer.join()


def test_an_offer_cut_at_every_byte(server: HotServer):
    data = offer(b"0123456789") + offer(b"9876543210")
    whole = server.feed([data])
    assert whole.count(b"HTTP/1.1 200 OK") == 2
    assert whole.endswith(b"9876543210")
    for cut in range(1, len(data)):
        assert server.feed([data[:cut], data[cut:]]) == whole, f"cut at {cut}"


def test_http_1_0_cannot_offer_and_closes_as_ever(server: HotServer):
    with server.connect() as client:
        client.send(request("POST", "/infer", b"old", H2C, version="1.0"))
        reply = client.read()
        assert (reply.status, reply.body, reply.closes) == (200, b"old", True)
        assert client.at_end()


def test_connect_is_refused(strict_server: HotServer):
    for path in ("localhost:80", "/infer"):
        with strict_server.connect() as client:
            client.send(request("CONNECT", path, b"body") + NEXT)
            (reply,) = client.read_all()
            assert reply.status in (400, 405, 501)
            assert set(reply.json) == {"error", "code"}
            assert reply.closes
    assert strict_server.plane.bodies == []
    assert strict_server.site.seen == []


def test_a_websocket_upgrade_by_post_is_answered(strict_server: HotServer):
    # It is none, for that takes GET; a client that is not told so would wait for ever.
    with strict_server.connect() as client:
        client.send(request("POST", "/infer", b"body", ["Connection: Upgrade", "Upgrade: websocket"]))
        replies = [client.read(bodiless=True)]
    assert replies[0].status in (200, 400, 405, 426)
