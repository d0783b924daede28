"""The hot path over real sockets: connections, pipelining, pieces, and what else a well-meaning client may do."""

import random
import socket
import sys
import threading

import pytest

from tests.support.hot_server import HotServer
from tests.support.processes import wait_until
from tests.support.wire import chunked, post, request

GET_PAGE = request("GET", "/livez")


def test_keep_alive_of_many_requests(server: HotServer):
    with server.connect() as client:
        for number in range(300):
            body = b"r%d" % number
            reply = client.ask(post(body))
            assert (reply.status, reply.body, reply.closes) == (200, body, False)
            assert reply.headers["content-type"] == "application/json"
            assert reply.headers["x-node"] == "echo"
            assert reply.headers["date"]
        assert client.ask(GET_PAGE).json["path"] == "/livez"
        assert client.ask(post(b"after a page")).body == b"after a page"
    assert len(server.plane.bodies) == 301


def test_a_known_head_is_not_parsed_again_and_each_body_gets_its_own_answer(server: HotServer):
    with server.connect() as client:
        assert client.ask(post(b"first")).body == b"first"
        assert server.protocol.parsed == 1
        for body in (b"secnd", b"third", b"\r\n\r\n!", b"\0\xff\n\n\n"):
            assert client.ask(post(body)).body == body
        assert server.protocol.parsed == 1
        assert client.ask(post(b"of another length")).body == b"of another length"
        assert server.protocol.parsed == 2
    with server.connect() as other:
        assert other.ask(post(b"again")).body == b"again"
    assert server.protocol.parsed == 2


