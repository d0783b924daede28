"""Dynamic batches: what waits together runs together, oldest first."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from enum import StrEnum
from typing import Generic, TypeVar

from worker_app.core.admission import MAX_QUEUE

# How many items may wait before all others.
FIRST = 64

T = TypeVar("T", bound=Hashable)


class Release(StrEnum):
    """Why a batch was released."""

    FULL = "full"  # it reached the size limit
    TIMEOUT = "timeout"  # its oldest item reached the time limit
    FREE = "free"  # the engine was free


class Batcher(Generic[T]):
    """A bounded queue that says when a batch may be taken. Not safe for concurrent access.

    `take()` is to be called when the engine is free. Eager, it gives what is there at once: the engine never idles
    while something waits, and what arrives while it runs forms the next batch. Not eager, it holds a batch back until
    it is full or its oldest item has waited `wait_s`. No item may be queued twice at a time. Times are seconds of the
    clock passed in.
    """

    __slots__ = ("_clock", "_first", "_queue", "counts", "eager", "items", "limit", "max_size", "wait_s")

    def __init__(
        self, clock: Callable[[], float], *, max_size: int, wait_s: float, eager: bool = True, limit: int = MAX_QUEUE
    ) -> None:
        self._clock = clock
        self._first: deque[T] = deque()
        self._queue: OrderedDict[T, float] = OrderedDict()  # since when each item waits
        self.max_size = max_size
        self.wait_s = wait_s
        self.eager = eager
        self.limit = limit
        self.counts = dict.fromkeys(Release, 0)
        self.items = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether `put` would refuse."""
        return len(self._queue) >= self.limit

    def put(self, item: T) -> bool:
        """Queues an item; False, and nothing is queued, if `limit` items wait already."""
        if len(self._queue) >= self.limit:
            return False
        self._queue[item] = self._clock()
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
        return self._queue.pop(item, None) is not None

    def due_in(self) -> float | None:
        """Seconds until `take()` would give a batch; 0 for now, None if nothing waits."""
        if self._first:
            return 0.0
        if not self._queue:
            return None
        if self.eager or len(self._queue) >= self.max_size:
            return 0.0
        return max(0.0, self._oldest() + self.wait_s - self._clock())

    def take(self, wanted: Callable[[T], bool] = lambda item: True) -> list[T]:
        """The next batch, oldest first, at most `max_size` items; [] if none is due.

        `wanted` is asked about each item in turn; those it says no to are dropped, and others fill their places.
        """
        while self._first:
            if wanted(item := self._first.popleft()):
                return [item]
        if self.due_in() != 0.0:
            return []
        batch: list[T] = []
        timed_out = not self.eager and self._oldest() + self.wait_s <= self._clock()
        while self._queue and len(batch) < self.max_size:
            item, _ = self._queue.popitem(last=False)
            if wanted(item):
                batch.append(item)
        if batch:
            self.items += len(batch)
            full = len(batch) == self.max_size
            self.counts[Release.FULL if full else Release.TIMEOUT if timed_out else Release.FREE] += 1
        return batch

    def configure(self, *, max_size: int, wait_s: float, eager: bool) -> None:
        """Takes new limits, for what waits already too."""
        self.max_size = max_size
        self.wait_s = wait_s
        self.eager = eager

    def _oldest(self) -> float:
        return next(iter(self._queue.values()))

    @property
    def batches(self) -> int:
        """Batches released so far."""
        return sum(self.counts.values())

    @property
    def mean_size(self) -> float:
        """Items per batch so far; 0 before the first."""
        return self.items / self.batches if self.batches else 0.0
