"""A progress bar on a terminal; silent anywhere else."""

from __future__ import annotations

import time
from typing import TextIO

WIDTH = 32
REDRAW_S = 0.1


class Progress:
    """Call it with how many are done; `close()` leaves the line empty for the report."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total = total
        self._stream = stream
        self._visible = stream.isatty()
        self._began = self._drawn = time.perf_counter()

    def __call__(self, done: int) -> None:
        now = time.perf_counter()
        if not self._visible or (done < self._total and now - self._drawn < REDRAW_S):
            return
        self._drawn = now
        filled = WIDTH * done // self._total
        rate = done / max(now - self._began, 1e-9)
        bar = "█" * filled + "░" * (WIDTH - filled)
        self._stream.write(f"\r{bar} {100 * done // self._total:3d} %  {done:,}/{self._total:,}  {rate:,.0f}/s ")
        self._stream.flush()

    def close(self) -> None:
        if self._visible:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
