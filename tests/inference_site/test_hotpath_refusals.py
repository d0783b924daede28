"""What is not HTTP, too much, or two requests at once: each is refused in JSON, and the connection closed."""

import threading

import pytest

from inference_site.reading import MAX_HEAD_BYTES
from tests.inference_site.conftest import LIMIT_BYTES
from tests.support.hot_server import HotServer
from tests.support.waiting import PATIENCE_S
from tests.support.wire import Reply, Wire, chunked, post, request

GET_PAGE = request("GET", "/livez")
NEXT = request("GET", "/next")
CHUNKED = "Transfer-Encoding: chunked"


def head(*lines: str, path: str = "/infer") -> bytes:
    return request("POST", path, None, lines)


def assert_refused(reply: Reply, status: int, code: str) -> None:
    assert (reply.status, reply.json["code"], reply.closes) == (status, code, True)
    assert set(reply.json) == {"error", "code"}
    assert reply.headers["content-type"] == "application/json"


AMBIGUOUS = {
    "length and chunked": head("Content-Length: 4", CHUNKED) + b"0\r\n\r\n",
    "chunked and length": head(CHUNKED, "Content-Length: 4") + b"0\r\n\r\n",
    "two lengths": head("Content-Length: 4", "Content-Length: 5") + b"abcd",
    "the same length twice": head("Content-Length: 4", "Content-Length: 4") + b"abcd",
    **{
        f"length {value!r}": head(f"Content-Length: {value}") + b"abcd"
        for value in ("+4", "-4", "0x4", "4 4", "4,4", "4;", "1e1", "4_0", "", "9" * 30, "\u00b2")
    },
    "blank before the colon": head("Content-Length : 4") + b"abcd",
    "blank before the other colon": head("Transfer-Encoding : chunked") + b"0\r\n\r\n",
    **{
        f"encoding {value!r}": head(f"Transfer-Encoding: {value}") + b"0\r\n\r\n"
        for value in ("xchunked", "identity", "chunked, identity", "chunked, chunked", "\x0bchunked", "")
    },
    "two encodings": head(CHUNKED, "Transfer-Encoding: identity") + b"0\r\n\r\n",
    "folded line": head("X: a", " Content-Length: 4") + b"abcd",
    "folded encoding": head("Transfer-Encoding:", " chunked") + b"0\r\n\r\n",
    "folded first line": head().replace(b"Host", b" Host"),
    "line feeds alone": post(b"abcd").replace(b"\r\n", b"\n"),
    "one line feed alone": post(b"abcd").replace(b"localhost\r\n", b"localhost\n"),
    "the last line feed alone": post(b"abcd").replace(b"\r\n\r\n", b"\r\n\n"),
    "a carriage return alone": post(b"abcd").replace(b"localhost\r\n", b"localhost\r"),
    "a zero byte": post(b"abcd", "X: a\0b"),
    "no name": post(b"abcd", ": x"),
    "no colon": post(b"abcd", "colonless"),
    "a bad name": post(b"abcd", "Bad[]Name: x"),
    **{
        f"chunk {chunk!r}": head(CHUNKED) + chunk + b"0\r\n\r\n"
        for chunk in (
            b"0x4\r\nabcd\r\n", b"-4\r\nabcd\r\n", b"+4\r\nabcd\r\n", b"F" * 17 + b"\r\nabcd\r\n", b"\r\nabcd\r\n",
            b"4\r\nabcdX", b"4\nabcd\r\n", b"4 \r\nabcd\r\n", b"4;a\nb\r\nabcd\r\n", b"4\r\nabcd\n",
        )
    },
    "a length in the trailers": head(CHUNKED) + chunked(b"abcd", trailers=b"Content-Length: 4\r\n"),
    "a verb in lower case": post(b"abcd").replace(b"POST", b"post"),
    "an unknown verb": post(b"abcd").replace(b"POST", b"BREW"),
    "no version": b"POST /infer\r\n",
    "another version": post(b"abcd").replace(b"HTTP/1.1", b"HTTP/1.2"),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tabs": post(b"abcd").replace(b"POST /infer ", b"POST\t/infer\t"),
    "a host that has no end": post(b"abcd").replace(b"/infer", b"http://[::1/infer"),
    "a port that is none": post(b"abcd").replace(b"/infer", b"http://localhost:99999/infer"),
    "a blank in the path": post(b"abcd").replace(b"/infer", b"/in fer"),
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "noise": b"\0\xff\xfe garbage\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_could_be_read_in_two_ways_is_refused(strict_server: HotServer, name: str):
    # Whoever stands in between may see another request in it; so nothing behind it is read.
    with strict_server.connect() as client:
        client.send(AMBIGUOUS[name] + NEXT + post(b"hidden"))
        (reply,) = client.read_all()
        assert_refused(reply, 400, "invalid_http")
    assert strict_server.plane.bodies == []
    assert strict_server.site.seen == []
    assert strict_server.protocol.known_heads == {}
    with strict_server.connect() as client:
        assert client.ask(post(b"valid")).body == b"valid"


def test_every_answer_before_a_refusal_is_given(strict_server: HotServer):
    with strict_server.connect() as client:
        client.send(post(b"later") + post(b"2") + GET_PAGE + AMBIGUOUS["two lengths"] + NEXT)
        strict_server.wait_until_held(b"later")
        strict_server.release(b"later")
        first, second, page, refusal = client.read_all()
        assert (first.body, second.body, page.json["path"]) == (b"later", b"2", "/livez")
        assert_refused(refusal, 400, "invalid_http")


def test_what_follows_a_known_head_beyond_its_length_is_the_next_request(strict_server: HotServer):
    with strict_server.connect() as client:
        for _ in range(3):
            assert client.ask(post(b"four")).body == b"four"
        client.send(post(b"four") + NEXT)
        assert client.read().body == b"four"
        assert client.read().json["path"] == "/next"
        client.send(post(b"four") + b"garbage\r\n\r\n")
        answer, refusal = client.read_all()
        assert answer.body == b"four"
        assert_refused(refusal, 400, "invalid_http")


def test_a_body_that_breaks_off_into_another_kind_of_garbage(strict_server: HotServer):
    for path in ("/infer", "/page"):
        with strict_server.connect() as client:
            client.send(head(CHUNKED, path=path) + b"4\r\nabcd\r\n")
            strict_server.wait_until_reading()
            assert_refused(client.ask(b"not a chunk"), 400, "invalid_http")
            assert client.at_end()


@pytest.mark.parametrize("path", ["/infer", "/page"])
@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)])
def test_a_declared_length_over_the_limit_is_refused_unread(
    strict_server: HotServer, path: str, expect: tuple[str, ...]
):
    with strict_server.connect() as client:
        reply = client.ask(head(f"Content-Length: {LIMIT_BYTES + 1}", *expect, path=path))
        assert_refused(reply, 413, "body_too_large")
        assert reply.interim == ()
        assert str(LIMIT_BYTES + 1) in reply.json["error"]
        assert str(LIMIT_BYTES) in reply.json["error"]
        assert client.at_end()
    with strict_server.connect() as client:
        assert client.ask(post(b"x" * LIMIT_BYTES)).body == b"x" * LIMIT_BYTES
    assert strict_server.site.seen == []


