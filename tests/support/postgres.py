"""A PostgreSQL server of a test's own, from Debian's package: on a free port, stopped and removed afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.ports import free_ports
from tests.support.waiting import PATIENCE_S


def programs() -> Path | None:
    """The directory with initdb and pg_ctl, of the newest version installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """Runs between `with` and its end; `stop` and `start` are what an outage looks like."""

    def __init__(self, bin_directory: Path) -> None:
        self._bin = bin_directory
        self._home = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._port = free_ports(1)[0]
        # The server refuses to run as root; Debian's package has made a user for it.
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.url = f"postgres://tester@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Self:
        if self._as:
            shutil.chown(self._home, "postgres")
        self._run("initdb", "--auth=trust", "--username=tester", "--no-sync", "-D", str(self._home / "data"))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def start(self) -> None:
        """Returns when it takes connections."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        data, log = str(self._home / "data"), str(self._home / "log")
        self._run("pg_ctl", "-w", "-t", f"{PATIENCE_S:.0f}", "-D", data, "-o", options, "-l", log, "start")

    def stop(self) -> None:
        """At once, as a crash would."""
        self._run("pg_ctl", "-D", str(self._home / "data"), "-m", "immediate", "stop", check=False)

    def _run(self, name: str, *arguments: str, check: bool = True) -> None:
        command = [*self._as, str(self._bin / name), *arguments]
        subprocess.run(command, cwd=self._home, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
