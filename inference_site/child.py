"""One process of a cluster: kept running, its output passed on line by line, stopped or restarted in good order."""

import asyncio
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from socket import socket

PARENT_FD = "INFERENCE_PARENT_FD"
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 10.0
STEADY_S = 10.0  # a process that has run this long is restarted without the delay of earlier deaths
LONGEST_LINE_BYTES = 16_384
TAIL_LINES = 15
OWN_NAME = "cluster"  # in front of the supervisor's own lines


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process: its command line, its whole environment, and the listening socket that it inherits."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    listener: socket
    probe: Callable[[], str]  # "" when ready, else why not; called in a thread


class Child:
    """Keeps one process running until told to stop; its output goes to the console line by line."""

    def __init__(self, spec: ChildSpec, say: Callable[[str, str], None], parent_fd: int) -> None:
        self.spec = spec
        self.deaths = 0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.last_end = ""
        self._say = say
        self._parent_fd = parent_fd
        self._process: asyncio.subprocess.Process | None = None
        self.starts = 0
        self._stopping = asyncio.Event()
        self._restarting = False
        self._partial = b""

    async def run(self) -> None:
        delay_s = FIRST_DELAY_S
        while not self._stopping.is_set():
            started_at = time.monotonic()
            self.last_end = await self._run_once()
            if self._stopping.is_set():
                self._log(f"{self.spec.name} {self.last_end}, as told")
                return
            if self._restarting:
                self._restarting = False
                self._log(f"{self.spec.name} {self.last_end}, as told; starting it again")
                continue
            if time.monotonic() - started_at >= STEADY_S:
                delay_s = FIRST_DELAY_S
            self.deaths += 1
            self._log(f"{self.spec.name} {self.last_end}; starting it again in {delay_s:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            delay_s = min(delay_s * 2, LONGEST_DELAY_S)

    def stop(self) -> None:
        """Orders the drain. From now on the process alone holds its socket, so it decides when clients are refused."""
        self._stopping.set()
        self.spec.listener.close()
        self._signal(signal.SIGTERM)

    def restart(self) -> None:
        """Orders the drain; the next process starts at once, on the same socket."""
        self._restarting = True
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._log(f"{self.spec.name} has not ended in time: killing it")
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def why_not_ready(self) -> str:
        return self.spec.probe() if self._process is not None else self.last_end or "not started yet"

    async def _run_once(self) -> str:
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        loop = asyncio.get_running_loop()
        # Our own pipe, not asyncio's: with that one, wait() lasts until every grandchild has closed it too.
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                env={**self.spec.env, PARENT_FD: str(self._parent_fd)},
                stdin=subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                pass_fds=(self.spec.listener.fileno(), self._parent_fd),
                start_new_session=True,  # Ctrl-C at a terminal reaches the supervisor alone, which orders the drain
            )
        except OSError as error:
            os.close(read_fd)
            return f"cannot be started: {error}"
        finally:
            os.close(write_fd)
        self.starts += 1
        self._log(f"{self.spec.name} started, pid {process.pid}")
        loop.add_reader(read_fd, self._read, read_fd)
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        status = await process.wait()
        self._process = None
        loop.remove_reader(read_fd)
        for _ in range(64):  # a bound: a grandchild may go on writing
            if not self._read(read_fd):
                break
        os.close(read_fd)
        self._emit(self._partial)
        self._partial = b""
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

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
            self.tail.append(text)
            self._say(self.spec.name, text)

    def _log(self, text: str) -> None:
        self._say(OWN_NAME, text)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
