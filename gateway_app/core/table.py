"""The ring as a table of slots: a look-up is one index, and shares are even.

Multi-probe consistent hashing (Appleton and O'Reilly, 2015) with bounded loads (Mirrokni, Thorup and Zadimoghaddam,
2016): each slot looks at nine fixed places of the ring and goes to the worker whose point is nearest behind one of
them, unless that worker has its full share already. Keys fall evenly on slots, so shares of slots are shares of keys.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from functools import cache

from gateway_app.core.ring import Ring

SLOTS = 65_536
PROBES = 9
_SLOT_BITS = SLOTS - 1


class Table:
    """Owners of 64-bit keys. Immutable, and the same in every process that has the same members.

    `cap` bounds what a worker owns: at most that many times what its weight entitles it to; 0 leaves it to the ring.
    To build one takes about 0.5 s of computing: off the hot path.
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
        self._first = _assign(self._ring, self.weights, hash64, cap)
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
        counts = [0] * len(self._names)
        for owner in self._first:
            counts[owner] += 1
        return {name: count / SLOTS for name, count in zip(self._names, counts, strict=True)}

    def _order(self, slot: int) -> tuple[str, ...]:
        if not self._names:
            return ()
        first = self._names[self._first[slot]]
        return (first, *(name for name in self._ring.owners(slot << 48) if name != first))


@cache
def _places(hash64: Callable[[bytes], int]) -> array[int]:
    """Every place that a slot looks at, in the order of the ring; the low 16 bits of each are its slot."""
    places = (hash64(b"%d/%d" % (slot, n)) & ~_SLOT_BITS | slot for slot in range(SLOTS) for n in range(PROBES))
    return array("Q", sorted(places))


def _assign(ring: Ring, weights: Mapping[str, float], hash64: Callable[[bytes], int], cap: float) -> array[int]:
    """The number of each slot's owner among the ring's nodes."""
    names = ring.nodes
    if len(names) < 2:
        return array("H", bytes(2 * SLOTS) if names else b"")
    found = _candidates(ring, hash64)
    total = sum(weights.values())
    limits = [(cap or len(names) + 1) * SLOTS * weights[name] / total for name in names]
    counts = [0] * len(names)
    owners = array("H", bytes(2 * SLOTS))
    late = []
    # Nearest first, so that what a full worker turns away are the slots that were the least its own.
    for entry in sorted((found[slot * PROBES] & ~_SLOT_BITS) | slot for slot in range(SLOTS)):
        slot = entry & _SLOT_BITS
        owner = found[slot * PROBES] & _SLOT_BITS
        if counts[owner] < limits[owner]:
            counts[owner] += 1
            owners[slot] = owner
        else:
            late.append(slot)
    numbers = {name: number for number, name in enumerate(names)}
    for slot in late:
        choices = [entry & _SLOT_BITS for entry in found[slot * PROBES : slot * PROBES + PROBES]]
        choices += [numbers[name] for name in ring.owners(slot << 48)]
        owner = next((each for each in choices if counts[each] + 1 <= limits[each]), choices[0])
        counts[owner] += 1
        owners[slot] = owner
    return owners


def _candidates(ring: Ring, hash64: Callable[[bytes], int]) -> array[int]:
    """For each slot its candidates, nearest first: the distance, with the owner's number in the low 16 bits."""
    numbers = {name: number for number, name in enumerate(ring.nodes)}
    points, owners = ring.points()
    points, numbered = [*points, points[0] + 2**64], [*(numbers[name] for name in owners), numbers[owners[0]]]
    found = array("Q", bytes(8 * SLOTS * PROBES))
    filled = bytearray(SLOTS)
    index, point, owner = 0, points[0], numbered[0]
    for place in _places(hash64):
        while point < place:
            index += 1
            point, owner = points[index], numbered[index]
        slot = place & _SLOT_BITS
        found[slot * PROBES + filled[slot]] = (point - place) & ~_SLOT_BITS | owner
        filled[slot] += 1
    for start in range(0, SLOTS * PROBES, PROBES):
        found[start : start + PROBES] = array("Q", sorted(found[start : start + PROBES]))
    return found
