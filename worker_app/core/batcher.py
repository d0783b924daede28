"""Dynamic batches: what waits together runs together, oldest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class Release(StrEnum):
    """Why a batch was released."""

    FULL = "full"  # it reached the size limit
    TIMEOUT = "timeout"  # its oldest item reached the time limit
    FREE = "free"  # the engine was free


class Batcher(Generic[T]):
    """A bounded queue that says when a batch may be taken. Not safe for concurrent access.

    `take()` is to be called when the engine is free. Eager, it gives what is there at once: the engine never idles
    while something waits, and what arrives while it runs forms the next batch. Not eager, it holds a batch back until
    it is full or its oldest item has waited `wait_s`. Times are seconds of the clock passed in.
    """

    __slots__ = ("_clock", "_queue", "_since", "counts", "eager", "items", "limit", "max_size", "wait_s")

    def __init__(
        self, clock: Callable[[], float], *, max_size: int, wait_s: float, eager: bool = True, limit: int = 4096
    ) -> None:
        self._clock = clock
        self._queue: deque[T] = deque()
        self._since: deque[float] = deque()
        self.max_size = max_size
        self.wait_s = wait_s
        self.eager = eager
        self.limit = limit
        self.counts = dict.fromkeys(Release, 0)
        self.items = 0

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, item: T) -> bool:
        """Queues an item; False, and nothing is queued, if `limit` items wait already."""
        if len(self._queue) >= self.limit:
            return False
        self._queue.append(item)
        self._since.append(self._clock())
        return True

    def due_in(self) -> float | None:
        """Seconds until `take()` would give a batch; 0 for now, None if nothing waits."""
        if not self._queue:
            return None
        if self.eager or len(self._queue) >= self.max_size:
            return 0.0
        return max(0.0, self._since[0] + self.wait_s - self._clock())

    def take(self) -> list[T]:
        """The next batch, oldest first, at most `max_size` items; [] if none is due."""
        if self.due_in() != 0.0:
            return []
        size = min(len(self._queue), self.max_size)
        if size == self.max_size:
            self.counts[Release.FULL] += 1
        else:
            self.counts[Release.FREE if self.eager else Release.TIMEOUT] += 1
        self.items += size
        batch = list(islice(self._queue, size))
        for _ in range(size):
            self._queue.popleft()
            self._since.popleft()
        return batch

    def configure(self, *, max_size: int, wait_s: float, eager: bool) -> None:
        """Takes new limits, for what waits already too."""
        self.max_size = max_size
        self.wait_s = wait_s
        self.eager = eager

    @property
    def batches(self) -> int:
        """Batches released so far."""
        return sum(self.counts.values())

    @property
    def mean_size(self) -> float:
        """Items per batch so far; 0 before the first."""
        return self.items / self.batches if self.batches else 0.0
