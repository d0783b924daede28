"""Who gets a worker's keys when it takes nothing new. Pure."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from gateway_app.core.table import SLOTS, Table


def heirs(before: Table, after: Table, worker: str, away: Collection[str]) -> dict[str, float]:
    """The part of all keys that each other worker gets, most first; {} if nobody takes them.

    `before` says which keys are the worker's, `after` who is next in line for them while those who are `away` take
    nothing: the same table, unless the change takes the worker off it. The parts add up to the worker's share.
    """
    own = before.firsts() == before.nodes.index(worker)
    then = after.firsts({*away, worker})
    if not then.size:
        return {}
    counts = np.bincount(then[own], minlength=len(after.nodes)).tolist()
    parts = {name: count / SLOTS for name, count in zip(after.nodes, counts, strict=True) if count}
    return dict(sorted(parts.items(), key=lambda part: (-part[1], part[0])))
