"""What a change of the ring does to the keys, before it is made."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway_app.core.table import SLOTS, Table

_NOBODY = -1


@dataclass(frozen=True, slots=True)
class Away:
    """Members of a table that get no keys: an operator has them drained or isolated."""

    draining: Collection[str] = ()
    isolated: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class RingChange:
    """The part of all keys that each worker gets, before and after, and the part that another one gets than before.

    Both name every worker of either side; who is not there, or away, has 0. They add up to 1, or to 0 where nobody is
    left. Results move with their keys only where `hand_off` has them sent along.
    """

    shares_before: dict[str, float]
    shares_after: dict[str, float]
    moved: float


def ring_change(before: Table, after: Table, away_before: Away = Away(), away_after: Away = Away()) -> RingChange:
    """Compares who gets each key first, as long as nobody is busy or sick. Workers are who they are by name."""
    names = sorted({*before.nodes, *after.nodes})
    old, new = _who(before, away_before, names), _who(after, away_after, names)
    return RingChange(_shares(old, names), _shares(new, names), float(np.mean(old != new)))


def _who(table: Table, away: Away, names: list[str]) -> NDArray[np.intp]:
    """For each slot the number of who gets it, among these names."""
    numbers = np.array([names.index(name) for name in table.nodes], np.intp)
    firsts = table.firsts({*away.draining, *away.isolated})
    if not len(firsts):  # who is drained still answers where nobody else is left
        firsts = table.firsts(away.isolated)
    return numbers[firsts] if len(firsts) else np.full(SLOTS, _NOBODY)


def _shares(who: NDArray[np.intp], names: list[str]) -> dict[str, float]:
    counts = np.bincount(who[who != _NOBODY], minlength=len(names))
    return {name: count / SLOTS for name, count in zip(names, counts.tolist(), strict=True)}
