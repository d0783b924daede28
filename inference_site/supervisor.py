"""Starts the processes of a cluster, restarts those that die, and stops all in order. Knows nothing of Django."""

import asyncio
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socket import socket

from inference_site.console import Console

PARENT_FD = "INFERENCE_PARENT_FD"
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 10.0
STEADY_S = 10.0  # a process that has run this long is restarted without the delay of earlier deaths
EARLY_DEATHS = 2  # so many of one process before the first "ready": it is not going to work
LONGEST_LINE_BYTES = 16_384
TAIL_LINES = 15
OWN_NAME = "cluster"  # in front of the supervisor's own lines


class SupervisorError(Exception):
    """The cluster did not become ready; the message says which process and why."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process: its command line, its whole environment, and the listening socket that it inherits."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    listener: socket
    probe: Callable[[], str]  # "" when ready, else why not; called in a thread


@dataclass(frozen=True, slots=True)
class Stage:
    """Processes that stop together. Stages stop in reverse order, each after the one before it has ended."""

    children: tuple[ChildSpec, ...]
    stop_wait_s: float


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
        self._stopping = asyncio.Event()
        self._partial = b""

    async def run(self) -> None:
        delay_s = FIRST_DELAY_S
        while not self._stopping.is_set():
            started_at = time.monotonic()
            self.last_end = await self._run_once()
            if self._stopping.is_set():
                self._log(f"{self.spec.name} {self.last_end}, as told")
                return
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


class Supervisor:
    """Runs the stages until TERM or INT. `check` says why the whole is not ready though each part is, "" when it is."""

    def __init__(
        self,
        stages: Sequence[Stage],
        console: Console,
        *,
        ready_line: str,
        check: Callable[[], str] = lambda: "",
        ready_within_s: float = 40.0,
    ) -> None:
        self._console = console
        self._ready_line = ready_line
        self._check = check
        self._ready_within_s = ready_within_s
        self._stop_asked_at: float | None = None
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        # Only this process holds the write end: however it ends, its children read end-of-file and end too.
        self._parent_read_fd, self._parent_write_fd = os.pipe()
        self._width = max(len(name) for name in [OWN_NAME, *(c.name for s in stages for c in s.children)])
        self._stages = [
            (stage, [Child(spec, self._say, self._parent_read_fd) for spec in stage.children]) for stage in stages
        ]
        self._children = [child for _, children in self._stages for child in children]

    def run(self) -> None:
        """Returns after an ordered stop; raises SupervisorError, everything stopped, if "ready" was never reached."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        tasks = {child: asyncio.create_task(child.run()) for child in self._children}
        ready = asyncio.create_task(self._become_ready())
        asked = asyncio.create_task(self._stop_asked.wait())
        await asyncio.wait({ready, asked}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if ready.done():
                await ready
                await asked
        finally:
            ready.cancel()
            asked.cancel()
            await self._stop_all(tasks)
            os.close(self._parent_read_fd)
            os.close(self._parent_write_fd)

    async def _become_ready(self) -> None:
        give_up_at = time.monotonic() + self._ready_within_s
        while True:
            reasons = await asyncio.gather(*(asyncio.to_thread(child.why_not_ready) for child in self._children))
            for child in self._children:
                if child.deaths >= EARLY_DEATHS:
                    last_lines = "\n".join(f"    {line}" for line in child.tail) or "    (it printed nothing)"
                    raise SupervisorError(
                        f"{child.spec.name} {child.last_end}, {child.deaths} times before the cluster was ready; "
                        f"its last lines:\n{last_lines}"
                    )
            unready = [f"{c.spec.name}: {why}" for c, why in zip(self._children, reasons, strict=True) if why]
            if not unready and (why := await asyncio.to_thread(self._check)):
                unready = [why]
            if not unready:
                self._console.line(self._ready_line, urgent=True)
                return
            if time.monotonic() > give_up_at:
                raise SupervisorError(f"not ready within {self._ready_within_s:g} s: " + "; ".join(unready))
            await asyncio.sleep(0.1)

    async def _stop_all(self, tasks: Mapping[Child, asyncio.Task[None]]) -> None:
        for stage, children in reversed(self._stages):
            for child in children:
                child.stop()
            kill_at = time.monotonic() + stage.stop_wait_s
            while pending := [child for child in children if not tasks[child].done()]:
                if self._hurry.is_set() or time.monotonic() > kill_at:
                    for child in pending:
                        child.kill()
                    await asyncio.wait([tasks[child] for child in pending], timeout=1.0)
                    break
                await asyncio.wait([tasks[child] for child in pending], timeout=0.1)

    def _on_signal(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._stop_asked_at is None:
            self._stop_asked_at = now
            self._stop_asked.set()
            self._say(OWN_NAME, f"{number.name}: draining; a second signal stops without waiting")
        elif now - self._stop_asked_at > 1.0:  # sooner it is the same one: make passes on what its whole group got
            self._hurry.set()

    def _say(self, name: str, text: str) -> None:
        self._console.line(f"{name:<{self._width}} | {text}", urgent=name == OWN_NAME)
