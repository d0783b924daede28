"""A least-recently-used cache with two bounds: how many entries, and how many bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRU(Generic[K, V]):
    """Maps keys to values and forgets the least recently used first. Not safe for concurrent access.

    The size of an entry, in bytes, is what `put` was told. An entry larger than the whole byte budget is not kept.
    """

    __slots__ = ("_entries", "evictions", "max_bytes", "max_entries", "size_bytes")

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.evictions = 0  # entries that were forgotten for want of room

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    @property
    def util(self) -> float:
        """How full it is, from 0 to 1, by the bound that is nearer."""
        if not self.max_entries or not self.max_bytes:
            return 0.0
        return max(len(self._entries) / self.max_entries, self.size_bytes / self.max_bytes)

    def get(self, key: K) -> V | None:
        """The value, now the most recently used; None if it is not there."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def peek(self, key: K) -> V | None:
        """Like `get`, but that is no use of it."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def newest_first(self) -> list[tuple[K, V]]:
        """All keys and values, the most recently used first."""
        return [(key, value) for key, (value, _) in reversed(self._entries.items())]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keeps the value as the most recently used, in place of what the key had."""
        before = self._entries.pop(key, None)
        if before is not None:
            self.size_bytes -= before[1]
        if size_bytes > self.max_bytes or not self.max_entries:
            return
        self._entries[key] = (value, size_bytes)
        self.size_bytes += size_bytes
        self._shrink()

    def put_oldest(self, key: K, value: V, size_bytes: int) -> bool:
        """Keeps the value as the least recently used if there is room; False if not, or if the key has a value."""
        full = len(self._entries) >= self.max_entries or self.size_bytes + size_bytes > self.max_bytes
        if full or key in self._entries:
            return False
        self._entries[key] = (value, size_bytes)
        self._entries.move_to_end(key, last=False)
        self.size_bytes += size_bytes
        return True

    def resize(self, max_entries: int, max_bytes: int) -> None:
        """Takes new bounds and forgets at once what is beyond them."""
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self._shrink()

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self.size_bytes = 0

    def _shrink(self) -> None:
        while self._entries and (len(self._entries) > self.max_entries or self.size_bytes > self.max_bytes):
            _, (_, size_bytes) = self._entries.popitem(last=False)
            self.size_bytes -= size_bytes
            self.evictions += 1
