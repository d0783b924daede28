"""Dynamic batches: what waits together runs together, oldest first."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from enum import StrEnum
from typing import Any, Generic, TypeVar

from worker_app.core.admission import MAX_QUEUE

# How many items may wait before all others.
FIRST = 64

T = TypeVar("T", bound=Hashable)


class Release(StrEnum):
    """Why a batch was released."""

    FULL = "full"  # it reached the size limit
    TIMEOUT = "timeout"  # its oldest item reached the time limit
    FREE = "free"  # the engine was free


def bucket_of(rows: int) -> int:
    """The power of two that batches of so many rows are counted under: the smallest that is not less."""
    return 1 << (rows - 1).bit_length()


class _Group:
    """What may run as one batch: items in the order they came, each with its rows."""

    __slots__ = ("items", "rows")

    def __init__(self) -> None:
        self.items: OrderedDict[Any, int] = OrderedDict()
        self.rows = 0


class Batcher(Generic[T]):
    """A bounded queue that says when a batch may be taken. Not safe for concurrent access.

    An item has a number of rows, and belongs to a group: only items of one group make a batch, of `max_size` rows at
    the most; an item that has more is a batch alone. `limit` is how many rows may wait.

    `take()` is to be called when an engine is free. Eager, it gives what is there at once: the engine never idles while
    something waits, and what arrives while it runs forms the next batch. Not eager, it holds a batch back until it is
    full or the oldest item of all has waited `wait_s`. No item may be queued twice at a time. Times are seconds of the
    clock passed in.
    """

    __slots__ = (
        "_clock",
        "_first",
        "_groups",
        "_queue",
        "eager",
        "histogram",
        "limit",
        "max_size",
        "release",
        "rows",
        "taken",
        "wait_s",
    )

    def __init__(
        self, clock: Callable[[], float], *, max_size: int, wait_s: float, eager: bool = True, limit: int = MAX_QUEUE
    ) -> None:
        self._clock = clock
        self._first: deque[T] = deque()
        self._queue: OrderedDict[T, tuple[float, Hashable]] = OrderedDict()  # since when each item waits, and its group
        self._groups: dict[Hashable, _Group] = {}
        self.max_size = max_size
        self.wait_s = wait_s
        self.eager = eager
        self.limit = limit
        self.rows = 0  # that wait
        self.histogram: dict[int, dict[Release, int]] = {}  # batches so far, see `bucket_of`
        self.release: Release | None = None  # of the last batch; None: it was put before all others
        self.taken = 0  # rows of all batches so far

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def first(self) -> int:
        """Items that wait before all others."""
        return len(self._first)

    @property
    def full(self) -> bool:
        """Whether `put` would refuse."""
        return self.rows >= self.limit

    def put(self, item: T, rows: int = 1, group: Hashable = None) -> bool:
        """Queues an item; False, and nothing is queued, if `limit` rows wait already."""
        if self.rows >= self.limit:
            return False
        self._queue[item] = (self._clock(), group)
        into = self._groups.get(group)
        if into is None:
            into = self._groups[group] = _Group()
        into.items[item] = rows
        into.rows += rows
        self.rows += rows
        return True

    def put_first(self, item: T) -> bool:
        """Queues an item before all others, to be taken at once and alone, and counted nowhere; False if `FIRST` do."""
        if len(self._first) >= FIRST:
            return False
        self._first.append(item)
        return True

    def discard(self, item: T) -> bool:
        """Takes an item out of the queue; False if it is not there (any more)."""
        if item in self._first:
            self._first.remove(item)
            return True
        if item not in self._queue:
            return False
        self._remove(item)
        return True

    def due_in(self) -> float | None:
        """Seconds until `take()` would give a batch; 0 for now, None if nothing waits."""
        if self._first:
            return 0.0
        if not self._queue:
            return None
        if self.eager or self._full_group() is not None:
            return 0.0
        return max(0.0, self._oldest_s() + self.wait_s - self._clock())

    def take(self, wanted: Callable[[T], bool] = lambda item: True) -> list[T]:
        """The next batch, oldest first; [] if none is due. Its group is that of the oldest item, or one that is full.

        `wanted` is asked about each item in turn; those it says no to are dropped, and others fill their places.
        """
        while self._first:
            if wanted(item := self._first.popleft()):
                self.release = None
                return [item]
        if self.due_in() != 0.0:
            return []
        timed_out = not self.eager and self._oldest_s() + self.wait_s <= self._clock()
        full = None if self.eager or timed_out else self._full_group()
        if full is None:
            _, name = next(iter(self._queue.values()))
            full = self._groups[name]
        return self._take_from(full, timed_out, wanted)

    def configure(self, *, max_size: int, wait_s: float, eager: bool) -> None:
        """Takes new limits, for what waits already too."""
        self.max_size = max_size
        self.wait_s = wait_s
        self.eager = eager

    @property
    def counts(self) -> dict[Release, int]:
        """Batches released so far, by the reason."""
        sizes = self.histogram.values()
        return {release: sum(each[release] for each in sizes) for release in Release}

    @property
    def batches(self) -> int:
        """Batches released so far."""
        return sum(self.counts.values())

    @property
    def mean_size(self) -> float:
        """Rows per batch so far; 0 before the first."""
        return self.taken / self.batches if self.batches else 0.0

    def _take_from(self, group: _Group, timed_out: bool, wanted: Callable[[T], bool]) -> list[T]:
        batch: list[T] = []
        size, fits = 0, True
        while group.items and size < self.max_size:
            item, rows = next(iter(group.items.items()))
            fits = not batch or size + rows <= self.max_size
            if not fits:
                break
            self._remove(item)
            if wanted(item):
                batch.append(item)
                size += rows
        if batch:
            self.taken += size
            full = size >= self.max_size or not fits
            self.release = Release.FULL if full else Release.TIMEOUT if timed_out else Release.FREE
            bucket = bucket_of(size)
            if bucket not in self.histogram:
                self.histogram[bucket] = dict.fromkeys(Release, 0)
            self.histogram[bucket][self.release] += 1
        return batch

    def _remove(self, item: T) -> None:
        _, name = self._queue.pop(item)
        group = self._groups[name]
        rows = group.items.pop(item)
        group.rows -= rows
        self.rows -= rows
        if not group.items:
            del self._groups[name]

    def _full_group(self) -> _Group | None:
        """The one whose oldest item is the oldest, of those that have enough for a batch."""
        full = [name for name, group in self._groups.items() if group.rows >= self.max_size]
        if len(full) > 1:
            full = [next(name for _, name in self._queue.values() if name in full)]
        return self._groups[full[0]] if full else None

    def _oldest_s(self) -> float:
        since, _ = next(iter(self._queue.values()))
        return since
