"""The data plane's HTTP: uvicorn's protocol class, with `POST /infer` answered by callback.

No ASGI task and no Django request stands between an inference and its answer; everything else goes the usual way. This
leans on parts of uvicorn that are not public: the version is pinned, and tests/inference_site/test_hotpath.py guards
what is relied upon.
"""

from __future__ import annotations

import asyncio
import http
import sys
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference_site.exchange import Exchange, Plane
from inference_site.lib.errors import error_body

# A head beyond this is refused.
MAX_HEAD_BYTES = 64 * 1024
# A message may take this long to arrive, plus a second for each of these many bytes that did.
MESSAGE_S = 20
BYTES_PER_S = 16 * 1024
KEEP_ALIVE_S = 75
# After a refusal that leaves a body unread, the client has this long to read the answer before it is cut off.
LINGER_S = 2
MAX_KNOWN_HEADS, MAX_KNOWN_HEAD_BYTES = 1024, 2048

_PATH = b"/infer"
_REQUEST_LINE = b"POST /infer HTTP/1.1\r\n"
_CLOSE = b"connection: close\r\n"
_STATUS = {each.value: b"HTTP/1.1 %d %b\r\n" % (each.value, each.phrase.encode()) for each in http.HTTPStatus}


class Seconds:
    """A clock for timeouts that are counted in seconds: to read it costs nothing. The server advances it."""

    now = 0


