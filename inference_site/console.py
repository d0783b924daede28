"""Writes the lines of many processes to one output that may be slow, blocked or gone."""

import os
import select
import threading
from collections import deque
from contextlib import suppress


class Console:
    """Never blocks its callers: lines wait in a bounded buffer for one thread; what does not fit is counted."""

    def __init__(self, fd: int = 1, *, buffer_bytes: int = 1 << 20) -> None:
        self._fd = fd
        self._buffer_bytes = buffer_bytes
        self._lines: deque[bytes] = deque()
        self._held_bytes = 0
        self._dropped = 0
        self._closed = False
        self._changed = threading.Condition()
        # A daemon: a reader that never comes back must not keep the process from exiting.
        self._thread = threading.Thread(target=self._write_all, name="console", daemon=True)
        self._thread.start()

    def line(self, text: str, *, urgent: bool = False) -> None:
        """urgent: has as much room again, which ordinary lines cannot fill."""
        data = text.encode(errors="replace") + b"\n"
        room_bytes = self._buffer_bytes * 2 if urgent else self._buffer_bytes
        with self._changed:
            if self._held_bytes + len(data) > room_bytes:
                self._dropped += 1
                return
            if self._dropped:
                note = f"... {self._dropped} lines dropped: the output was not being read\n".encode()
                self._dropped = 0
                self._add(note)
            self._add(data)
            self._changed.notify()

    def close(self, timeout_s: float = 1.0) -> None:
        """Waits until everything is written, or timeout_s."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _add(self, data: bytes) -> None:
        self._lines.append(data)
        self._held_bytes += len(data)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closed)
                if not self._lines:
                    return
                data = self._lines.popleft()
            # The reader of a pipe may leave; the cluster serves on, silently.
            with suppress(OSError):
                self._write(data)
            with self._changed:
                self._held_bytes -= len(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # whoever started us may have made the pipe non-blocking
                select.select([], [self._fd], [])
