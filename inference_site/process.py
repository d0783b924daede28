"""One process of a cluster, from its start to its end: its output, what it says of itself, and what it is told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from inference_site.parent import DRAIN, DRAINING, LAST, PARENT_FD, READY, SUCCEED
from inference_site.patience import STALL_S

LONGEST_LINE_BYTES = 16_384
# From the end of its drain to its last breath; after that it is killed.
TAIL_S = 2.0


class Process:
    """Started once. `changed` is called when it is ready, when it drains, and when it has ended."""

    def __init__(self, line: Callable[[str], None], changed: Callable[[Process], None]) -> None:
        self.pid = 0
        self.started_at = time.monotonic()
        self.is_ready = False
        self.is_draining = False
        self.told = False  # to end, by its supervisor
        self.end = ""  # how it ended; "" while it runs
        self.overdue = False  # it was killed, for it had not ended in time
        self._line = line
        self._changed = changed
        self._partial = b""
        self._killing: asyncio.TimerHandle | None = None

    async def start(self, argv: Sequence[str], env: Mapping[str, str], listener: int, *, succeeds: bool) -> None:
        """Starts it with this listening socket. succeeds: another process serves there until it is ready.

        Raises OSError.
        """
        loop = asyncio.get_running_loop()
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        # Only we hold our end: however we end, the process reads end-of-file and ends too.
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        if succeeds:  # before it is there: however soon it asks, it finds this
            self._tell(SUCCEED)
        # Our own pipe, not asyncio's: with that one, wait() lasts until every grandchild has closed it too.
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                env={**env, PARENT_FD: str(theirs.fileno())},
                stdin=subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                pass_fds=(listener, theirs.fileno()),
                start_new_session=True,  # Ctrl-C at a terminal reaches the supervisor alone, which orders the drain
            )
        except OSError:
            os.close(read_fd)
            self._socket.close()
            raise
        finally:
            os.close(write_fd)
            theirs.close()
        self.pid = self._process.pid
        loop.add_reader(read_fd, self._read, read_fd)
        loop.add_reader(self._socket, self._hear)
        self._waiting = loop.create_task(self._wait(read_fd), name=f"process {self.pid}")

    def drain(self, accept_s: float, end_s: float, *, last: bool = False, signalled: bool = True) -> None:
        """It shall accept connections for so long still and end after so long, `TAIL_S` later it is killed.

        last: nobody is to serve on its socket after it. Without a signal, one that is only starting gets ready first.
        """
        if self.end:
            return
        if last:
            self._tell(LAST)
        self._tell(f"{DRAIN} {accept_s:g} {end_s:g}")
        if signalled:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        if self._killing is not None:
            self._killing.cancel()
        self._kill_in(end_s + TAIL_S)

    def kill(self) -> None:
        """Ends it at once, with whatever it started."""
        if not self.end:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _kill_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        self._killing = loop.call_at(due, self._is_due, due)

    def _is_due(self, due: float) -> None:
        if asyncio.get_running_loop().time() - due > STALL_S:
            self._kill_in(TAIL_S)
        else:
            self.overdue = True
            self.kill()

    def _tell(self, order: str) -> None:
        with suppress(OSError):
            self._socket.send(f"{order}\n".encode())

    def _hear(self) -> None:
        try:
            data = self._socket.recv(4096)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._socket)
            return
        words = data.decode(errors="replace").split()
        self.is_ready = self.is_ready or READY in words
        self.is_draining = self.is_draining or DRAINING in words
        self._changed(self)

    async def _wait(self, read_fd: int) -> None:
        status = await self._process.wait()
        loop = asyncio.get_running_loop()
        loop.remove_reader(read_fd)
        loop.remove_reader(self._socket)
        self._socket.close()
        if self._killing is not None:
            self._killing.cancel()
        for _ in range(64):  # a bound: a grandchild may go on writing
            if not self._read(read_fd):
                break
        os.close(read_fd)
        self._emit(self._partial)
        self.end = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._changed(self)

    def _read(self, read_fd: int) -> bool:
        try:
            data = os.read(read_fd, 65_536)
        except BlockingIOError:
            return False
        if not data:
            asyncio.get_running_loop().remove_reader(read_fd)
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._emit(line)
        if len(self._partial) > LONGEST_LINE_BYTES:
            self._emit(self._partial)
            self._partial = b""
        return True

    def _emit(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        if text:
            self._line(text)
