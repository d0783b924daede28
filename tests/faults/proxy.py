"""A faulty TCP proxy between a gateway and its workers: it passes, counts, cuts, and rewrites what they say."""

import asyncio
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Self

from inference_site.lib import frames
from inference_site.lib.frames import Ask, Tell
from tests.faults.websocket import BINARY, Frame, Splitter, frame
from tests.support.waiting import PATIENCE_S

PIECE = 2**16
# What a worker is asked that makes it run a model.
RUNS = frozenset((Ask.INFER, Ask.FIRST, Ask.EXPLAIN, Ask.EXPLAIN_FIRST, Ask.CHECK))


class End(Enum):
    """What becomes of a connection after part of an answer."""

    RESET = "reset"
    FIN = "fin"  # in the middle of a message
    HALF = "half-closed"  # the worker's side says no more, and goes on listening


@dataclass
class Fault:
    """What is done, once, to the next message of a worker in which a result is."""

    end: End | None = None  # after half of the message
    rewrite: Callable[[bytes], bytes] | None = None  # of the message, which holds frames
    raw: bytes = b""  # instead of it, on the wire
    done: threading.Event | None = None

    def __post_init__(self) -> None:
        self.done = threading.Event()


class Proxy:
    """One worker's. Attributes may be set from any thread."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.fault: Fault | None = None
        self.asked: Counter[bytes] = Counter()  # inputs of the inferences that were asked for, b"" for checks
        self.told: Counter[Tell] = Counter()
        self.events: list[tuple[float, int, int]] = []  # when, inferences on their way from then, results so far
        self.connections: set[Connection] = set()
        self.port = 0

    @property
    def outstanding(self) -> int:
        """Inferences that the worker has not answered."""
        return sum(len(each.pending) for each in tuple(self.connections))

    def note(self) -> None:
        """Writes down how things stand."""
        self.events.append((time.monotonic(), self.outstanding, self.told[Tell.RESULT]))

    def reset(self) -> None:
        """Passes everything, and counts from zero."""
        self.fault = None
        self.asked.clear()
        self.told.clear()
        self.events.clear()

    def inject(self, fault: Fault) -> threading.Event:
        """Makes it happen at the next message with a result; the event is set when it has."""
        assert fault.done is not None
        self.fault = fault
        return fault.done

    async def listen(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs = await asyncio.open_connection("127.0.0.1", self.target, limit=2**20)
        except OSError:
            writer.transport.abort()
            return
        connection = Connection(self, (reader, writer), theirs)
        self.connections.add(connection)
        self.note()
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
            self.note()


class Connection:
    """One of a gateway's connections to a worker."""

    def __init__(
        self,
        proxy: Proxy,
        gateway: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        worker: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.pending: dict[int, bytes] = {}
        self._proxy = proxy
        self._gateway = gateway
        self._worker = worker

    async def run(self) -> None:
        pumps = [asyncio.create_task(self._to_worker()), asyncio.create_task(self._to_gateway())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for _, writer in (self._gateway, self._worker):
                with suppress(OSError, RuntimeError):
                    writer.close()

    async def _to_worker(self) -> None:
        splitter = Splitter()
        with suppress(OSError):
            while data := await self._gateway[0].read(PIECE):
                for part in splitter.feed(data):
                    if isinstance(part, Frame) and part.opcode == BINARY:
                        self._note_asks(part.payload)
                self._worker[1].write(data)
                await self._worker[1].drain()

    async def _to_gateway(self) -> None:
        splitter = Splitter()
        with suppress(OSError):
            while data := await self._worker[0].read(PIECE):
                for part in splitter.feed(data):
                    if not await self._pass_on(part):
                        return

    async def _pass_on(self, part: bytes | Frame) -> bool:
        """Whether the connection goes on."""
        writer = self._gateway[1]
        if not isinstance(part, Frame):
            writer.write(part)
            return True
        has_result = part.opcode == BINARY and self._note_tells(part.payload)
        fault = self._proxy.fault if has_result else None
        if fault is None:
            writer.write(part.raw)
            await writer.drain()
            return True
        self._proxy.fault = None
        assert fault.done is not None
        fault.done.set()
        return await self._misbehave(fault, part)

    async def _misbehave(self, fault: Fault, part: Frame) -> bool:
        writer = self._gateway[1]
        if fault.rewrite is not None:
            writer.write(frame(fault.rewrite(part.payload)))
        elif fault.raw:
            writer.write(fault.raw)
        else:
            writer.write(part.raw[: len(part.raw) // 2])
        await writer.drain()
        if fault.end is End.RESET:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif fault.end is End.HALF:
            writer.write_eof()
            await asyncio.sleep(60)  # until the gateway ends it
        return fault.end is None

    def _note_asks(self, message: bytes) -> None:
        for kind, _, ident, _, payload in frames.asks(message):
            if kind in RUNS:  # a check runs the model too; it has no payload
                self.pending[ident] = payload
                self._proxy.asked[payload] += 1
            elif kind == Ask.CANCEL:
                self.pending.pop(ident, None)
        self._proxy.note()

    def _note_tells(self, message: bytes) -> bool:
        """Whether an inference is answered in it, and not only a check."""
        found = False
        for kind, _, _, ident, *_ in frames.tells(message):
            if kind < Tell.HELLO and ident in self.pending:
                payload = self.pending.pop(ident)
                self._proxy.told[Tell(kind)] += 1
                found |= kind == Tell.RESULT and payload != b""
        self._proxy.note()
        return found


class Proxies:
    """The proxies of a fleet, on a loop in a thread of their own."""

    def __init__(self) -> None:
        self.of: dict[str, Proxy] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)

    def to(self, ports: Mapping[str, int]) -> dict[str, int]:
        """The ports at which the workers that listen on these are found from now on."""
        for name, port in ports.items():
            self.of[name] = Proxy(port)
            asyncio.run_coroutine_threadsafe(self.of[name].listen(), self._loop).result(PATIENCE_S)
        return {name: proxy.port for name, proxy in self.of.items()}

    def asked_in_all(self) -> int:
        """How many inferences were asked for, since `reset`."""
        return sum(proxy.asked.total() for proxy in self.of.values())

    def reset(self) -> None:
        for proxy in self.of.values():
            proxy.reset()
