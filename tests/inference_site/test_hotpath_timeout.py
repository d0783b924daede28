"""`X-Request-Timeout-Ms` on the hot path: handed on, remembered with the head, and refused if it is none."""

import pytest

from tests.support.hot_server import HotServer
from tests.support.wire import chunked, post, request


def test_it_is_handed_on_and_remembered_with_its_head(server: HotServer):
    sent = [("X-Request-Timeout-Ms: 250",), ("x-request-timeout-ms:1",), (), ("X-Request-Timeout-Ms: 600000",)]
    with server.connect() as client:
        for _ in range(3):
            for headers in sent:
                assert client.ask(post(b"body", *headers)).body == b"body"
        assert server.protocol.parsed == len(sent)
        client.send(b"".join(post(b"body", *headers) for headers in sent))
        for _ in sent:
            assert client.read().body == b"body"
        head = request("POST", "/infer", None, ["X-Request-Timeout-Ms: 42", "Transfer-Encoding: chunked"])
        assert client.ask(head + chunked(b"in ", b"chunks")).body == b"in chunks"
    assert server.plane.timeouts == [250, 1, None, 600_000] * 4 + [42]


@pytest.mark.parametrize(
    "value", ["0", "600001", "-1", "+5", "1.5", "1e3", "5s", "ten", "", "0x10", "1_000", "1 2", "9" * 5000, "²", "1,2"]
)
def test_a_value_that_is_none_is_400_and_the_connection_lives(server: HotServer, value: str):
    with server.connect() as client:
        body = b'{"request_id":"r1","input_data":[1]}'
        for _ in range(2):
            reply = client.ask(post(body, f"X-Request-Timeout-Ms: {value}"))
            assert (reply.status, reply.json["code"], reply.closes) == (400, "invalid_timeout", False)
            assert reply.json["request_id"] == "r1"
            assert value[:20].strip() in reply.json["error"]
            assert len(reply.json["error"]) < 200
        assert "request_id" not in client.ask(post(b"{", f"X-Request-Timeout-Ms: {value}")).json
        assert client.ask(post(b"fine")).body == b"fine"
    assert server.plane.bodies == [b"fine"]


def test_two_values_are_none(server: HotServer):
    with server.connect() as client:
        reply = client.ask(post(b"{}", "X-Request-Timeout-Ms: 5", "X-Request-Timeout-Ms: 5"))
        assert (reply.status, reply.json["code"]) == (400, "invalid_timeout")
