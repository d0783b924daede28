"""One part of a cluster: a process kept running on its socket, replaced, restarted or stopped in good order."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from socket import socket

from inference_site.patience import Patience
from inference_site.process import Process

FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 10.0
STEADY_S = 10.0  # a process that has run this long is restarted without the delay of earlier deaths
TAIL_LINES = 15
OWN_NAME = "cluster"  # in front of the supervisor's own lines

# A process that stops for good accepts connections for this long while it says that it is not ready.
GRACE_S = 1.0
# One that is replaced may take this long for what it has; requests have ended by their own limits before.
FINISH_S = 15.0
# One that was told to stop by somebody else serves on for this long at the most, until its successor is ready.
HOLD_S = 30.0


def own_line(text: str, level: str = "INFO") -> str:
    """One of these, in the form of the records that processes log."""
    now = datetime.now()
    return f"{now:%Y-%m-%d %H:%M:%S},{now.microsecond // 1000:03} {level} runcluster {text}"


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One part: the command line and whole environment of its processes, and the listening socket that they inherit."""

    name: str
    argv: Callable[[], Sequence[str]]
    env: Mapping[str, str]
    listener: socket
    probe: Callable[[], str]  # "" when ready, else why not; called in a thread
    overlaps: bool = False  # the next process starts while the one before still serves


