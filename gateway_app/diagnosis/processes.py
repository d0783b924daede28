"""Which processes of this project run on this machine, read from /proc; only Linux has one."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
ROLES = {"rungateway": "gateway", "runserver": "gateway", "runnode": "worker", "runcluster": "supervisor"}
ASGI_APPLICATION = "inference_site.asgi"
DEFAULT_GATEWAY_PORT = 8000
LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class Process:
    """`ports` is what it listens on; what its arguments say where the kernel does not tell us (another user's)."""

    pid: int
    role: str
    ports: frozenset[int]


def is_this_machine(host: str) -> bool:
    """True if the host's address belongs to this machine: only then can a socket be bound to it."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def find_processes(proc: Path = Path("/proc"), project: Path = PROJECT) -> list[Process] | None:
    """The project's gateways, workers and supervisors; None where there is no /proc to read."""
    if not (proc / "self" / "cmdline").exists():
        return None
    listening = _listening_inodes(proc)
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
            role, rest = _role(arguments, entry, project)
            if role:
                ports = _ports_of(entry, listening)
                found.append(Process(int(entry.name), role, _ports_said(role, rest) if ports is None else ports))
        except OSError:  # it ended while we looked
            continue
    return sorted(found, key=lambda process: process.pid)


def _role(arguments: list[str], entry: Path, project: Path) -> tuple[str, list[str]]:
    """(role, arguments after the command) of a command line; ("", []) if it is not this project's."""
    for index, argument in enumerate(arguments):
        if argument.startswith(ASGI_APPLICATION) and _directory(entry, project) == project:
            return "gateway", arguments[index + 1 :]
        if index and argument in ROLES and arguments[index - 1].endswith(("manage.py", "django-admin", "django")):
            script = arguments[index - 1]
            home = _directory(entry, project)
            if script.endswith("manage.py"):
                home = (home / script).resolve().parent
            return (ROLES[argument], arguments[index + 1 :]) if home == project else ("", [])
    return "", []


def _directory(entry: Path, project: Path) -> Path:
    """Where the process was started; for another user's process, which does not tell, the project's own directory."""
    try:
        return (entry / "cwd").readlink()
    except PermissionError:
        return project


def _listening_inodes(proc: Path) -> dict[str, int]:
    """Socket inode → TCP port, of all listening sockets."""
    inodes = {}
    for name in ("tcp", "tcp6"):
        try:
            rows = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            if columns[3] == LISTEN:
                inodes[columns[9]] = int(columns[1].rpartition(":")[2], 16)
    return inodes


def _ports_of(entry: Path, listening: dict[str, int]) -> frozenset[int] | None:
    ports = set()
    try:
        for descriptor in (entry / "fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:  # closed while we looked
                continue
            if target.startswith("socket:[") and (port := listening.get(target[8:-1])):
                ports.add(port)
    except PermissionError:
        return None
    return frozenset(ports)


def _ports_said(role: str, arguments: list[str]) -> frozenset[int]:
    if role == "worker":
        return frozenset(int(argument) for argument in arguments[:1] if argument.isdigit())
    for index, argument in enumerate(arguments):
        value = argument.removeprefix("--port=")
        if argument == "--port" and index + 1 < len(arguments):
            value = arguments[index + 1]
        if argument.startswith("--port") and value.isdigit():
            return frozenset({int(value)})
    return frozenset({DEFAULT_GATEWAY_PORT})
