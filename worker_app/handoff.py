"""Cached results on their way to and from other workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from inference_site.lib import handoff
from inference_site.lib.handoff import Entries, Entry
from worker_app.core.keys import belong_together, routing_of
from worker_app.model import Model

END = handoff.encode(Entries("", "", "", []))  # of a model that is not there


def chunks(model: Model) -> Iterator[bytes]:
    """The hottest results as payloads of ENTRIES, the hottest first, and one without entries as the end.

    The order is that at the first one; what is forgotten between two of them is not in the later ones.
    """
    chunk: list[Entry] = []
    size_bytes = 0
    for entry in _hottest(model):
        chunk.append(entry)
        size_bytes += _size(entry)
        if size_bytes >= handoff.CHUNK_BYTES:
            yield _encode(model, chunk)
            chunk, size_bytes = [], 0
    if chunk:
        yield _encode(model, chunk)
    yield _encode(model, [])


def keep(models: Iterable[Model], payload: bytes) -> None:
    """Takes over what other workers have computed, behind all that is there. Raises msgspec.DecodeError."""
    found = handoff.decode(payload)
    for model in models:
        if (model.name, model.version, model.engine.digest) == (found.name, found.version, found.digest):
            for entry in found.entries:
                if belong_together(entry.alias, entry.routing, model.seed):
                    model.keep(entry.alias, entry.key, entry.output)


def _encode(model: Model, entries: list[Entry]) -> bytes:
    return handoff.encode(Entries(model.name, model.version, model.engine.digest, entries))


def _hottest(model: Model) -> Iterator[Entry]:
    """By ask and not by result: each ask that leads to a result has an owner of its own."""
    left_bytes = handoff.SHARE_BYTES
    for alias, key in model.aliases.newest_first():
        output = model.results.peek(key)
        if output is not None:
            entry = Entry(routing_of(alias, model.seed), alias, key, output)
            if _size(entry) <= left_bytes:
                left_bytes -= _size(entry)
                yield entry


def _size(entry: Entry) -> int:
    return len(entry.alias) + len(entry.key) + len(entry.output)
