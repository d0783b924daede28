"""What a worker was running when its process ended: kept in a small file, to be told by the next process."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

_SIZE = 16  # hexadecimal digits of a 64-bit key
_NOTHING = b"-" * _SIZE


class LastRun:
    """Notes which watched input runs now. `found` is the one that was running when the process before this one ended.

    A write into a file outlives a process, however it ends. Without a file that can be written nothing is noted. There
    is room for one key, so whoever runs such an input holds `lock`.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.found: int | None = None
        self.lock = asyncio.Lock()
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
