"""Log records: of what comes over and over a part is written, and how many were not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

# Of each sort so many at once, and so many per second after that.
BURST, PER_S = 20, 0.5
MAX_SORTS = 1000


@dataclass(slots=True)
class _Sort:
    """What is known of one sort of record."""

    left: float
    at: float
    held_back: int = 0


class Repeats(logging.Filter):
    """Holds back warnings and errors that are repeated: a client that sends a thousand inputs which a model fails on
    must not fill a disk.

    Of one sort are those with one text about one thing (the first of its values: a worker, a model, a file).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._sorts: dict[tuple[str, str, str], _Sort] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """logging: whether it is written. Called by any thread; at worst, two of them write one record more."""
        if record.levelno < logging.WARNING:
            return True
        now = self._clock()
        about = str(record.args[0])[:100] if isinstance(record.args, tuple) and record.args else ""
        if len(self._sorts) >= MAX_SORTS:
            self._sorts.clear()
        sort = self._sorts.setdefault((record.name, str(record.msg)[:200], about), _Sort(BURST, now))
        sort.left, sort.at = min(BURST, sort.left + (now - sort.at) * PER_S), now
        if sort.left < 1:
            sort.held_back += 1
            return False
        sort.left -= 1
        if sort.held_back:
            record.msg, record.args = f"{record.getMessage()} ({sort.held_back} more like it were not written)", ()
            sort.held_back = 0
        return True