@pytest.mark.parametrize("path", ["/infer", "/page"])
@pytest.mark.parametrize("before", [post(b"before"), GET_PAGE])
def test_a_length_over_the_limit_on_a_used_connection(strict_server: HotServer, path: str, before: bytes):
    with strict_server.connect() as client:
        assert client.ask(before).status == 200
        assert_refused(client.ask(head(f"Content-Length: {LIMIT_BYTES + 1}", path=path)), 413, "body_too_large")


@pytest.mark.parametrize("path", ["/infer", "/page"])
@pytest.mark.parametrize("before", [post(b"before"), GET_PAGE])
def test_a_length_over_the_limit_right_behind_another_request(strict_server: HotServer, path: str, before: bytes):
    with strict_server.connect() as client:
        client.send(before + head(f"Content-Length: {LIMIT_BYTES + 1}", path=path))
        answer, refusal = client.read_all()
        assert answer.status == 200
        assert_refused(refusal, 413, "body_too_large")


@pytest.mark.parametrize("path", ["/infer", "/page"])
def test_chunks_beyond_the_limit_are_refused(strict_server: HotServer, path: str):
    with strict_server.connect() as client:
        client.send(head(CHUNKED, path=path) + chunked(b"x" * LIMIT_BYTES)[:-5])
        reply = client.ask(b"1\r\nx\r\n")
        assert_refused(reply, 413, "body_too_large")
        assert client.at_end()
    with strict_server.connect() as client:
        assert client.ask(head(CHUNKED, path=path) + chunked(b"x" * LIMIT_BYTES)).status == 200


