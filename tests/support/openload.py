"""An open loop for tests: requests leave at their planned times, whatever becomes of the answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence

from tests.support.load import (
    ANSWER_WITHIN_S,
    Answer,
    Failure,
    Sendable,
    Sender,
    answerer,
    attempts_of,
    is_over,
    judged,
)

IDLE_S = 2.0  # a connection that was not needed for this long is closed, as clients do
TURN_S = 0.002  # how often what is due is sent: asyncio's timers are no finer than about 1 ms


class OpenLoad(Sender):
    """Sends cases at a mean of `rate` per second, at random moments as independent clients would (Poisson).

    No request waits for another: it takes an idle keep-alive connection, the longest unused first, or opens one.
    Nothing is ever sent twice. Latency counts from the planned time, so that a server that stops for a second is
    seen by all who would have come in that second. `rate` may be changed while it runs.
    """

    def __init__(
        self, url: str, cases: Sequence[Sendable], *, rate: float, allow_503: bool = False, seed: int = 1
    ) -> None:
        super().__init__(url, cases, allow_503=allow_503)
        self.rate = rate
        self.idle: deque[_Wire] = deque()
        self.busy: set[_Wire] = set()
        self._random = random.Random(seed)
        self._next = 0

    @property
    def sent(self) -> int:
        """Requests so far, answered or not."""
        return self._next

    async def _main(self) -> None:
        sweeper = asyncio.create_task(self._sweep())
        planned = time.monotonic()
        while not self._ending.is_set():
            while planned <= time.monotonic():
                self._send(planned)
                planned += self._random.expovariate(self.rate)
            await asyncio.sleep(max(TURN_S, min(planned - time.monotonic(), 0.1)))
        while self.busy:
            await asyncio.sleep(0.02)
        sweeper.cancel()
        for wire in tuple(self.idle):
            wire.close()

    def _send(self, planned: float) -> None:
        number, self._next = self._next, self._next + 1
        position, case = self.case(number)
        wire = self._idle_wire() or _Wire(self)
        self.busy.add(wire)
        wire.ask(position, case, f"r{number}", planned)

    def _idle_wire(self) -> _Wire | None:
        """A connection that nobody uses, and that the server has not ended while this process was held up."""
        while self.idle:
            wire = self.idle.popleft()
            if not wire.is_over:
                return wire
            wire.close()
        return None

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            before = time.monotonic() - ANSWER_WITHIN_S
            for wire in [each for each in self.busy if each.planned < before]:
                wire.fail("timeout", f"no answer within {ANSWER_WITHIN_S:g} s")
            while self.idle and self.idle[0].idle_since < time.monotonic() - IDLE_S:
                self.idle.popleft().close()


class _Wire(asyncio.Protocol):
    """A connection with at most one request on it."""

    def __init__(self, load: OpenLoad) -> None:
        self.planned = 0.0
        self.idle_since = 0.0
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._buffer = b""
        self._asked: tuple[int, Sendable, str] | None = None
        self._new = True

    @property
    def is_over(self) -> bool:
        """Whether the server has ended it."""
        return self._transport is None or is_over(self._transport)

    def ask(self, position: int, case: Sendable, ident: str, planned: float) -> None:
        self.planned = planned
        self._asked = (position, case, ident)
        if self._transport is None:
            self._opening = asyncio.create_task(self._open())
        else:
            self._write()

    def fail(self, cause: str, detail: str) -> None:
        """Ends the connection; what was asked on it has failed."""
        if self._asked is not None:
            position, self._asked = self._asked[0], None
            self._load.busy.discard(self)
            self._load.report.failures.append(Failure(cause, detail, position, self.planned, self._new))
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._write()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        head = head.lower() + b"\r\n"
        length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
        if len(rest) > length:
            self.fail("wrong", f"{rest[length:][:100]!r} after the answer")
        elif len(rest) == length:
            self._buffer = b""
            self._answered(head, rest)

    def connection_lost(self, error: Exception | None) -> None:
        self.fail("truncated" if self._buffer else "reset", repr(error or "closed without an answer"))
        if self in self._load.idle:
            self._load.idle.remove(self)

    async def _open(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, self._load.host, self._load.port)
        except OSError as error:
            self.fail("refused", repr(error))

    def _write(self) -> None:
        if self._asked is None or self._transport is None:  # it took too long to connect
            return self.close()
        self._late_s = time.monotonic() - self.planned
        _, case, ident = self._asked
        self._transport.write(case.request(ident, f"{self._load.host}:{self._load.port}"))
        return None

    def _answered(self, head: bytes, content: bytes) -> None:
        if self._asked is None:
            return self.close()
        latency_s = time.monotonic() - self.planned
        position, case, ident = self._asked
        status, answer, fault = judged(case, ident, head, content, self._load.allow_503)
        if fault:
            return self.fail("status" if status != case.status else "wrong", fault)
        self._asked = None
        self._new = False
        load = self._load
        load.busy.discard(self)
        node, cached = answerer(head, answer)
        load.report.answers.append(
            Answer(position, status, node, cached, self.planned, latency_s, self._late_s, attempts_of(head))
        )
        if b"\r\nconnection: close" in head:
            return self.close()
        self.idle_since = time.monotonic()
        load.idle.append(self)
        return None
