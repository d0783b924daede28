"""How long somebody else may take, in time that this process has seen go by: its own stall is not theirs."""

from __future__ import annotations

import time
from collections.abc import Callable

# So late, it is this process that has stalled: what others did meanwhile is not known yet.
STALL_S = 0.5


class Patience:
    """Is looked at again and again; however long it was not looked at, no more than `step_s` counts."""

    def __init__(self, limit_s: float, step_s: float = STALL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._left_s = limit_s
        self._step_s = step_s
        self._clock = clock
        self._looked_at = clock()

    @property
    def is_over(self) -> bool:
        """Whether the limit has been reached by now."""
        now = self._clock()
        self._left_s -= min(now - self._looked_at, self._step_s)
        self._looked_at = now
        return self._left_s <= 0
