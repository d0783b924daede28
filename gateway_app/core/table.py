"""The ring as a table of slots: a look-up is one index, and shares are even.

Multi-probe consistent hashing (Appleton and O'Reilly, 2015) with bounded loads (Mirrokni, Thorup and Zadimoghaddam,
2016): each slot looks at nine fixed places of the ring and goes to the worker whose point is nearest behind one of
them, unless that worker has its full share already. Keys fall evenly on slots, so shares of slots are shares of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from itertools import chain, product

import numpy as np
from numpy.typing import NDArray

from gateway_app.core.ring import Ring

SLOTS = 65_536
PROBES = 9
_SLOT_BITS = np.uint64(SLOTS - 1)


class Table:
    """Owners of 64-bit keys. Immutable, and the same in every process that has the same members.

    `cap` bounds what a worker owns: at most that many times what its weight entitles it to; 0 leaves it to the ring.
    To build one takes about 0.05 s of computing, and some 0.5 s with as many points as a ring may have: off the hot
    path.
    """

    __slots__ = ("_first", "_names", "_orders", "_ring", "cap", "virtual_nodes", "weights")

    def __init__(
        self, weights: Mapping[str, float], virtual_nodes: int, hash64: Callable[[bytes], int], cap: float = 1.02
    ) -> None:
        self.weights = dict(weights)
        self.virtual_nodes = virtual_nodes
        self.cap = cap
        self._ring = Ring(weights, virtual_nodes, hash64)
        self._names = self._ring.nodes
        self._first = _assign(self._ring, hash64, cap).tolist()
        self._orders: dict[int, tuple[str, ...]] = {}

    @property
    def nodes(self) -> tuple[str, ...]:
        """The members, by name."""
        return self._names

    def owners(self, key: int) -> tuple[str, ...]:
        """All nodes in the order in which they are to be tried for this key; () without nodes."""
        slot = key >> 48
        found = self._orders.get(slot)
        if found is None:
            found = self._orders[slot] = self._order(slot)
        return found

    def shares(self) -> dict[str, float]:
        """The part of all keys that each node owns; they add up to 1."""
        counts = np.bincount(self.firsts(), minlength=len(self._names)).tolist()
        return {name: count / SLOTS for name, count in zip(self._names, counts, strict=True)}

    def firsts(self, away: Collection[str] = ()) -> NDArray[np.uint16]:
        """For each slot, who gets its keys while those nodes are away, by number among `nodes`; empty without any.

        It is the first that is not away in `owners` of the slot's keys.
        """
        first = np.array(self._first, np.uint16)
        is_away = np.array([name in away for name in self._names], bool)
        if is_away.all():
            return np.empty(0, np.uint16)
        left = ~is_away[self._ring.numbers]
        points, numbers = self._ring.points[left], self._ring.numbers[left]
        slots = np.flatnonzero(is_away[first])
        first[slots] = numbers[np.searchsorted(points, slots.astype(np.uint64) << np.uint64(48), "right") % len(points)]
        return first

    def _order(self, slot: int) -> tuple[str, ...]:
        if not self._names:
            return ()
        first = self._names[self._first[slot]]
        return (first, *(name for name in self._ring.owners(slot << 48) if name != first))


@cache
def _probes(hash64: Callable[[bytes], int]) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """Every place that a slot looks at, in the order of the ring, and where those of each slot are among them."""
    digits = [b"%d" % slot for slot in range(SLOTS)], [b"/%d" % number for number in range(PROBES)]
    places = np.fromiter(map(hash64, map(b"".join, product(*digits))), np.uint64, SLOTS * PROBES)
    slots = np.repeat(np.arange(SLOTS, dtype=np.uint64), PROBES)
    places = np.sort(places & ~_SLOT_BITS | slots)
    return places, np.argsort(places & _SLOT_BITS, kind="stable")


def _assign(ring: Ring, hash64: Callable[[bytes], int], cap: float) -> NDArray[np.uint16]:
    """The number of each slot's owner among the ring's nodes."""
    if len(ring.nodes) < 2:
        return np.zeros(SLOTS if ring.nodes else 0, np.uint16)
    found = _candidates(ring, hash64)
    choices = (found & _SLOT_BITS).astype(np.uint16)
    owners = choices[:, 0].copy()
    if not cap:
        return owners
    weights = np.array([ring.weights[name] for name in ring.nodes])
    limits = cap * SLOTS * weights / weights.sum()
    # Nearest first, so that what a full worker turns away are the slots that were the least its own.
    order = np.argsort((found[:, 0] & ~_SLOT_BITS) | np.arange(SLOTS, dtype=np.uint64))
    late = order[_ranks(owners[order]) >= limits[owners[order]]]
    counts = np.bincount(np.delete(owners, late), minlength=len(limits)).tolist()
    room = [limit - 1 for limit in limits.tolist()]
    for slot, near in zip(late.tolist(), choices[late].tolist(), strict=True):
        further = _further(ring, slot)
        owner = next((each for each in chain(near, further) if counts[each] <= room[each]), near[0])
        counts[owner] += 1
        owners[slot] = owner
    return owners


def _ranks(owners: NDArray[np.uint16]) -> NDArray[np.intp]:
    """How many slots of the same owner come before each one."""
    by_owner = np.argsort(owners, kind="stable")
    counts = np.bincount(owners)
    ranks = np.empty_like(by_owner)
    ranks[by_owner] = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def _further(ring: Ring, slot: int) -> Iterator[int]:
    """Every node in the ring's order from this slot on: for when all that are near are full."""
    for name in ring.owners(slot << 48):
        yield ring.nodes.index(name)


def _candidates(ring: Ring, hash64: Callable[[bytes], int]) -> NDArray[np.uint64]:
    """For each slot its candidates, nearest first: the distance, with the owner's number in the low 16 bits."""
    places, by_slot = _probes(hash64)
    nearest = np.searchsorted(ring.points, places) % len(ring.points)
    found = (ring.points[nearest] - places) & ~_SLOT_BITS | ring.numbers[nearest]
    return np.sort(found[by_slot].reshape(SLOTS, PROBES), axis=1)
