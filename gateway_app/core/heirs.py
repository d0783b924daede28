"""Who gets a worker's keys when it takes nothing new. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from gateway_app.core.table import SLOTS, Table

# Of the slots, one in so many is looked at: enough for a tenth of a percent, and quick enough for a page.
STEP = 8


def heirs(before: Table, after: Table, worker: str, takes: Callable[[str], bool]) -> dict[str, float]:
    """The part of all keys that each other worker gets, most first; {} if nobody takes them.

    `before` says which keys are the worker's, `after` who is next in line for them; the same table unless the change
    takes the worker off it. The parts add up to the worker's share.
    """
    found: Counter[str] = Counter()
    for slot in range(0, SLOTS, STEP):
        key = slot << 48
        if before.owners(key)[:1] == (worker,):
            heir = next((name for name in after.owners(key) if name != worker and takes(name)), None)
            if heir is not None:
                found[heir] += 1
    share, total = before.shares().get(worker, 0.0), found.total()
    return {name: share * count / total for name, count in found.most_common()}