def test_many_different_heads_are_not_remembered_without_bound(server: HotServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("inference_site.heads.MAX_KNOWN_HEADS", 10)
    with server.connect() as client:
        for number in range(50):
            assert client.ask(post(b"x", f"X-Number: {number}")).body == b"x"
            assert len(server.protocol.known_heads) <= 10
        assert client.ask(post(b"x", "X-Long: " + "l" * 4000)).status == 200
    assert all(len(head) <= 2048 for head in server.protocol.known_heads)


@pytest.mark.parametrize("known", [False, True])
def test_ten_requests_in_one_packet_are_answered_in_order(server: HotServer, known: bool):
    with server.connect() as client:
        if known:
            client.ask(post(b"0"))
        client.send(b"".join(GET_PAGE if number % 3 == 2 else post(b"%d" % number) for number in range(10)))
        for number in range(10):
            reply = client.read()
            if number % 3 == 2:
                assert reply.json["path"] == "/livez"
            else:
                assert reply.body == b"%d" % number
        assert client.ask(post(b"x")).body == b"x"


def test_answers_wait_for_their_turn(server: HotServer):
    with server.connect() as client:
        client.send(post(b"later 1") + post(b"quick") + GET_PAGE + post(b"last"))
        server.wait_until_held(b"later 1")
        server.release(b"later 1")
        assert [client.read().body for _ in range(2)] == [b"later 1", b"quick"]
        assert client.read().json["path"] == "/livez"
        assert client.read().body == b"last"


def test_an_inference_waits_for_the_page_before_it(server: HotServer):
    with server.connect() as client:
        client.send(request("GET", "/held") + post(b"behind"))
        server.open_gate()
        assert client.read().json["path"] == "/held"
        assert client.read().body == b"behind"


def test_thousands_of_invalid_requests_in_one_write(server: HotServer):
    count = 5000
    with server.connect() as client:
        writer = threading.Thread(target=client.send, args=(post(b"bad") * count + post(b"good"),))
        writer.start()
        for _ in range(count):
            assert client.read().status == 400
        assert client.read().body == b"good"
        writer.join()


@pytest.mark.parametrize("known", [False, True])
def test_a_request_cut_at_every_byte(server: HotServer, known: bool):
    data = post(b"0123456789")
    whole = server.feed([data])
    assert whole.endswith(b"\r\n\r\n0123456789")
    for cut in range(1, len(data)):
        server.protocol.known_heads.clear()
        if known:
            server.feed([data])
        assert server.feed([data[:cut], data[cut:]]) == whole, f"cut at {cut}"
        # And where one packet holds the end of one request and the beginning of the next.
        assert server.feed([data + data[:cut], data[cut:]]) == whole * 2, f"cut at {cut} of the second"


def test_a_byte_at_a_time(server: HotServer):
    data = request("POST", "/infer", None, ["Transfer-Encoding: chunked"]) + chunked(b"one ", b"two")
    with server.connect() as client:
        for byte in data * 2:
            client.send(bytes([byte]))
        assert [client.read().body for _ in range(2)] == [b"one two"] * 2
    assert server.feed([bytes([byte]) for byte in data]).endswith(b"\r\n\r\none two")


def test_a_body_that_comes_after_its_head(server: HotServer):
    with server.connect() as client:
        for body in (b"first", b"again"):
            client.send(post(body)[:-5])
            server.wait_until_reading()
            assert client.ask(body).body == body


def test_chunked_bodies(server: HotServer):
    head = request("POST", "/infer", None, ["Transfer-Encoding: chunked"])
    bodies = {
        chunked(b"one"): b"one",
        chunked(b"a", b"b" * 300, b"\r\n"): b"a" + b"b" * 300 + b"\r\n",
        chunked(b"ext", b"ended", extension=b';name=value;q="quoted"'): b"extended",
        chunked(b"trailed", trailers=b"X-Sum: 1\r\nX-More: 2\r\n"): b"trailed",
        chunked(): b"",
        b"0A\r\n0123456789\r\n000\r\n\r\n": b"0123456789",
    }
    with server.connect() as client:
        for sent, body in bodies.items():
            reply = client.ask(head + sent)
            assert (reply.status, reply.body, reply.closes) == (200, body, False)
        client.send(b"".join(head + sent for sent in bodies) + GET_PAGE)
        assert [client.read().body for _ in bodies] == list(bodies.values())
        assert client.read().json["path"] == "/livez"


def test_an_empty_body_is_the_planes_to_judge(server: HotServer):
    with server.connect() as client:
        for data in (post(b""), post(b""), request("POST", "/infer")):
            assert client.ask(data).status == 200
    assert server.plane.bodies == [b""] * 3


def test_expect_100_continue_is_answered_before_the_body(server: HotServer):
    with server.connect() as client:
        for _ in range(2):
            client.send(post(b"12345", "Expect: 100-continue")[:-5])
            assert client.read_interim() == 100
            reply = client.ask(b"12345")
            assert (reply.status, reply.body, reply.interim) == (200, b"12345", ())
        # In its turn: not before the answer to the request before.
        client.send(post(b"later") + post(b"12345", "Expect: 100-continue")[:-5])
        server.wait_until_held(b"later")
        server.release(b"later")
        assert client.read().body == b"later"
        assert client.read_interim() == 100
        assert client.ask(b"12345").body == b"12345"


def test_a_client_of_http_1_0_knows_no_interim_answers(server: HotServer):
    with server.connect() as client:
        reply = client.ask(request("POST", "/infer", b"old", ["Expect: 100-continue"], version="1.0"))
        assert (reply.status, reply.body, reply.interim) == (200, b"old", ())


@pytest.mark.parametrize("headers", [[], ["Connection: keep-alive"]])
def test_http_1_0_closes(server: HotServer, headers: list[str]):
    with server.connect() as client:
        reply = client.ask(request("POST", "/infer", b"old", headers, version="1.0"))
        assert (reply.status, reply.body, reply.closes) == (200, b"old", True)
        assert client.at_end()


def test_connection_close_closes(server: HotServer):
    for _ in range(2):
        with server.connect() as client:
            assert client.ask(post(b"stay")).closes is False
            reply = client.ask(post(b"go", "Connection: close"))
            assert (reply.body, reply.closes) == (b"go", True)
            assert client.at_end()


def test_nothing_is_done_that_follows_connection_close(server: HotServer):
    with server.connect() as client:
        client.send(post(b"last", "Connection: close") + post(b"too late") + request("GET", "/too-late"))
        assert [reply.body for reply in client.read_all()] == [b"last"]
    assert server.plane.bodies == [b"last"]
    assert server.site.seen == []


def test_nothing_is_done_that_follows_the_last_answer_of_a_draining_plane(server: HotServer):
    with server.connect() as client:
        server.plane.draining = True
        client.send(post(b"last") + post(b"too late"))
        assert [reply.body for reply in client.read_all()] == [b"last"]
    assert server.plane.bodies == [b"last"]


def test_a_draining_plane_closes_after_its_answer(server: HotServer):
    with server.connect() as client, server.connect() as busy:
        assert client.ask(post(b"1")).closes is False
        busy.send(post(b"later"))
        server.wait_until_held(b"later")
        server.plane.draining = True
        for connection in (client, server.connect()):
            reply = connection.ask(post(b"2"))
            assert (reply.body, reply.closes) == (b"2", True)
            assert connection.at_end()
            connection.socket.close()
        server.release(b"later")
        assert busy.read().closes is True
        assert busy.at_end()


def test_a_client_that_has_only_shut_down_its_side_gets_its_answers(server: HotServer):
    for _ in range(2):  # the second time, the head is a known one
        with server.connect() as client:
            client.send(post(b"later"))
            client.socket.shutdown(socket.SHUT_WR)
            server.wait_until_held(b"later")
            server.release(b"later")
            assert [reply.body for reply in client.read_all()] == [b"later"]
    with server.connect() as client:
        client.send(post(b"later 1") + post(b"2") + GET_PAGE + post(b"3"))
        client.socket.shutdown(socket.SHUT_WR)
        server.wait_until_held(b"later 1")
        server.release(b"later 1")
        first, second, page, last = client.read_all()
        assert (first.body, second.body, page.status, last.body) == (b"later 1", b"2", 200, b"3")


def test_a_large_body(server: HotServer):
    rng = random.Random(0)
    numbers = b",".join(b"%.17g" % rng.random() for _ in range(20_000))
    body = b"[" + b",".join([numbers] * 27) + b"]"
    assert len(body) > 10 * 2**20
    with server.connect() as client:
        for data in (post(body), request("POST", "/infer", None, ["Transfer-Encoding: chunked"]) + chunked(body)):
            writer = threading.Thread(target=client.send, args=(data,))
            writer.start()
            reply = client.read()
            writer.join()
            assert reply.status == 200
            assert reply.body == body


def test_a_body_in_tiny_pieces_takes_no_more_than_its_bytes(server: HotServer):
    size = 20_000
    with server.connect() as client:
        head = request("POST", "/infer", None, ["Transfer-Encoding: chunked"])
        client.send(head + b"1\r\nx\r\n" * size)

        def received() -> int:
            return sum(each._body_bytes for each in server.connections())

        wait_until("all has come", lambda: received() == size)
        assert [sum(map(sys.getsizeof, each._hot.parts)) < 2 * size for each in server.connections() if each._hot] == [
            True
        ]
        assert client.ask(b"0\r\n\r\n").body == b"x" * size
