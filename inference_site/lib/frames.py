"""The binary frames that gateway and worker exchange inside WebSocket messages.

A message holds any number of frames, so that all that is ready in one turn of the loop travels together. Integers are
little-endian. A request frame is kind, model, id, length, the milliseconds that are left for it, and a payload; a reply
frame has status, cache state, the time that the worker measured and a check instead. A model is the number that the
worker has given it in its MODELS; an id belongs to one connection and one request. The check of a RESULT says for which
input the worker made this very output: see `check_of`.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

from xxhash import xxh3_64_intdigest

PROTOCOL_VERSION = 4
# Above this a body travels on a connection of its own, so that it never holds up small ones.
BULK_BYTES = 64 * 1024
# How much one message may gather before the next one is begun.
MESSAGE_BYTES = 1024 * 1024
# No message may be larger: a frame holds the largest body that a gateway takes, or an answer of the same order.
MAX_MESSAGE_BYTES = 256 * MESSAGE_BYTES


class Ask(IntEnum):
    """What a gateway sends."""

    INFER = 1  # payload: see asks
    PROOF = 2  # payload: see handshake
    SETTINGS = 3  # payload: NodeSettings as JSON
    CANCEL = 4  # nobody waits for the request with this id any more; it gets no reply
    PING = 5  # to be answered at once, whatever the engine does
    CHECK = 6  # run the model once on its warm-up input: answered as INFER is, with an empty payload
    SHARE = 7  # send the hottest results, as ENTRIES
    KEEP = 8  # payload: results of other workers, as ENTRIES has them
    FIRST = 9  # as INFER, but before all that waits: others wait for how it ends
    USES = 10  # payload: JSON list of the numbers of the models that this gateway sends requests to: they stay loaded
    FLUSH = 11  # forget the cached results of all models
    EXPLAIN = 12  # as INFER; a TRACE comes before the outcome
    EXPLAIN_FIRST = 13  # as FIRST; the same


class Tell(IntEnum):
    """What a worker sends: the outcome of one request, or from HELLO on something of its own."""

    RESULT = 1  # payload: the text of output_data
    REFUSED = 2  # the request is at fault; status 4xx, payload: {"error", "code"}
    BUSY = 3  # full or draining: nothing was done, ask another; the time is how long its queue is, in µs
    FAILED = 4  # the worker is at fault; payload: a sentence
    EXPIRED = 5  # its time had passed before it was run
    GONE = 6  # there is no model with that number (any more): nothing was done
    HELLO = 16  # payload: see handshake
    STATS = 17  # payload: JSON
    DRAINING = 18  # about to stop: send nothing more unless there is nobody else
    PONG = 19  # the answer to PING
    ENTRIES = 20  # payload: see handoff
    MODELS = 21  # payload: see catalog; after SETTINGS, and whenever something about its models changes
    TRACE = 22  # how the request with this id went, whose outcome is the next frame; payload: trace.Detail as JSON


class Cache(IntEnum):
    """Where a result came from, as `X-Cache` says it."""

    MISS = 0
    HIT = 1
    JOINED = 2


_ASK = Struct("<BxHIII")
_TELL = Struct("<BBHIIII")
pack_ask_head = _ASK.pack
pack_tell_head = _TELL.pack
ASK_HEAD_BYTES = _ASK.size
TELL_HEAD_BYTES = _TELL.size


def ask(kind: int, ident: int, payload: bytes, left_ms: int = 0, model: int = 0) -> bytes:
    """One request frame; `left_ms` is the time left for it, 0 for no limit; `model` is 0 where it means none."""
    return pack_ask_head(kind, model, ident, len(payload), min(left_ms, 0xFFFFFFFF)) + payload


def tell(
    kind: int, ident: int, payload: bytes, status: int = 0, cache: int = 0, time_us: int = 0, check: int = 0
) -> bytes:
    """One reply frame."""
    return pack_tell_head(kind, cache, status, ident, len(payload), min(time_us, 0xFFFFFFFF), check) + payload


def check_of(output: bytes, key: int) -> int:
    """32 bits that bind an output to the 64-bit key of what was asked (see asks.key_of)."""
    return xxh3_64_intdigest(output, key) & 0xFFFFFFFF


def asks(message: bytes) -> list[tuple[int, int, int, int, bytes]]:
    """(kind, model, id, ms left, payload) of every request frame in a message. Raises ValueError if it is not whole."""
    found = []
    position, end, unpack = 0, len(message), _ASK.unpack_from
    while position < end:
        if end - position < ASK_HEAD_BYTES:
            raise ValueError(f"{end - position} bytes are left where a frame of at least {ASK_HEAD_BYTES} should be")
        kind, model, ident, length, left_ms = unpack(message, position)
        position += ASK_HEAD_BYTES
        payload = message[position : position + length]
        position += length
        if position > end:
            raise ValueError(f"a frame says {length} bytes, {len(payload)} are there")
        found.append((kind, model, ident, left_ms, payload))
    return found


def tells(message: bytes) -> list[tuple[int, int, int, int, int, bytes, int]]:
    """(kind, cache, status, id, time_us, payload, check) of every reply frame. Raises ValueError like `asks`."""
    found = []
    position, end, unpack = 0, len(message), _TELL.unpack_from
    while position < end:
        if end - position < TELL_HEAD_BYTES:
            raise ValueError(f"{end - position} bytes are left where a frame of at least {TELL_HEAD_BYTES} should be")
        kind, cache, status, ident, length, time_us, check = unpack(message, position)
        position += TELL_HEAD_BYTES
        payload = message[position : position + length]
        position += length
        if position > end:
            raise ValueError(f"a frame says {length} bytes, {len(payload)} are there")
        found.append((kind, cache, status, ident, time_us, payload, check))
    return found
