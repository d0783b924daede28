"""A client's connection over time: how long it may idle, take to send and take to read, and how it ends."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# A message may take this long to arrive, plus a second for each of these many bytes that did.
MESSAGE_S = 20
BYTES_PER_S = 16 * 1024
KEEP_ALIVE_S = 75
# A client that takes nothing of what it was sent is cut off after this long.
UNREAD_S = 20
# After a refusal that leaves a body unread, the client has this long to read the answer before it is cut off.
LINGER_S = 2
# A client that has closed its socket says so at once when it is written to: that is looked for after the first time,
# in case it is near, and then at ever longer intervals until the last.
FIRST_LOOK_S, LAST_LOOK_S = 0.005, 3.0


class Seconds:
    """A clock for timeouts that are counted in seconds: to read it costs nothing. The server advances it."""

    now = 0


class Connection(HttpToolsProtocol):
    """What is done about time, and about clients that leave; the requests are its subclass's.

    As in uvicorn, `cycle` is the last request whose head was read, and `pipeline` holds those that wait for their turn.
    """

    cycle: Any
    pipeline: Any

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio: a client has connected."""
        super().connection_made(transport)
        self._since = Seconds.now  # when the message began to arrive, or the last answer was written
        self._reading = False  # a message has begun and not ended
        self._received = 0  # bytes of it so far
        self._unsent = 0  # bytes of answers that the client has not taken, when last looked at, and since when
        self._unsent_since = Seconds.now
        self._stalled = False  # the client does not read its answers: nothing more is begun until it does
        self._discarding = False  # nothing more is read from this client
        self._lingering = False
        self._turn: Any = None  # the request whose turn it is

    @property
    def idle(self) -> bool:
        """Whether no request is being read or answered, or none whose client takes its answers."""
        return self._stalled or (not self._reading and (self.cycle is None or self.cycle.response_complete is True))

    def check_age(self) -> None:
        """Once a second: closes a connection that has been idle, or a message or an answer under way, for too long."""
        age = Seconds.now - self._since
        if self._unread_s() > UNREAD_S:
            self.transport.abort()
        elif self._lingering:
            if age > LINGER_S:
                self.transport.abort()
        elif self._reading:
            if age > MESSAGE_S + self._received / BYTES_PER_S and not self.flow.read_paused:
                self._refuse(408, "request_timeout", f"the request had not arrived whole after {age} s; send it faster")
        elif age > KEEP_ALIVE_S and self.idle:
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """asyncio: the client will send no more; it may still wait for an answer that is under way."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not self._is_whole(cycle):
            return False
        cycle.keep_alive = False
        # Who has closed a socket and who has only ended its own sending look the same. But what is written to the
        # first comes back as a reset, and an interim answer means nothing to the second.
        if self.parser.get_http_version() != "1.0" and not getattr(self._turn, "response_started", False):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.loop.call_later(FIRST_LOOK_S, self._check_gone, FIRST_LOOK_S)
        return True

    def shutdown(self) -> None:
        """uvicorn: the server stops. What has come whole is answered first, to who takes it."""
        if self._stalled or self._unread_s() > 1:
            self.transport.abort()
        elif self._reading and not self._discarding:
            self._refuse(
                503,
                "draining",
                "this process stops, and the request had not arrived whole; send it again",
                b"retry-after: 1\r\n",
            )
            if self._lingering:
                self.transport.close()
        elif self._lingering:
            self.transport.close()
        else:
            super().shutdown()

    def _unread_s(self) -> int:
        """For how long the client has taken nothing of what it was sent; 0 if all was handed to the network."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, Seconds.now
        return Seconds.now - self._unsent_since if unsent else 0

    def _check_gone(self, wait_s: float) -> None:
        # After its end-of-file nothing is read any more, so nobody else would notice a reset.
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        elif wait_s < LAST_LOOK_S:
            self.loop.call_later(3 * wait_s, self._check_gone, 3 * wait_s)

    def _close(self) -> None:
        """Closes after an answer. What the client still sends is dropped first, or it might never see the answer."""
        self._drop_pipeline()
        if not self._reading and not self._discarding:
            self._discarding = True
            self.transport.close()
            return
        self._discarding = self._lingering = True
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _drop_pipeline(self) -> None:
        """Forgets the requests that wait for their turn."""
        raise NotImplementedError

    def _is_whole(self, cycle: Any) -> bool:
        """Whether the last request whose head was read has come whole."""
        raise NotImplementedError

    def _refuse(self, status: int, code: str, message: str, headers: bytes = b"") -> None:
        """Answers the request that is being read in its turn, reads nothing more, and closes."""
        raise NotImplementedError
