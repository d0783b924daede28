"""How much work a worker takes in: what its engine gets through in a given time, by its own measure."""

from __future__ import annotations

# However fast the engine is, no more requests than this wait for it.
MAX_QUEUE = 4096
# How much one batch moves the estimate, and by which factor it may at most differ from what was expected: one batch
# that hangs does not close the door, and of a tenfold slowdown all but a fifth is known after eight batches.
_GAIN = 0.3
_TRUST = 4.0
_SHORTEST_S = 1e-6


class Pace:
    """The time that batches take, learnt batch by batch.

    `fixed_s` and `each_s` are what the warm-up found: seconds for a batch, and for each sample in it. What is learnt
    is how much slower than that the worker really is, so that batches of one tell about full ones too, and full ones
    correct it. Not safe for concurrent access.
    """

    __slots__ = ("_each_s", "_fixed_s", "_slowness")

    def __init__(self, fixed_s: float, each_s: float) -> None:
        self._fixed_s = max(fixed_s, _SHORTEST_S)
        self._each_s = each_s
        self._slowness = 1.0

    def note(self, size: int, took_s: float) -> None:
        """A batch of `size` took so long, from when the worker could begin with it to its last answer."""
        ratio = max(took_s, _SHORTEST_S) / self.batch_s(size)
        self._slowness *= min(max(ratio, 1 / _TRUST), _TRUST) ** _GAIN

    def batch_s(self, size: int) -> float:
        """Seconds that a batch of this size is expected to take."""
        return self._slowness * (self._fixed_s + self._each_s * size)

    @property
    def fixed_s(self) -> float:
        """Of that, what does not depend on the size."""
        return self._slowness * self._fixed_s

    @property
    def each_s(self) -> float:
        """And what each sample adds."""
        return self._slowness * self._each_s

    def rate(self, batch_size: int) -> float:
        """Samples per second while the worker is busy with batches of this size."""
        return batch_size / self.batch_s(batch_size)

    def queue_limit(self, batch_size: int, wait_s: float) -> int:
        """How many may wait if none is to wait longer than `wait_s`; two batches always may."""
        return min(MAX_QUEUE, max(2 * batch_size, int(self.rate(batch_size) * wait_s)))
