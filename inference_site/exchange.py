"""One inference request on a connection of the data plane, from its head to its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from inference_site.inflight import InFlightBytes
from inference_site.lib.catalog import ModelInfo, Statistics
from inference_site.lib.errors import ApiError

if TYPE_CHECKING:
    from inference_site.v2.head import Asked

# A part of a body that is smaller is put together with its neighbours.
LARGE_PART_BYTES = 4096
# Takes status, header lines (each with its CRLF) and body of the answer to one request.
Answer = Callable[[int, bytes, bytes], None]


class Ticket(Protocol):
    """A request that is under way."""

    def cancel(self) -> None:
        """The client has left: its answer is not called any more, and nothing more is done for it alone."""


class Asker(Protocol):
    """Who waits for the answer to one ask, in whatever language it came. Exactly one method is called, once, perhaps
    before the ask has returned; none after its ticket was cancelled.

    `headers` are the header lines that say how it was answered: X-Node, X-Cache, X-Attempts, Retry-After.
    """

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        """The answer; `output` as the module asks says for the form of the ask; `node_json` is a JSON string."""

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        """Why there is none."""


class Served(Protocol):
    """One version of a model that is served here."""

    @property
    def info(self) -> ModelInfo: ...

    def ask(self, payload: bytes, asker: Asker, timeout_ms: int | None = None, /) -> Ticket | None:
        """Answers an ask (see asks); None if `asker` has been told already. `timeout_ms` as for Plane.infer."""


class Plane(Protocol):
    """What answers inferences: the gateway, or a worker on its own."""

    @property
    def draining(self) -> bool: ...

    def infer(self, body: bytes, answer: Answer, timeout_ms: int | None = None, /) -> Ticket | None:
        """Calls `answer` exactly once, unless it is cancelled; None is returned if it has been called already.

        `timeout_ms` is how long the client waits from now on, 1 to 600,000; None: it has not said so.
        """

    def find(self, name: str | None, version: str | None, /) -> Served:
        """The model that answers now; None: the one of a plain /infer; its newest version that is ready.

        Raises ApiError 404 for what is unknown or unloaded, 503 for what is known and not ready; both say why.
        """

    def models(self) -> Sequence[ModelInfo]:
        """Every version of every model that is known here, loaded or not, by name and version."""

    def statistics(self, name: str, version: str, /) -> Statistics:
        """Counts and durations of one version since it was loaded, of all workers together."""

    def refused(self) -> None:
        """An inference was refused before any model had it: to be counted by who counts those of `infer`."""

    async def load(self, name: str, /) -> None:
        """Loads a model, or its newest version and changed files; returns once it is served. Raises ApiError."""

    async def unload(self, name: str, /) -> None:
        """Ends the serving of a model; returns once it is not found any more. Raises ApiError."""


class Writer(Protocol):
    """The connection that an answer is written to."""

    in_flight: InFlightBytes

    def write_answer(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None: ...


class Exchange:
    """One inference request on a connection, in the place of uvicorn's request-response cycle."""

    __slots__ = (
        "active",
        "asked",
        "coding",
        "complete",
        "counted_bytes",
        "disconnected",
        "expect",
        "fault",
        "keep_alive",
        "parts",
        "protocol",
        "refusal",
        "response_complete",
        "ticket",
        "timeout_ms",
    )

    def __init__(self, protocol: Writer, keep_alive: bool, expect: bool = False) -> None:
        self.protocol = protocol
        self.keep_alive = keep_alive
        self.expect = expect  # the client waits for 100 Continue before it sends the body
        self.active = False  # it is this request's turn; until then it waits for the answers before it
        self.parts: list[bytes | bytearray] | tuple[()] = ()  # of its body
        self.asked: Asked | None = None  # by V2; None: it is for /infer
        self.coding = ""  # of its body; see coding
        self.complete = False  # it has been read
        self.timeout_ms: int | None = None
        self.fault: ApiError | None = None  # found in its head; it is answered so once it has been read
        self.refusal: tuple[int, bytes, bytes] | None = None  # the answer, decided before it could be read
        self.counted_bytes = 0  # of its body, as InFlightBytes has them
        self.ticket: Ticket | None = None  # it is with the plane
        self.response_complete = False
        self.disconnected = False

    def add(self, part: bytes) -> None:
        """A part of its body. A large one is kept as it came, of many small ones no more than their bytes."""
        parts = self.parts
        if isinstance(parts, tuple):
            self.parts = [part]
        elif len(part) >= LARGE_PART_BYTES:
            parts.append(part)
        elif isinstance(parts[-1], bytearray):
            parts[-1] += part
        else:
            parts.append(bytearray(part))

    def take(self) -> Sequence[bytes | bytearray]:
        """Its body, which is not kept here any longer."""
        parts, self.parts = self.parts, ()
        return parts

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Writes the answer, once; nothing if the client has left."""
        if self.response_complete:
            return
        self.response_complete = True
        self.ticket = None
        if self.counted_bytes:
            self.protocol.in_flight.give_back(self)
        if not self.disconnected:
            self.protocol.write_answer(self, status, headers, body)

    def leave(self) -> None:
        """The client has left: nobody waits for this request any more."""
        self.disconnected = True
        self.parts = ()
        if self.counted_bytes:
            self.protocol.in_flight.give_back(self)
        ticket, self.ticket = self.ticket, None
        if ticket is not None and not self.response_complete:
            ticket.cancel()
