"""What a worker was running when its process ended: kept in a small file, to be told by the next process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

logger = logging.getLogger(__name__)

PATIENCE_S = 2.0
_SIZE = 16  # hexadecimal digits of a 64-bit key
_NOTHING = b"-" * _SIZE


class LastRun:
    """Notes which watched input runs now. `found` is the one that was running when the process before this one ended.

    A write into a file outlives a process, however it ends. Without a file that can be written nothing is noted. So
    that no watched input is blamed for another one, it runs `alone`; all other batches go `beside` each other. Neither
    waits for long: a batch that hangs is not to stop the others.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.found: int | None = None
        self._turn = asyncio.Lock()  # of whoever runs alone
        self._open = asyncio.Event()
        self._idle = asyncio.Event()
        self._open.set()
        self._idle.set()
        self._running = 0
        self._file: int | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            text = os.pread(self._file, _SIZE, 0)
            self.found = int(text, 16) if len(text) == _SIZE and text != _NOTHING else None
            self.ended()
        except (OSError, ValueError) as error:
            logger.warning("%s can't be used (%s): an input that ends this process will not be known", path, error)

    @contextlib.asynccontextmanager
    async def alone(self, key: int) -> AsyncIterator[None]:
        """Around the run of the watched input with this key."""
        async with self._turn:
            self._open.clear()
            try:
                await _for_a_while(self._idle)
                self.began(key)
                yield
            finally:
                self.ended()
                self._open.set()

    @contextlib.asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """Around the run of any other batch."""
        until = time.monotonic() + PATIENCE_S
        while not self._open.is_set() and time.monotonic() < until:  # the next one may have come before this one's turn
            await _for_a_while(self._open)
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def began(self, key: int) -> None:
        """The input with this key is about to run, alone."""
        self._write(b"%016x" % key)

    def ended(self) -> None:
        """It has run, and this process is still there."""
        self._write(_NOTHING)

    def _write(self, text: bytes) -> None:
        if self._file is not None:
            try:
                os.pwrite(self._file, text, 0)
            except OSError as error:
                logger.warning("what runs is noted no more: %s", error)
                self._file = None


async def _for_a_while(event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), PATIENCE_S)
