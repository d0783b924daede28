"""The gateway's own small cache: the encoded outputs that are asked for again and again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from heapq import nlargest

# Frequencies are counted over this many requests, and the same number before them.
WINDOW = 8192
# An input has to have been asked for this often in that time; most are asked for once and never again.
MIN_COUNT = 3
MAX_TEXT_BYTES = 64 * 1024
# Of so many inputs that are asked for often and can't be kept, the beginning is remembered, for people to see.
NAMED, NAME_BYTES = 64, 1024


@dataclass(frozen=True, slots=True)
class Hot:
    """A kept output: the text of the input it belongs to, and the worker that made it."""

    text: bytes
    output: bytes
    maker: str


@dataclass(frozen=True, slots=True)
class Popular:
    """An input that is asked for often: how often of late, the beginning of its text, and whether an output is kept."""

    key: int
    count: int
    text: bytes
    size_bytes: int
    kept: bool


class HotCache:
    """Keeps what is asked for most often, as TinyLFU does: a newcomer must be asked for more often than who leaves.

    Keys are 64-bit hashes and only find the place: an entry answers nothing but the very text it was made from. All
    entries are of one model; `flush` when it changes. Not safe for concurrent access.
    """

    __slots__ = ("_before", "_counts", "_entries", "_named", "_seen", "hits", "max_bytes", "max_entries", "size_bytes")

    def __init__(self, max_entries: int = 512, max_bytes: int = 8 * 2**20) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.hits = 0
        self._entries: OrderedDict[int, Hot] = OrderedDict()
        self._counts: dict[int, int] = {}
        self._named: OrderedDict[int, tuple[bytes, int]] = OrderedDict()
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

    def keeps(self, key: int, text: bytes) -> bool:
        """Whether `get` would give something. Counts nothing."""
        entry = self._entries.get(key)
        return entry is not None and entry.text == text

    def offer(self, key: int, text: bytes, output: bytes, maker: str) -> None:
        """Keeps an output if it is asked for often enough."""
        frequency = self._frequency(key)
        if frequency < MIN_COUNT or key in self._entries:
            return
        if not self._keep(key, text, output, maker, frequency) and key not in self._named:
            self._named[key] = text[:NAME_BYTES], len(text)
            if len(self._named) > NAMED:
                self._named.popitem(last=False)

    def popular(self, most: int) -> list[Popular]:
        """What is asked for most often, the most frequent first, at least `MIN_COUNT` times. Looks at some hundreds."""
        known = [key for key in {*self._entries, *self._named} if self._frequency(key) >= MIN_COUNT]
        return [self._popular(key) for key in nlargest(most, known, key=self._frequency)]

    @property
    def window(self) -> int:
        """Of how many requests the counts are."""
        return self._seen + (WINDOW if self._before else 0)

    def _popular(self, key: int) -> Popular:
        entry = self._entries.get(key)
        text, size = (entry.text[:NAME_BYTES], len(entry.text)) if entry is not None else self._named[key]
        return Popular(key, self._frequency(key), text, size, entry is not None)

    def _keep(self, key: int, text: bytes, output: bytes, maker: str, frequency: int) -> bool:
        if len(text) > MAX_TEXT_BYTES:
            return False
        size = len(text) + len(output)
        while self._entries and (len(self._entries) >= self.max_entries or self.size_bytes + size > self.max_bytes):
            oldest, entry = next(iter(self._entries.items()))
            if self._frequency(oldest) >= frequency:
                return False
            del self._entries[oldest]
            self.size_bytes -= len(entry.text) + len(entry.output)
        if size > self.max_bytes or not self.max_entries:
            return False
        self._entries[key] = Hot(text, output, maker)
        self.size_bytes += size
        return True

    def flush(self) -> None:
        """Forgets every output; what is asked for often is still known."""
        self._entries.clear()
        self.size_bytes = 0

    def _frequency(self, key: int) -> int:
        return self._counts.get(key, 0) + self._before.get(key, 0)
