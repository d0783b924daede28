"""Cached results on their way from one worker to another."""

from __future__ import annotations

from typing import Any

import msgspec

# What one worker hands over at once, at most.
SHARE_BYTES = 16 * 2**20


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One result: the routing key of its input's text, how a worker finds it (alias, then key), and the output."""

    routing: int
    alias: Any  # bytes or str: msgspec can not tell them apart by type
    key: Any
    output: bytes


class Entries(msgspec.Struct, array_like=True, frozen=True):
    """Results of one model."""

    model_digest: str
    entries: list[Entry]


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Entries).decode
