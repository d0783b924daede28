"""Cached results on their way to and from other workers."""

from __future__ import annotations

from collections.abc import Iterator

from inference_site.lib import handoff
from inference_site.lib.handoff import Entries, Entry
from worker_app.core.keys import belong_together, routing_of
from worker_app.node import Node


def chunks(node: Node) -> Iterator[bytes]:
    """The hottest results as payloads of ENTRIES, the hottest first, and one without entries as the end.

    The order is that at the first one; what is forgotten between two of them is not in the later ones.
    """
    digest = node.engine.digest
    chunk: list[Entry] = []
    size_bytes = 0
    for entry in _hottest(node):
        chunk.append(entry)
        size_bytes += _size(entry)
        if size_bytes >= handoff.CHUNK_BYTES:
            yield handoff.encode(Entries(digest, chunk))
            chunk, size_bytes = [], 0
    if chunk:
        yield handoff.encode(Entries(digest, chunk))
    yield handoff.encode(Entries(digest, []))


def keep(node: Node, payload: bytes) -> None:
    """Takes over what other workers have computed, behind all that this one has. Raises msgspec.DecodeError."""
    found = handoff.decode(payload)
    if found.model_digest != node.engine.digest:
        return
    for entry in found.entries:
        if belong_together(entry.alias, entry.routing):
            node.keep(entry.alias, entry.key, entry.output)


def _hottest(node: Node) -> Iterator[Entry]:
    """By text and not by result: each text that leads to a result has an owner of its own."""
    left_bytes = handoff.SHARE_BYTES
    for alias, key in node.aliases.newest_first():
        output = node.results.peek(key)
        if output is not None:
            entry = Entry(routing_of(alias), alias, key, output)
            if _size(entry) <= left_bytes:
                left_bytes -= _size(entry)
                yield entry


def _size(entry: Entry) -> int:
    return len(entry.alias) + len(entry.key) + len(entry.output)
