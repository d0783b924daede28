"""How a request is read: heads, bodies, their limits, and what is refused before it has come whole.

This leans on parts of uvicorn that are not public: the version is pinned, and tests/inference_site/test_hotpath.py
guards what is relied upon.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, ClassVar

import httptools
from django.conf import settings

from inference_site.coding import read_coding
from inference_site.connection import Connection, Seconds
from inference_site.exchange import Exchange, Plane
from inference_site.heads import KnownHeads, is_allowed_host, read_explain, read_timeout_ms
from inference_site.inflight import SMALL_BYTES, InFlightBytes
from inference_site.lib.errors import ApiError, error_body
from inference_site.v2.head import read_head
from inference_site.v2.target import What, is_v2, target_of

# A head beyond this is refused.
MAX_HEAD_BYTES = 64 * 1024

_PATH = b"/infer"
# A head with one of these is parsed each time.
_UNUSUAL = {b"expect", b"transfer-encoding", b"content-encoding", b"x-explain"}


class Reading(Connection):
    """Makes exchanges of inferences, and ASGI cycles of all else, as they come; what is done with them is its
    subclass's."""

    plane: ClassVar[Plane]
    leaves_all_to_django: ClassVar[bool] = False
    max_body_bytes: ClassVar[int] = 16 * 2**20
    in_flight: InFlightBytes = InFlightBytes(settings.MAX_IN_FLIGHT_BYTES)  # of all connections together
    known_heads: ClassVar[KnownHeads] = KnownHeads()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio: a client has connected."""
        super().connection_made(transport)
        self._in_head = False
        self._head_bytes = 0  # of the message that is being read, with its trailers; and of its body
        self._body_bytes = 0
        self._asgi = False  # it is read by an ASGI cycle
        self._declined = False  # it offers to upgrade to a protocol that is not spoken here
        self._hot: Exchange | None = None  # the exchange that is being read
        self._data = b""  # what is being parsed
        self._again = b""  # what is to be parsed next: a request whose offer to upgrade was declined, and what follows
        self._chunk = b""  # the same, if a message began at its first byte

    def _parse(self, data: bytes) -> None:
        self._again = data
        while self._again and not self._discarding:
            self._data, self._again = self._again, b""
            super().data_received(self._data)

    def send_400_response(self, msg: str) -> None:
        """uvicorn: what was sent is not HTTP."""
        self._refuse(400, "invalid_http", "this is not a valid HTTP/1.1 request; check its request line and headers")

    # httptools' callbacks, in the order in which they come.

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._since = Seconds.now
        self._reading = self._in_head = True
        self._received = len(self._chunk)
        self._head_bytes = self._body_bytes = 0
        self._hot = None
        self._asgi = self._declined = False

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        super().on_url(url)
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind the last chunk of a body."""
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        elif self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head of a request has been read."""
        if self._discarding:
            return
        self._in_head = False
        if self.parser.get_method() == b"CONNECT":
            self._refuse(
                405, "method_not_allowed", "CONNECT is not for this server, which is no proxy; use GET or POST"
            )
            return
        if self.parser.should_upgrade() and not self._should_upgrade():
            self._declined = True
            return
        headers = dict(self.headers)
        length = int(headers.get(b"content-length", b"-1"))
        if length > self.max_body_bytes:
            message = self._over(f"is {length} bytes")
            self._refuse(413, "body_too_large", message, explained=self._wants_explanation(headers))
        elif length > SMALL_BYTES and not self.in_flight.admits(length):
            self._refuse_overload(self._wants_explanation(headers))
        elif not self._is_hot(headers):
            super().on_headers_complete()  # raises for a path that is none
            self._asgi = True
            if not self.parser.should_upgrade():  # it is not becoming a WebSocket
                self.cycle.counted_bytes = 0
        else:
            self._begin_to_read(headers, length)

    def _begin_to_read(self, headers: dict[bytes, bytes], length: int) -> None:
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        expect = self.expect_100_continue and self.parser.get_http_version() != "1.0"
        exchange = self._hot = Exchange(self, keep_alive, expect)
        method = self.parser.get_method()
        texts = self._texts()
        try:
            if self.url != _PATH:
                client = self.client[0] if self.client else None
                exchange.asked = read_head(method.decode(), self.url.decode("latin-1"), texts, client)
            if "x-explain" in texts and (exchange.asked is None or exchange.asked.infers):
                exchange.explained = read_explain(texts["x-explain"])
            if "x-request-timeout-ms" in texts:
                exchange.timeout_ms = read_timeout_ms(texts["x-request-timeout-ms"])
            if "content-encoding" in texts:
                exchange.coding = read_coding(texts["content-encoding"])
        except ApiError as error:
            exchange.fault = error
        known = keep_alive and 0 <= length <= SMALL_BYTES and exchange.fault is None and method == b"POST"
        if known and not headers.keys() & _UNUSUAL and (exchange.asked is None or exchange.asked.infers):
            self.known_heads.remember(self._chunk, self.url, (length, exchange.timeout_ms, exchange.asked))
        self._enqueue(exchange)

    def _texts(self) -> dict[str, str]:
        """The headers as text; the values of several of one name are put together."""
        found: dict[str, str] = {}
        for name, value in self.headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            found[key] = f"{found[key]},{text}" if key in found else text
        return found

    def on_body(self, body: bytes) -> None:
        """A part of a request's body."""
        if self._discarding:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self.max_body_bytes:
            self._refuse(413, "body_too_large", self._over("does not end"))
        elif self._body_bytes > SMALL_BYTES and not self._count_body():
            self._refuse_overload()
        elif self._hot is None:
            super().on_body(body)
        else:
            self._hot.add(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        if self._discarding or self._declined:
            return
        self._reading = False
        self._chunk = b""  # what follows in it does not begin at its first byte
        if self._hot is None:
            super().on_message_complete()
        else:
            self._hot.complete = True
            if self._hot.active:
                self._begin(self._hot)

    def _is_hot(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request is answered here."""
        if self.url == _PATH:
            # A person in front of a browser gets Django's form.
            wanted = self.parser.get_method() == b"POST" and b"text/html" not in headers.get(b"accept", b"")
        else:
            wanted = is_v2(self.url)
        return (
            wanted
            and not self.leaves_all_to_django
            and not self.parser.should_upgrade()
            and is_allowed_host(self.headers)  # Django says what is wrong with it
        )

    def _wants_explanation(self, headers: dict[bytes, bytes]) -> bool:
        if (
            headers.get(b"x-explain") != b"1"
            or self.parser.get_method() != b"POST"
            or not is_allowed_host(self.headers)
        ):
            return False
        path = self.url.partition(b"?")[0]
        return path == _PATH or (is_v2(path) and target_of(path.decode("latin-1")).what is What.INFER)

    def _enqueue(self, exchange: Exchange) -> None:
        before, self.cycle = self.cycle, exchange
        if (before is None or before.response_complete) and not self._stalled:
            self._begin(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, None))

    def _refuse(self, status: int, code: str, message: str, headers: bytes = b"", explained: bool = False) -> None:
        if self._discarding:
            return
        refusal = (status, headers, error_body(message, code))
        self._discarding = True
        exchange = self._hot if self._hot is not None and not self._hot.complete else None
        if exchange is not None:
            exchange.refusal, exchange.keep_alive, exchange.parts = refusal, False, ()
            self.in_flight.give_back(exchange)
            if exchange.active:
                self._begin(exchange)
        elif self._asgi and self._reading:
            self._cut_off(refusal)
        else:
            exchange = Exchange(self, keep_alive=False)
            exchange.refusal, exchange.explained = refusal, explained
            self._enqueue(exchange)

    def _cut_off(self, refusal: tuple[int, bytes, bytes]) -> None:
        """Refuses a body that a Django view is already reading: in its place if it has not answered yet."""
        if self.pipeline or self.cycle.response_started:
            self.transport.close()
            return
        self._leave(self.cycle)
        Exchange(self, keep_alive=False).answer(*refusal)

    def _should_upgrade(self) -> bool:
        """uvicorn: whether the protocol that a request offers to change to is spoken here, and may be offered so."""
        return self.parser.get_method() == b"GET" and super()._should_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """uvicorn: an offer to upgrade is not taken up. The request is read again, as if it had not been made."""
        error = sys.exc_info()[1]
        if self._discarding or error is None:
            return
        version = self.parser.get_http_version().encode()
        head = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                head.append(b"connection: %b\r\n" % (b"close" if b"close" in value.lower() else b"keep-alive"))
            elif name != b"upgrade":
                head.append(b"%b: %b\r\n" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self._chunk = b""
        self._again = b"%b\r\n%b" % (b"".join(head), self._data[error.args[0] :])

    def _refuse_head(self) -> None:
        message = f"the request's head or trailers are over {MAX_HEAD_BYTES} bytes; send fewer headers"
        self._refuse(431, "head_too_large", message)

    def _refuse_overload(self, explained: bool = False) -> None:
        error = self._overload()
        self._refuse(error.status, error.code, error.message, b"retry-after: 1\r\n", explained)

    def _overload(self) -> ApiError:
        message = (
            f"the request bodies of this process would be more than {self.in_flight.limit} bytes together; "
            "try again, or raise MAX_IN_FLIGHT_BYTES"
        )
        return ApiError(503, "overloaded", message, retry_after_s=1)

    def _count_body(self) -> bool:
        return self.cycle.response_complete or self.in_flight.count(self.cycle, self._body_bytes)

    def _is_whole(self, cycle: Any) -> bool:
        return cycle.complete if isinstance(cycle, Exchange) else not cycle.more_body

    def _over(self, what: str) -> str:
        limit = self.max_body_bytes
        return f"the body {what}, the limit is {limit} bytes; send less, or raise MAX_BODY_BYTES"

    def write_answer(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        """Writes an exchange's answer and turns to the next request."""
        raise NotImplementedError

    def _begin(self, exchange: Exchange) -> None:
        """It is this exchange's turn, or it has been read and it was so already."""
        raise NotImplementedError

    def _leave(self, cycle: Any) -> None:
        """Nobody waits for this exchange or ASGI cycle any more."""
        raise NotImplementedError
