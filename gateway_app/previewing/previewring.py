"""What a change does to the ring: each worker's part of the keys, and how many keys get another worker."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from xxhash import xxh3_64_intdigest

from gateway_app.core.preview import Away, RingChange, ring_change
from gateway_app.core.table import Table

Payload = Mapping[str, Any]

# Rings of very many points take many seconds: whoever waits for a page gets an estimate after this long.
PATIENCE_S = 3.0
ROWS = 20
# No more of them are made at a time, however often the button is pressed.
_makers = threading.BoundedSemaphore(2)


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of the keys, in percent."""

    worker: str
    before: float
    after: float

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class RingPreview:
    """`moved` is the percentage of keys that another worker gets, `at_least` if it is estimated by the weights.

    `shares` are those that change the most, `others` how many more workers there are.
    """

    shares: list[Share]
    others: int
    moved: float
    at_least: bool


def changes_ring(before: Payload, after: Payload) -> bool:
    """Whether any key might get another worker."""
    return _ring(before) != _ring(after) or _away(before) != _away(after)


def preview_ring(before: Payload, after: Payload) -> RingPreview:
    """Computed as the gateway will; estimated where that takes longer than anybody waits."""
    sides = [(_ring(payload), _away(payload)) for payload in (before, after)]
    found = _within(PATIENCE_S, *sides)
    change = found or _estimate(*sides)
    names = sorted({*change.shares_before, *change.shares_after})
    shares = [
        Share(name, 100 * change.shares_before.get(name, 0.0), 100 * change.shares_after.get(name, 0.0))
        for name in names
    ]
    shown = shares if len(shares) <= ROWS else sorted(shares, key=lambda share: -abs(share.change))[:ROWS]
    return RingPreview(shown, len(shares) - len(shown), 100 * change.moved, found is None)


# A ring's members with their weights, its virtual nodes, and the limit of a share.
_Ring = tuple[tuple[tuple[str, float], ...], int, float]
_Side = tuple[_Ring, Away]


def _ring(payload: Payload) -> _Ring:
    tuning = payload["tuning"]
    weights = tuple(sorted((row["name"], row["weight"]) for row in payload["workers"] if row["enabled"]))
    cap = tuning["share_cap_percent"]
    return weights, tuning["virtual_nodes"], 1 + cap / 100 if cap else 0.0


def _away(payload: Payload) -> Away:
    there = [row for row in payload["workers"] if row["enabled"]]
    return Away(
        draining=tuple(sorted(row["name"] for row in there if row["draining"])),
        isolated=tuple(sorted(row["name"] for row in there if row["isolated"])),
    )


@lru_cache(maxsize=4)
def _table(ring: _Ring) -> Table:
    weights, virtual_nodes, cap = ring
    return Table(dict(weights), virtual_nodes, xxh3_64_intdigest, cap)


def _within(patience_s: float, before: _Side, after: _Side) -> RingChange | None:
    """In a thread of its own, which goes on after that: whoever asks again finds what it has made."""
    made: list[RingChange] = []
    done = threading.Event()

    def make() -> None:
        try:
            made.append(ring_change(_table(before[0]), _table(after[0]), before[1], after[1]))
        finally:
            _makers.release()
            done.set()

    if not _makers.acquire(timeout=patience_s):
        return None
    threading.Thread(target=make, name="ring preview", daemon=True).start()
    done.wait(patience_s)
    return made[0] if made else None


def _estimate(before: _Side, after: _Side) -> RingChange:
    shares = [_by_weight(*side) for side in (before, after)]
    names = {*shares[0], *shares[1]}
    moved = sum(max(0.0, shares[1].get(name, 0.0) - shares[0].get(name, 0.0)) for name in names)
    return RingChange(shares[0], shares[1], moved)


def _by_weight(ring: _Ring, away: Away) -> dict[str, float]:
    out = {*away.draining, *away.isolated}
    weights = {name: weight for name, weight in ring[0] if name not in out}
    total = sum(weights.values())
    return {name: weights.get(name, 0.0) / total if total else 0.0 for name, _ in ring[0]}
