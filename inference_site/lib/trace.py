"""What is told of one request: who answered it and why, and where its time went. Clients get it as `X-Explain`."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

import msgspec

# Of a header: some clients and proxies take no longer line than 4 KiB.
MAX_HEADER_BYTES = 3900
# Of any text in a trace, and of the attempts in it: the newest ones.
MAX_TEXT, MAX_ATTEMPTS = 200, 8
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class BatchRun(msgspec.Struct, frozen=True):
    """The run of a model that a request was computed in."""

    id: int  # counts the runs of this model in this process
    rows: int
    requests: int  # that it has answered, also those that had joined another one
    release: str  # see batcher.Release; "first": it ran before all that waited, and alone
    session: int


class Detail(msgspec.Struct, frozen=True):
    """What a worker says of a request that it has answered: the payload of TRACE."""

    queue_us: int = 0
    compute_us: int = 0
    batch: BatchRun | None = None  # None: nothing was run for it


class Attempt(msgspec.Struct):
    """A worker that was asked; the times are None where they were not noted."""

    worker: str
    began_ms: float | None
    took_ms: float | None
    outcome: str  # answered, busy, failed, lost, expired, gone, hedged
    reason: str


class Parts(msgspec.Struct):
    """Milliseconds; they add up to the whole. `queue` and `compute` are None where the worker was not asked for them:
    then they are part of `worker`."""

    gateway: float = 0.0
    waiting: float = 0.0  # for attempts that came to nothing, for its turn, for the one that it has joined
    network: float = 0.0
    worker: float = 0.0  # all else that the worker did
    queue: float | None = 0.0
    compute: float | None = 0.0


class Trace(msgspec.Struct):
    """One request. `cache` is None if it was not answered, `key` "" if it could not be read, `owner` "" if there is
    none."""

    id: str
    at: str
    model: str
    version: str
    key: str
    status: int
    answered_by: str
    cache: str | None
    why: str
    owner: str
    attempts: list[Attempt]
    batch: BatchRun | None
    parts_ms: Parts
    total_ms: float
    kept: str = "explained"  # for this reason: explained, sampled, failed, slow


def refused_trace(answered_by: str, status: int, why: str, took_s: float) -> Trace:
    """Of a request that no model has got."""
    took_ms = milliseconds(took_s)
    parts = Parts(gateway=took_ms)
    head = (new_id(), now_text(), "", "", "", status, answered_by, None, shorten(why), "")
    return Trace(*head, [], None, parts, took_ms)


def header_of(trace: Trace) -> bytes:
    """The header line, with its CRLF: JSON in ASCII, without its oldest attempts and the ends of its texts if it would
    be too long."""
    for longest, attempts in ((MAX_TEXT, MAX_ATTEMPTS), (60, 4), (30, 1)):
        told = msgspec.to_builtins(trace)
        told["attempts"] = told["attempts"][-attempts:]
        text = json.dumps(_cut(told, longest), separators=(",", ":")).replace("\x7f", "\\u007f")
        if len(text) <= MAX_HEADER_BYTES:
            break
    return b"x-explain: %b\r\n" % text.encode("ascii")


def shorten(text: str, longest: int = MAX_TEXT) -> str:
    """So many characters of a text."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def milliseconds(seconds: float) -> float:
    """To a tenth of a microsecond."""
    return round(max(0.0, seconds) * 1000, 4)


def new_id() -> str:
    """Ten characters, of which no two requests have the same."""
    number, text = random.getrandbits(51), ""
    for _ in range(10):
        number, digit = divmod(number, 36)
        text += _DIGITS[digit]
    return text


def now_text() -> str:
    """Now, for people."""
    return text_of(datetime.now(UTC))


def text_of(moment: datetime) -> str:
    """A moment in UTC to the millisecond; later ones sort after earlier ones."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(value: object, longest: int) -> object:
    if isinstance(value, str):
        return shorten(value, longest)
    if isinstance(value, dict):
        return {key: _cut(each, longest) for key, each in value.items()}
    return [_cut(each, longest) for each in value] if isinstance(value, list) else value
