"""The gateway's own small cache: the encoded outputs that are asked for again and again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

# Frequencies are counted over this many requests, and the same number before them.
WINDOW = 8192
# An input has to have been asked for this often in that time; most are asked for once and never again.
MIN_COUNT = 3
MAX_TEXT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Hot:
    """A kept output: the text of the input it belongs to, and the worker that made it."""

    text: bytes
    output: bytes
    maker: str


class HotCache:
    """Keeps what is asked for most often, as TinyLFU does: a newcomer must be asked for more often than who leaves.

    Keys are 64-bit hashes and only find the place: an entry answers nothing but the very text it was made from. All
    entries are of one model; `flush` when it changes. Not safe for concurrent access.
    """

    __slots__ = ("_before", "_counts", "_entries", "_seen", "hits", "max_bytes", "max_entries", "size_bytes")

    def __init__(self, max_entries: int = 512, max_bytes: int = 8 * 2**20) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.hits = 0
        self._entries: OrderedDict[int, Hot] = OrderedDict()
        self._counts: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._seen = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: int, text: bytes) -> Hot | None:
        """Counts a request, and gives what is kept for it."""
        counts = self._counts
        counts[key] = counts.get(key, 0) + 1
        self._seen += 1
        if self._seen == WINDOW:
            self._seen, self._before, self._counts = 0, counts, {}
        entry = self._entries.get(key)
        if entry is None or entry.text != text:
            return None
        self._entries.move_to_end(key)
        self.hits += 1
        return entry

    def offer(self, key: int, text: bytes, output: bytes, maker: str) -> None:
        """Keeps an output if it is asked for often enough."""
        frequency = self._frequency(key)
        if frequency < MIN_COUNT or len(text) > MAX_TEXT_BYTES or key in self._entries:
            return
        size = len(text) + len(output)
        while self._entries and (len(self._entries) >= self.max_entries or self.size_bytes + size > self.max_bytes):
            oldest, entry = next(iter(self._entries.items()))
            if self._frequency(oldest) >= frequency:
                return
            del self._entries[oldest]
            self.size_bytes -= len(entry.text) + len(entry.output)
        if size <= self.max_bytes and self.max_entries:
            self._entries[key] = Hot(text, output, maker)
            self.size_bytes += size

    def flush(self) -> None:
        """Forgets every output; what is asked for often is still known."""
        self._entries.clear()
        self.size_bytes = 0

    def _frequency(self, key: int) -> int:
        return self._counts.get(key, 0) + self._before.get(key, 0)
