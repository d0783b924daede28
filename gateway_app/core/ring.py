"""Consistent hashing: which worker owns a key, and who is next in line for it."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable, Mapping


class Ring:
    """Nodes on a circle of 64-bit points; a key belongs to the node at the first point after it. Immutable.

    A node of weight 1 has `virtual_nodes` points, `hash64(b"name#i")`, so that its name alone decides where it stands:
    every process with the same members finds the same owners, and a node that joins or leaves moves only its own keys.
    """

    __slots__ = ("_cache", "_owners", "_points", "nodes", "weights")

    def __init__(self, weights: Mapping[str, float], virtual_nodes: int, hash64: Callable[[bytes], int]) -> None:
        points = sorted(
            (hash64(b"%s#%d" % (name.encode(), i)), name)
            for name, weight in weights.items()
            for i in range(max(1, round(virtual_nodes * weight)))
        )
        self.weights = dict(weights)
        self.nodes = tuple(sorted(weights))
        self._points = [point for point, _ in points]
        self._owners = [name for _, name in points]
        self._cache: dict[int, tuple[str, ...]] = {}

    def owners(self, key: int) -> tuple[str, ...]:
        """All nodes in the order in which they are to be tried for this 64-bit key; () if the ring is empty."""
        if not self._owners:
            return ()
        # Keys between the same two points share their owners: at most one entry per point is ever kept.
        index = bisect(self._points, key) % len(self._points)
        found = self._cache.get(index)
        if found is None:
            found = self._cache[index] = self._walk(index)
        return found

    def points(self) -> tuple[list[int], list[str]]:
        """The points in order, and whose each one is."""
        return self._points, self._owners

    def shares(self) -> dict[str, float]:
        """The part of all keys that each node owns; they add up to 1."""
        if not self._points:
            return {}
        spans = dict.fromkeys(self.nodes, 0)
        for before, point, owner in zip(self._before(), self._points, self._owners, strict=True):
            spans[owner] += point - before
        return {name: span / 2**64 for name, span in spans.items()}

    def _before(self) -> Iterable[int]:
        return [self._points[-1] - 2**64, *self._points[:-1]]

    def _walk(self, index: int) -> tuple[str, ...]:
        seen: dict[str, None] = {}
        for owner in self._owners[index:] + self._owners[:index]:
            seen.setdefault(owner)
            if len(seen) == len(self.nodes):
                break
        return tuple(seen)