def test_chunks_beyond_the_limit_right_behind_another_request(strict_server: HotServer):
    with strict_server.connect() as client:
        client.send(GET_PAGE + post(b"2") + head(CHUNKED) + chunked(b"x" * LIMIT_BYTES, b"x"))
        page, answer, refusal = client.read_all()
        assert (page.json["path"], answer.body) == ("/livez", b"2")
        assert_refused(refusal, 413, "body_too_large")


@pytest.mark.parametrize("encoding", ["length", "chunks"])
@pytest.mark.parametrize("path", ["/infer", "/page"])
def test_a_client_that_sends_on_still_reads_its_refusal(strict_server: HotServer, path: str, encoding: str):
    size = 20 * 2**20
    for _ in range(3):
        with strict_server.connect() as client:
            if encoding == "length":
                data = request("POST", path, bytes(size))
            else:
                data = head(CHUNKED, path=path) + chunked(*[bytes(2**20)] * (size // 2**20))
            writer = threading.Thread(target=send_whole, args=(client, data))
            writer.start()
            writer.join(PATIENCE_S)  # it reads only when it has sent all
            assert not writer.is_alive()
            assert_refused(client.read(), 413, "body_too_large")


def send_whole(client: Wire, data: bytes) -> None:
    client.send(data)


def test_a_head_over_the_limit_is_refused(strict_server: HotServer):
    for count in (2, 20):
        with strict_server.connect() as client:
            client.send(b"POST /infer HTTP/1.1\r\n" + b"X-Long: %b\r\n" % (b"l" * (MAX_HEAD_BYTES // 2)) * count)
            assert_refused(client.read(), 431, "head_too_large")
    line = b"X: %b\r\n" % (b"l" * 995)
    with strict_server.connect() as client:
        client.send(b"POST /infer HTTP/1.1\r\n")
        for _ in range(MAX_HEAD_BYTES // len(line) + 1):
            client.send(line)
        assert_refused(client.read(), 431, "head_too_large")
    with strict_server.connect() as client:
        assert client.ask(post(b"x", "X-Long: " + "l" * (MAX_HEAD_BYTES - 500))).body == b"x"


def test_a_head_over_the_limit_is_refused_however_it_arrives(strict_server: HotServer):
    data = post(b"x", *["X-Long: " + "l" * 1000] * 70)
    for packets in ([data], [data[:1], data[1:]], [data[:-1], data[-1:]], [GET_PAGE + data]):
        assert b"HTTP/1.1 431 " in strict_server.feed(packets), [len(packet) for packet in packets]
    assert strict_server.plane.bodies == []


def test_trailers_without_end_are_refused(strict_server: HotServer):
    with strict_server.connect() as client:
        line = b"X-Trailer: %b\r\n" % (b"t" * 1000)
        data = head(CHUNKED) + b"4\r\nabcd\r\n0\r\n" + line * 500
        reply = client.ask(data)
        assert reply.status in (400, 413, 431)
        assert reply.closes
