"""Keeps what happens over and over from drowning the rest. Pure: the clock is passed in."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

E = TypeVar("E")

# Of each sort, so many events at once, and so many per second after that.
BURST, PER_S = 40, 0.5


@dataclass(slots=True)
class _Sort(Generic[E]):
    """What is known of one sort of event."""

    left: float
    at: float
    held_back: int = 0
    last: list[E] = field(default_factory=list)  # of those held back, the last one


class Storms(Generic[E]):
    """Lets a sort of event through as long as it comes seldom; of a storm, the last one now and then, with how many
    came before it. Not safe for concurrent access."""

    def __init__(self, clock: Callable[[], float], burst: int = BURST, per_s: float = PER_S) -> None:
        self._clock = clock
        self._burst = burst
        self._per_s = per_s
        self._sorts: dict[Hashable, _Sort[E]] = {}

    def admits(self, sort: Hashable, event: E) -> bool:
        """Whether this one may pass; else it is held back, for `calmed`."""
        now = self._clock()
        found = self._sorts.get(sort)
        if found is None:
            found = self._sorts[sort] = _Sort(float(self._burst), now)
        self._refill(found, now)
        if found.left >= 1 and not found.held_back:
            found.left -= 1
            return True
        found.held_back += 1
        found.last = [event]
        return False

    def calmed(self) -> list[tuple[E, int]]:
        """Of each sort that was held back and may pass again, the last one, and how many that were; to be called about
        once a second. Forgets the sorts that have been quiet."""
        now, found = self._clock(), []
        for sort, each in list(self._sorts.items()):
            self._refill(each, now)
            if each.held_back and each.left >= 1:
                found.append((each.last[0], each.held_back))
                each.left -= 1
                each.held_back, each.last = 0, []
            elif each.left >= self._burst:
                del self._sorts[sort]
        return found

    def _refill(self, sort: _Sort[E], now: float) -> None:
        sort.left = min(float(self._burst), sort.left + (now - sort.at) * self._per_s)
        sort.at = now
