"""Processes started by tests: their output read as it comes, their end certain."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.support.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
# What a supervisor logs of each process that it starts.
STARTED = re.compile(r"cluster +\| .* \S+ started, pid (\d+)$")


def wait_until(what: str, condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """False for a zombie too: it has ended, whether or not its parent has noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def start_of(pid: int) -> str:
    """When a process began, in the system's ticks: with its pid this names it, for pids are given out again. Empty if
    there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


class Running:
    """A process in a session of its own; leaving the context kills it and every process that it logged as started."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.argv = list(argv)
        self._env = dict(env)
        self._lines: list[str] = []
        self._starts: dict[int, str] = {}  # by pid, of this process and of those that it has logged as started

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.argv,
            cwd=ROOT,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._starts[self.process.pid] = start_of(self.process.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        for pid in [self.process.pid, *self.started_pids()]:
            if start_of(pid) not in ("", self._starts[pid]):
                continue  # that one has ended long ago, and its pid is somebody else's
            # A child leads its own session: a group whose leader is gone has other members, or does not exist.
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.process.wait(timeout=PATIENCE_S)
        self._reader.join(timeout=PATIENCE_S)

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def started_pids(self, name: str = r"\S+") -> list[int]:
        """In the order in which the supervisor reported them."""
        return [int(pid) for pid in re.findall(rf"^cluster +\| .* {name} started, pid (\d+)$", self.log, re.MULTILINE)]

    def pid(self, name: str) -> int:
        """Of the named child as it runs now."""
        return self.started_pids(name)[-1]

    def wait_for_line(self, pattern: str, timeout_s: float = PATIENCE_S) -> re.Match[str]:
        """The first line that matches; fails at once, with the log, when the process ends before."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            ended = self.process.poll() is not None
            if ended:
                self._reader.join(timeout=PATIENCE_S)
            if found := re.search(pattern, self.log, re.MULTILINE):
                return found
            if ended or time.monotonic() > give_up_at:
                how = f"ended with {self.process.returncode}" if ended else f"gave no such line in {timeout_s:g} s"
                raise AssertionError(f"waiting for {pattern!r}: {self.argv} {how}. Its output:\n{self.log}")
            time.sleep(0.05)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        try:
            status = self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s:g} s. Its output:\n{self.log}") from None
        self._reader.join(timeout=PATIENCE_S)
        return status

    def terminate(self, timeout_s: float = PATIENCE_S) -> int:
        """Exit status after SIGTERM to this process alone."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if started := STARTED.match(line):
                pid = int(started.group(1))
                self._starts[pid] = start_of(pid)
            self._lines.append(line)
