"""What the system says of a process: its memory, its open files, its limits."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def resident_kb(pid: int) -> int:
    return _status(pid, "VmRSS")


def peak_kb(pid: int) -> int:
    """The most that it has had since `forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def open_files(pid: int) -> int:
    """How many descriptors it has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def descriptors(pid: int, port: int) -> int:
    """How many files a process has open, but for the connections that were made to a port: how many of those
    there are is the clients' affair, and after an overload they let go of them when they please."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    rows = (line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    accepted = {f"socket:[{row[9]}]" for row in rows if int(row[1].partition(":")[2], 16) == port and row[3] != "0A"}
    return sum(_target_of(link) not in accepted for link in links)


@contextmanager
def limited(pids: list[int], what: int, limit: int) -> Iterator[None]:
    """These processes have no more than so much of it, one of resource.RLIMIT_*; all that they may before and after."""
    before = {pid: resource.prlimit(pid, what) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, what, (limit, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, what, limits)


def _status(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0])


def _target_of(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""
