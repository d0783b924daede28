"""One inference request on a connection of the data plane, from its head to its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

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

    `headers` are the header lines that say how it was answered: X-Node, X-Cache, X-Attempts, Retry-After, X-Explain.
    """

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        """The answer; `output` as the module asks says for the form of the ask; `node_json` is a JSON string."""

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        """Why there is none."""


class Served(Protocol):
    """One version of a model that is served here."""

    @property
    def info(self) -> ModelInfo: ...

    def ask(
        self, payload: bytes, asker: Asker, timeout_ms: int | None = None, since: float | None = None, /
    ) -> Ticket | None:
        """Answers an ask (see asks); None if `asker` has been told already. The rest is as for Plane.infer."""


class Plane(Protocol):
    """What answers inferences: the gateway, or a worker on its own."""

    @property
    def draining(self) -> bool: ...

    def infer(
        self, body: bytes, answer: Answer, timeout_ms: int | None = None, since: float | None = None, /
    ) -> Ticket | None:
        """Calls `answer` exactly once, unless it is cancelled; None is returned if it has been called already.

        `timeout_ms` is how long the client waits from now on, 1 to 600,000; None: it has not said so. `since`: the
        request is to be explained, and had come whole at that moment of the monotonic clock.
        """

    def explain(self, status: int, why: str, since: float, /) -> bytes:
        """The X-Explain line of the answer to a request that no model has got."""

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

    plane: ClassVar[Plane]
    in_flight: InFlightBytes

    def write_answer(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None: ...


class _Refusal(msgspec.Struct):
    error: str = ""


def explain_refusal(plane: Plane, status: int, headers: bytes, body: bytes, since: float | None) -> bytes:
    """The header lines of an answer, with X-Explain if it is to be explained and no model has done so."""
    if since is None or b"x-explain: " in headers:
        return headers
    with suppress(msgspec.DecodeError):
        return headers + plane.explain(status, msgspec.json.decode(body, type=_Refusal).error, since)
    return headers + plane.explain(status, "", since)


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
        "explained",
        "fault",
        "keep_alive",
        "parts",
        "protocol",
        "refusal",
        "response_complete",
        "since",
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
        self.explained = False  # its client wants to know how it went
        self.since: float | None = None  # the moment at which it had been read, if it is to be explained
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

    def reply(self, status: int, headers: bytes, body: bytes) -> None:
        """As `answer`, and explains it if that is wanted and has not been done by the model's plane."""
        self.answer(status, explain_refusal(self.protocol.plane, status, headers, body, self.since), body)

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