class HotProtocol(HttpToolsProtocol):
    """Serves inferences itself and leaves the rest to ASGI, in the order of their arrival on a connection.

    As in uvicorn, `cycle` is the last request whose head was read, and `pipeline` holds those that wait for their turn.
    """

    plane: ClassVar[Plane]
    leaves_all_to_django: ClassVar[bool] = False
    max_body_bytes: ClassVar[int] = 16 * 2**20
    # What the parser makes of a head depends on its bytes alone: heads of inferences that ask for nothing special are
    # remembered with their Content-Length, and data that is such a head and its body need not be parsed again.
    known_heads: ClassVar[dict[bytes, int]] = {}
    _dates: ClassVar[tuple[object, bytes]] = (None, b"")

    cycle: Any
    pipeline: Any

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio: a client has connected."""
        super().connection_made(transport)
        self._since = Seconds.now  # when the message began to arrive, or the last answer was written
        self._reading = False  # a message has begun and not ended
        self._in_head = False
        self._received = 0  # bytes of it so far, and of its head (with trailers) and body
        self._head_bytes = 0
        self._body_bytes = 0
        self._asgi = False  # it is read by an ASGI cycle
        self._declined = False  # it offers to upgrade to a protocol that is not spoken here
        self._stalled = False  # the client does not read its answers: nothing more is begun until it does
        self._hot: Exchange | None = None  # the exchange that is being read
        self._data = b""  # what is being parsed
        self._again = b""  # what is to be parsed next: a request whose offer to upgrade was declined, and what follows
        self._chunk = b""  # the same, if a message began at its first byte
        self._discarding = False  # nothing more is read from this client
        self._lingering = False

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        if self._discarding:
            return
        if not self._reading and (self.cycle is None or self.cycle.response_complete):
            end = data.find(b"\r\n\r\n") + 4
            if self.known_heads.get(data[:end]) == len(data) - end:
                if self.timeout_keep_alive_task is not None:
                    self._unset_keepalive_if_required()
                exchange = Exchange(self, True)
                exchange.complete = True
                self.cycle = exchange
                self.plane.infer(data[end:], exchange.answer)
                return
            self._chunk = data
        if self._reading:
            self._received += len(data)
        self._parse(data)
        self._chunk = self._data = b""
        # Chunks of one byte each take six; a head or a line between chunks that has no end is more than that.
        if self._reading and self._received - self._body_bytes > MAX_HEAD_BYTES + 8 * self._body_bytes:
            self._refuse_head()

    def _parse(self, data: bytes) -> None:
        self._again = data
        while self._again and not self._discarding:
            self._data, self._again = self._again, b""
            super().data_received(self._data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """asyncio: the client will send no more; it may still wait for an answer that is under way."""
        waits = isinstance(self.cycle, Exchange) and self.cycle.complete and not self.cycle.response_complete
        if waits:
            self.cycle.keep_alive = False
        return waits

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the client is gone."""
        self._discarding = True
        for cycle in (self.cycle, *(queued for queued, _ in self.pipeline)):
            if cycle is not None:
                cycle.disconnected = True
        self.pipeline.clear()
        if isinstance(self.cycle, Exchange):
            self.cycle = None
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """uvicorn: the server stops. A request that is being answered is finished first."""
        if isinstance(self.cycle, Exchange) and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            super().shutdown()

    @property
    def idle(self) -> bool:
        """Whether no request is being read or answered."""
        return not self._reading and (self.cycle is None or self.cycle.response_complete)

    def check_age(self) -> None:
        """Closes a connection that has been idle, or a message that has been arriving, for too long."""
        age = Seconds.now - self._since
        if self._lingering:
            if age > LINGER_S:
                self.transport.abort()
        elif self._reading:
            if age > MESSAGE_S + self._received / BYTES_PER_S and not self.flow.read_paused:
                self._refuse(408, "request_timeout", f"the request had not arrived whole after {age} s; send it faster")
        elif age > KEEP_ALIVE_S and self.idle:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """uvicorn: what was sent is not HTTP."""
        self._refuse(400, "invalid_http", "this is not a valid HTTP/1.1 request; check its request line and headers")

    def write_answer(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        """Writes an exchange's answer and turns to the next request."""
        if self.transport.is_closing():  # the client has left while others of its requests were behind this one
            return
        keep_alive = exchange.keep_alive and not self.plane.draining
        self.transport.write(
            b"%b%b%bcontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b"
            % (_STATUS[status], self._date_line(), headers, len(body), b"" if keep_alive else _CLOSE, body)
        )
        self.server_state.total_requests += 1
        self._since = Seconds.now
        if not keep_alive:
            self._close()
        elif self.flow.write_paused:
            self._stalled = True
            self.flow.pause_reading()
        elif self.pipeline:
            # Not from here: a thousand requests in one packet would be a thousand calls deep.
            self.loop.call_soon(self._start_next)
        elif self.flow.read_paused:
            self.flow.resume_reading()

    def resume_writing(self) -> None:
        """asyncio: the client has read most of what was written."""
        super().resume_writing()
        if self._stalled:
            self._stalled = False
            self.flow.resume_reading()
            self.loop.call_soon(self._start_next)

    def on_response_complete(self) -> None:
        """uvicorn: an ASGI cycle has answered."""
        super().on_response_complete()
        self._since = Seconds.now

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """uvicorn: it is this cycle's turn."""
        if isinstance(cycle, Exchange):
            self._begin(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def _start_next(self) -> None:
        if self.pipeline and not self.transport.is_closing():
            self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())

    def _begin(self, exchange: Exchange) -> None:
        """It is this exchange's turn."""
        exchange.active = True
        if exchange.refusal is not None:
            status, body = exchange.refusal
            exchange.answer(status, b"", body)
        elif exchange.complete:
            parts, exchange.body = exchange.body or [b""], None
            self.plane.infer(parts[0] if len(parts) == 1 else b"".join(parts), exchange.answer)
        elif exchange.expect and not exchange.body:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

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
            self._refuse(413, "body_too_large", self._over(f"is {length} bytes"))
        elif not self._is_inference(headers):
            self._asgi = True
            super().on_headers_complete()
        else:
            keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
            expect = self.expect_100_continue and self.parser.get_http_version() != "1.0"
            exchange = self._hot = Exchange(self, keep_alive, expect)
            if keep_alive and length >= 0 and not headers.keys() & {b"expect", b"transfer-encoding"}:
                self._remember(length)
            self._enqueue(exchange)

    def on_body(self, body: bytes) -> None:
        """A part of a request's body."""
        if self._discarding:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self.max_body_bytes:
            self._refuse(413, "body_too_large", self._over("does not end"))
        elif self._hot is None:
            super().on_body(body)
        elif self._hot.body is None:
            self._hot.body = [body]
        else:
            self._hot.body.append(body)

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

    def _is_inference(self, headers: dict[bytes, bytes]) -> bool:
        return (
            not self.leaves_all_to_django
            and self.url == _PATH
            and self.parser.get_method() == b"POST"
            and not self.parser.should_upgrade()
            and b"text/html" not in headers.get(b"accept", b"")  # a person in front of a browser gets Django's form
        )

    def _remember(self, length: int) -> None:
        head = self._chunk[: self._chunk.find(b"\r\n\r\n") + 4]
        # Lines that end in a bare line feed could end the head elsewhere than where `find` looks.
        whole = head.startswith(_REQUEST_LINE) and head.count(b"\n") == head.count(b"\r\n")
        if whole and len(head) <= MAX_KNOWN_HEAD_BYTES:
            if len(self.known_heads) >= MAX_KNOWN_HEADS:
                self.known_heads.clear()
            self.known_heads[head] = length

    def _enqueue(self, exchange: Exchange) -> None:
        before, self.cycle = self.cycle, exchange
        if (before is None or before.response_complete) and not self._stalled:
            self._begin(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, None))

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answers the request that is being read in its turn, reads nothing more, and closes."""
        if self._discarding:
            return
        refusal = (status, error_body(message, code))
        self._discarding = True
        exchange = self._hot if self._hot is not None and not self._hot.complete else None
        if exchange is not None:
            exchange.refusal, exchange.keep_alive = refusal, False
            if exchange.active:
                self._begin(exchange)
        elif self._asgi and self._reading:
            self._cut_off(refusal)
        else:
            exchange = Exchange(self, keep_alive=False)
            exchange.refusal = refusal
            self._enqueue(exchange)

    def _cut_off(self, refusal: tuple[int, bytes]) -> None:
        """Refuses a body that a Django view is already reading: in its place if it has not answered yet."""
        if self.pipeline or self.cycle.response_started:
            self.transport.close()
            return
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        Exchange(self, keep_alive=False).answer(refusal[0], b"", refusal[1])

    def _close(self) -> None:
        """Closes after an answer. What the client still sends is dropped first, or it might never see the answer."""
        self.pipeline.clear()
        if not self._reading and not self._discarding:
            self._discarding = True
            self.transport.close()
            return
        self._discarding = self._lingering = True
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

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

    def _over(self, what: str) -> str:
        limit = self.max_body_bytes
        return f"the body {what}, the limit is {limit} bytes; send less, or raise MAX_BODY_BYTES"

    def _date_line(self) -> bytes:
        headers = self.server_state.default_headers
        if HotProtocol._dates[0] is not headers:
            HotProtocol._dates = (headers, b"".join(b"%b: %b\r\n" % header for header in headers))
        return HotProtocol._dates[1]
