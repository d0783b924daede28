"""Any requests, in any pieces: each gets its own answer, in order. Offers to upgrade are among them."""

from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.hot_server import HotServer
from tests.support.wire import Wire, chunked, request

H2C = ["Connection: Upgrade", "Upgrade: h2c"]
CHUNKED = "Transfer-Encoding: chunked"


def written(kind: str, body: bytes) -> bytes:
    if kind == "page":
        return request("POST", "/page", body)
    if kind == "chunks":
        return request("POST", "/infer", None, [CHUNKED]) + chunked(body[:1], body[1:], trailers=b"X-Sum: 1\r\n")
    if kind == "blank line":
        return b"\r\n" + request("POST", "/infer", body)
    headers = {"plain": [], "other": ["X-Other: 1"], "expect": ["Expect: 100-continue"], "offer": H2C}
    return request("POST", "/infer", body, headers[kind])


KINDS = st.sampled_from(["plain", "plain", "other", "expect", "chunks", "page", "blank line", "offer"])


class Paper(Wire):
    """Reads answers from bytes that are all there."""

    def __init__(self, data: bytes) -> None:
        self._buffer = data

    def _more(self) -> bool:
        return False

    def read_answers(self) -> list[bytes]:
        answers = []
        while self._buffer:
            reply = self.read()
            answers.append(reply.json["body"].encode() if reply.body.startswith(b"{") else reply.body)
        return answers


# The server is the same for every example; what it remembers of heads is part of what is tried.
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(kinds=st.lists(KINDS, min_size=1, max_size=6), cuts=st.lists(st.floats(0, 1), max_size=8), at_once=st.booleans())
def test_each_request_gets_its_own_answer(strict_server: HotServer, kinds: list[str], cuts: list[float], at_once: bool):
    strict_server.plane.at_once = at_once
    bodies = [b"body %d" % number for number in range(len(kinds))]
    data = b"".join(map(written, kinds, bodies))
    places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    packets = [data[begin:end] for begin, end in pairwise(places)]
    assert Paper(strict_server.feed(packets)).read_answers() == bodies
