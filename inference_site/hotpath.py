"""The data plane's HTTP: uvicorn's protocol class, with `POST /infer` and all of V2 answered by callback.

No ASGI task and no Django request stands between an inference and its answer; everything else goes the usual way.
"""

from __future__ import annotations

import http
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from inference_site.coding import AT_ONCE_BYTES, InThread, Unpacker
from inference_site.connection import Seconds
from inference_site.exchange import Exchange
from inference_site.heads import NOT_KNOWN
from inference_site.inflight import SMALL_BYTES
from inference_site.lib.errors import ApiError
from inference_site.lib.payload import request_id_of
from inference_site.reading import MAX_HEAD_BYTES, Reading
from inference_site.v2.askers import refuse
from inference_site.v2.rest import Rest

__all__ = ["HotProtocol", "Seconds"]

_JSON = b"content-type: application/json\r\n"
_CLOSE = b"connection: close\r\n"
_STATUS = {each.value: b"HTTP/1.1 %d %b\r\n" % (each.value, each.phrase.encode()) for each in http.HTTPStatus}


class HotProtocol(Reading):
    """Serves inferences itself and leaves the rest to ASGI, in the order of their arrival on a connection."""

    rest: ClassVar[Rest]  # of that plane
    _dates: ClassVar[tuple[object, bytes]] = (None, b"")

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        if self._discarding:
            return
        if not self._reading and (self.cycle is None or self.cycle.response_complete):
            end = data.find(b"\r\n\r\n") + 4
            length, timeout_ms, asked = self.known_heads.get(data[:end], NOT_KNOWN)
            if length == len(data) - end:
                if self.timeout_keep_alive_task is not None:
                    self._unset_keepalive_if_required()
                exchange = Exchange(self, True)
                exchange.complete = True
                self.cycle = self._turn = exchange
                if asked is not None:
                    exchange.asked = asked
                    exchange.ticket = self.rest.serve(asked, (data[end:],), exchange.answer, timeout_ms)
                elif timeout_ms is None:
                    exchange.ticket = self.plane.infer(data[end:], exchange.answer)
                else:
                    exchange.ticket = self.plane.infer(data[end:], exchange.answer, timeout_ms)
                return
            self._chunk = data
        if self._reading:
            self._received += len(data)
        self._parse(data)
        self._chunk = self._data = b""
        # Chunks of one byte each take six; a head or a line between chunks that has no end is more than that.
        if self._reading and self._received - self._body_bytes > MAX_HEAD_BYTES + 8 * self._body_bytes:
            self._refuse_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the client is gone; nobody waits for its requests."""
        self._discarding = True
        for cycle in {self._turn, self.cycle} - {None}:
            self._leave(cycle)
        self._drop_pipeline()
        if isinstance(self.cycle, Exchange):
            self.cycle = None
        super().connection_lost(exc)

    def _leave(self, cycle: Any) -> None:
        if isinstance(cycle, Exchange):
            cycle.leave()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self.in_flight.give_back(cycle)

    def _drop_pipeline(self) -> None:
        for cycle, _ in self.pipeline:
            self._leave(cycle)
        self.pipeline.clear()

    def write_answer(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        """Writes an exchange's answer and turns to the next request."""
        if self.transport.is_closing():  # the client has left while others of its requests were behind this one
            return
        keep_alive = exchange.keep_alive and not self.plane.draining
        close = b"" if keep_alive else _CLOSE
        if exchange.asked is None and len(body) <= SMALL_BYTES:
            self.transport.write(
                b"%b%b%bcontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b"
                % (_STATUS[status], self._date_line(), headers, len(body), close, body)
            )
        else:
            self._write(exchange, b"%b%b%b%b" % (_STATUS[status], self._date_line(), headers, close), body)
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

    def _write(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Writes an answer that may be large, of another type than JSON, or to be without its body."""
        kind = b"" if b"\r\ncontent-type: " in head else _JSON
        head = b"%b%bcontent-length: %d\r\n\r\n" % (head, kind, len(body))
        if exchange.asked is not None and exchange.asked.method == "HEAD":
            self.transport.write(head)
        elif len(body) <= SMALL_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def resume_writing(self) -> None:
        """asyncio: the client has read most of what was written."""
        super().resume_writing()
        if self._stalled:
            self._stalled = False
            self.flow.resume_reading()
            self.loop.call_soon(self._start_next)

    def on_response_complete(self) -> None:
        """uvicorn: an ASGI cycle has answered."""
        self.in_flight.give_back(self._turn)
        super().on_response_complete()
        self._since = Seconds.now

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """uvicorn: it is this cycle's turn."""
        self._turn = cycle
        if isinstance(cycle, Exchange):
            self._begin(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def _start_next(self) -> None:
        if self.pipeline and not self.transport.is_closing():
            self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())

    def _begin(self, exchange: Exchange) -> None:
        """It is this exchange's turn, or it has been read and it was so already."""
        exchange.active = True
        self._turn = exchange
        if exchange.explained and (exchange.complete or exchange.refusal is not None):
            exchange.since = time.monotonic()
        if exchange.refusal is not None:
            exchange.reply(*exchange.refusal)
        elif exchange.complete:
            self._ask(exchange)
        elif exchange.expect and not exchange.parts:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _ask(self, exchange: Exchange) -> None:
        """It has been read."""
        error = exchange.fault
        if error is not None:
            body = b"".join(exchange.take())
            refuse(exchange.reply, error, request_id_of(body))
        elif exchange.coding:
            self._unpack(exchange)
        else:
            self._hand_on(exchange, exchange.take())

    def _hand_on(self, exchange: Exchange, body: Sequence[bytes | bytearray]) -> None:
        answer, since = exchange.answer if exchange.since is None else exchange.reply, exchange.since
        if exchange.asked is not None:
            exchange.ticket = self.rest.serve(exchange.asked, body, answer, exchange.timeout_ms, since)
            return
        whole = body[0] if len(body) == 1 else b"".join(body)
        assert isinstance(whole, bytes)
        exchange.ticket = self.plane.infer(whole, answer, exchange.timeout_ms, since)

    def _unpack(self, exchange: Exchange) -> None:
        """Unpacks its body: at once if that is soon done."""
        body = b"".join(exchange.take())
        unpacker = Unpacker(exchange.coding, body, self.max_body_bytes)
        failed = partial(refuse, exchange.reply)
        try:
            unpacked = unpacker.unpack(AT_ONCE_BYTES) if len(body) <= AT_ONCE_BYTES else None
        except ApiError as error:
            failed(error)
            return
        if unpacked is not None:
            self._hand_on(exchange, [unpacked])
        else:
            exchange.ticket = InThread(unpacker.unpack, partial(self._unpacked, exchange), failed)

    def _unpacked(self, exchange: Exchange, body: bytes | None) -> None:
        assert body is not None
        exchange.ticket = None
        if len(body) > SMALL_BYTES and not self.in_flight.count(exchange, len(body)):
            refuse(exchange.reply, self._overload())
        else:
            self._hand_on(exchange, [body])

    def _date_line(self) -> bytes:
        headers = self.server_state.default_headers
        if HotProtocol._dates[0] is not headers:
            HotProtocol._dates = (headers, b"".join(b"%b: %b\r\n" % header for header in headers))
        return HotProtocol._dates[1]