class Child:
    """Keeps one process running until told to stop; its output goes to the console line by line."""

    def __init__(self, spec: ChildSpec, say: Callable[[str, str], None]) -> None:
        self.spec = spec
        self.starts = 0
        self.deaths = 0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.last_end = ""
        self._say = say
        self._current: Process | None = None
        self._successor: Process | None = None  # not ready yet, beside the current one
        self._older: list[Process] = []  # finish what they have, or serve until the current one is ready
        self._wake = asyncio.Event()
        self._stopping = False
        self._was_ready = False
        self._delay_s = FIRST_DELAY_S
        self._start_at = 0.0

    async def run(self) -> None:
        """Returns when it has been stopped and every process has ended."""
        while not self._stopping or self._alive():
            self._wake.clear()
            if self._current is not None or self._stopping:
                await self._wake.wait()
            elif self._successor is not None:
                self._move_up()
            elif (wait_s := self._start_at - time.monotonic()) > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait_s)
            else:
                try:
                    self._take_in(await self._start(succeeds=bool(self._older)))
                except OSError as error:
                    self.last_end = f"cannot be started: {error}"
                    self._died()

    def stop(self, end_s: float) -> None:
        """Orders the drain. From now on the process alone holds its socket, so it decides when clients are refused."""
        self._stopping = True
        alive = self._alive()
        for process in alive:
            # Clients that wait for a process which has only been started again are answered before it goes.
            waited_for = self.spec.overlaps and self._was_ready and not process.is_ready and len(alive) == 1
            process.told = True
            process.drain(GRACE_S if self.spec.overlaps else 0, end_s, last=True, signalled=not waited_for)
        self.spec.listener.close()
        self._wake.set()

    def restart(self) -> None:
        """Orders the drain; the next process starts at once, on the same socket."""
        self._start_at = 0.0
        self._wake.set()
        if self._current is not None:
            self._current.told = True
            self._current.drain(0, FINISH_S)

    async def replace(self, within_s: float) -> str:
        """Starts a successor, and lets the others go once it is ready.

        Why it is not, after `within_s` or when it has ended; then the current process serves on.
        """
        if self._current is None:  # it has died a moment ago: its successor need not wait
            self.restart()
            return ""
        try:
            successor = self._successor = await self._start(succeeds=True)
        except OSError as error:
            return f"its successor cannot be started: {error}"
        patience = Patience(within_s)
        while not (successor.is_ready or successor.end or patience.is_over):
            await asyncio.sleep(0.02)
        ready = successor.is_ready and not successor.end
        if self._successor is successor:  # else the one before has ended by itself, and this one is in its place
            self._successor = None
            leaves: Process | None = successor
            if ready:
                self._current, leaves = successor, self._current
            if leaves is not None:
                self._dismiss(leaves)
            if ready:
                self._let_go()
        return "" if ready else f"its successor {successor.end or f'was not ready within {within_s:g} s'}"

    @property
    def is_one(self) -> bool:
        """Whether one process alone is there: none before it, which finishes what it has."""
        return self._current is not None and not self._older

    def kill(self) -> None:
        """Ends all at once."""
        for process in self._alive():
            self._log(f"{self.spec.name} has not ended in time: killing it", "WARNING")
            process.kill()

    def why_not_ready(self) -> str:
        """What its probe says; called in a thread."""
        return self.spec.probe() if self._current is not None else self.last_end or "not started yet"

    def _alive(self) -> list[Process]:
        found = [self._current, self._successor, *self._older]
        return [process for process in found if process is not None and not process.end]

    async def _start(self, *, succeeds: bool) -> Process:
        process = Process(self._line, self._changed)
        await process.start(self.spec.argv(), self.spec.env, self.spec.listener.fileno(), succeeds=succeeds)
        self.starts += 1
        self._log(f"{self.spec.name} started, pid {process.pid}")
        if self._stopping:  # since a moment ago
            process.told = True
            process.drain(0, 0, last=True)
        return process

    def _take_in(self, process: Process) -> None:
        """One that was started in an empty place, which a successor may have taken meanwhile."""
        if self._current is None:
            self._current = process
        else:
            self._dismiss(process)

    def _changed(self, process: Process) -> None:
        if process.end:
            self._ended(process)
        elif process.is_ready and process is self._current:
            self._let_go()
        if not process.end and process.is_draining and not process.told and process is self._current:
            self._leaves(process)
        self._wake.set()

    def _leaves(self, process: Process) -> None:
        """Somebody else has told it to stop."""
        if not self.spec.overlaps or self._stopping:
            process.drain(0, FINISH_S)
        else:
            self._log(f"{self.spec.name} was told to stop; starting the next")
            process.told = True
            process.drain(HOLD_S, HOLD_S + FINISH_S)
            self._older.append(process)
            self._move_up()
            self._start_at = 0.0

    def _move_up(self) -> None:
        """The successor, if there is one, is the current process from now on; it may have been ready before."""
        self._current, self._successor = self._successor, None
        if self._current is not None and self._current.is_ready:
            self._let_go()

    def _let_go(self) -> None:
        """The current process is ready: the others need not serve on."""
        self._was_ready = True
        for each in self._older:
            each.drain(0, FINISH_S)

    def _dismiss(self, process: Process) -> None:
        process.told = True
        process.drain(0, FINISH_S)
        self._older.append(process)

    def _ended(self, process: Process) -> None:
        self.last_end = process.end
        late = ", not in time: it was killed" if process.overdue else ""
        if process is self._successor:
            self._successor = None
        elif process in self._older:
            self._older.remove(process)
            self._log(f"{self.spec.name} ended, pid {process.pid}: {process.end}{late}")
        elif process is self._current:
            self._move_up()
            if self._stopping:
                self._log(f"{self.spec.name} {process.end}, as told{late}")
            elif process.told:
                self._log(f"{self.spec.name} {process.end}, as told{late}; starting it again")
            else:
                if time.monotonic() - process.started_at >= STEADY_S:
                    self._delay_s = FIRST_DELAY_S
                self._died()

    def _died(self) -> None:
        self.deaths += 1
        self._log(f"{self.spec.name} {self.last_end}; starting it again in {self._delay_s:g} s", "WARNING")
        self._start_at = time.monotonic() + self._delay_s
        self._delay_s = min(self._delay_s * 2, LONGEST_DELAY_S)

    def _line(self, text: str) -> None:
        self.tail.append(text)
        self._say(self.spec.name, text)

    def _log(self, text: str, level: str = "INFO") -> None:
        self._say(OWN_NAME, own_line(text, level))
