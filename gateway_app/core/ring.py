"""Consistent hashing: which worker owns a key, and who is next in line for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

# More points than this make a ring slower to build and no more even: they are halved, for all nodes, until they fit.
MAX_POINTS = 2**20


class Ring:
    """Nodes on a circle of 64-bit points; a key belongs to the node at the first point after it. Immutable.

    A node of weight 1 has `virtual_nodes` points, `hash64(b"name#i")`, so that its name alone decides where it stands:
    every process with the same members finds the same owners, and a node that joins or leaves moves only its own keys
    (unless it makes the points of all more than `MAX_POINTS`).
    """

    __slots__ = ("_cache", "_places", "_starts", "nodes", "numbers", "points", "weights")

    def __init__(self, weights: Mapping[str, float], virtual_nodes: int, hash64: Callable[[bytes], int]) -> None:
        self.weights = dict(weights)
        self.nodes = tuple(sorted(weights))
        counts = _counts([weights[name] * virtual_nodes for name in self.nodes])
        points = [_points(name, count, hash64) for name, count in zip(self.nodes, counts, strict=True)]
        unsorted = np.concatenate(points) if points else np.empty(0, np.uint64)
        order = np.argsort(unsorted, kind="stable")
        # The points in order, and for each the number of its owner among the nodes.
        self.points: NDArray[np.uint64] = unsorted[order]
        self.numbers: NDArray[np.uint16] = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)[order]
        # The places of the first node's points among all, of the second's and so on; those of node n plus n * total,
        # so that one search finds the next point of every node.
        self._places = np.sort(self.numbers.astype(np.int64) * len(order) + np.arange(len(order)))
        self._starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self._cache: dict[int, tuple[str, ...]] = {}

    def owners(self, key: int) -> tuple[str, ...]:
        """All nodes in the order in which they are to be tried for this 64-bit key; () if the ring is empty."""
        if not self.nodes:
            return ()
        # Keys between the same two points share their owners: at most one entry per point is ever kept.
        index = int(np.searchsorted(self.points, np.uint64(key), "right")) % len(self.points)
        found = self._cache.get(index)
        if found is None:
            found = self._cache[index] = self._order(index)
        return found

    def shares(self) -> dict[str, float]:
        """The part of all keys that each node owns; they add up to 1."""
        if not self.nodes:
            return {}
        spans = (self.points - np.roll(self.points, 1)).astype(np.float64)  # modulo 2**64, as the circle is
        if len(self.points) == 1:
            return {self.nodes[0]: 1.0}
        owned = np.bincount(self.numbers, spans, len(self.nodes)) / 2**64
        return dict(zip(self.nodes, owned.tolist(), strict=True))

    def _order(self, index: int) -> tuple[str, ...]:
        """The nodes by how far their next point is from this one; as fast where one node has nearly all the points."""
        total, numbers = len(self.points), np.arange(len(self.nodes))
        found = np.searchsorted(self._places, numbers * total + index)
        found = np.where(found == self._starts[1:], self._starts[:-1], found)
        away = (self._places[found] - index) % total
        return tuple(self.nodes[number] for number in np.argsort(away).tolist())


def _counts(wanted: list[float]) -> list[int]:
    """How many points each node gets."""
    counts = [max(1, round(each)) for each in wanted]
    if sum(counts) <= max(MAX_POINTS, len(counts)):
        return counts
    return _counts([each / 2 for each in wanted])


def _points(name: str, count: int, hash64: Callable[[bytes], int]) -> NDArray[np.uint64]:
    texts = map(b"%b#%d".__mod__, zip(repeat(name.encode()), range(count), strict=False))
    return np.fromiter(map(hash64, texts), np.uint64, count)
