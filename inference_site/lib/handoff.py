"""Results that one worker hands to another, through a gateway, as ENTRIES and KEEP carry them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

# How much of its cache a worker shares at the most, and about how much of it one frame holds.
SHARE_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 256 * 1024

if TYPE_CHECKING:
    Key = bytes | str
else:
    Key = Any  # msgspec checks no union of these two, so `decode` does


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One cached result: who is to have it, how a request finds it, and what it is.

    `routing` is the routing key of an ask (see asks.key_of); `alias` and `key` are how workers keep that ask and the
    sample in it: as bytes, or as a digest in text if they are long; `output` is the encoded answer.
    """

    routing: Annotated[int, msgspec.Meta(ge=0)]
    alias: Key
    key: Key
    output: bytes


class Entries(msgspec.Struct, array_like=True):
    """Results of one version of a model, the hottest first; they are nothing to a worker without this very one."""

    name: str
    version: str
    digest: str
    entries: list[Entry]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entries).decode


def encode(entries: Entries) -> bytes:
    """The payload of a frame."""
    return _encode(entries)


def decode(payload: bytes) -> Entries:
    """What is in the payload of a frame. Raises msgspec.DecodeError for garbage."""
    found = _decode(payload)
    for entry in found.entries:
        if not isinstance(entry.alias, bytes | str) or not isinstance(entry.key, bytes | str):
            raise msgspec.ValidationError("the alias and the key of an entry are to be bytes or text")
    return found
