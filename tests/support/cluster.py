"""A real cluster for tests: `manage.py runcluster` with its own database and state, on ports the system chooses."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

from tests.support.http import get, request
from tests.support.ports import free_ports
from tests.support.processes import ROOT, Running, is_alive, wait_until
from tests.support.waiting import PATIENCE_S

MANAGE = (sys.executable, str(ROOT / "manage.py"))
# A tuning by which nothing comes of a process that is held up for a while: no worker is passed over for it, taken for
# sick or asked beside another one, nothing that waits is refused, and no breaker that is open tries by itself whether
# it may close. Who owns an input is who answers it.
CALM = {
    "load_factor": 0,
    "hedging": False,
    "slow_factor": 0,
    "silence_ms": 0,
    "check_seconds": 0,
    "open_seconds": 600,
    "queue_ms": 60_000,
    "request_timeout_ms": 60_000,
}


def environment(directory: Path, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, with database and state in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "STATE_DIR": str(directory / "state"),
        "DATABASE_URL": f"sqlite:///{directory}/db.sqlite3",
        "PYTHONUNBUFFERED": "1",
        **(overrides or {}),
    }


def manage(*arguments: str, env: Mapping[str, str], timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    """Runs a manage.py command to its end, whatever its exit status."""
    return subprocess.run(
        [*MANAGE, *arguments], cwd=ROOT, env=dict(env), capture_output=True, text=True, timeout=timeout_s, check=False
    )


def prepare_database(directory: Path, environ: Mapping[str, str], *, calm: bool = False) -> None:
    """Tables for a process that expects some, unless they are there; `calm`: with the tuning CALM."""
    file = directory / "db.sqlite3"
    if environ["DATABASE_URL"] != f"sqlite:///{file}":
        manage("migrate", "--verbosity=0", env=environ).check_returncode()
    elif not file.exists():
        file.write_bytes(_prepared(calm))


@cache
def _prepared(calm: bool) -> bytes:
    """The file of such a database. To make one takes a second, to copy it nothing."""
    script = "from django.core.management import call_command; call_command('migrate', verbosity=0)"
    if calm:
        script += f"; from gateway_app.models import Tuning; Tuning(**{CALM!r}).save()"
    with tempfile.TemporaryDirectory(prefix="inference-prepared-") as name:
        directory = Path(name)
        done = manage("shell", "--verbosity=0", "--command", script, env=environment(directory))
        assert done.returncode == 0, done.stderr
        file = directory / "db.sqlite3"
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return file.read_bytes()


# What runcluster says when it gives up after 40 s. A machine that others use may take longer once, not every time.
NOT_IN_TIME, STARTS = "not ready within", 3


def run_cluster(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a runcluster that cannot become ready to its end, on ports the system chooses; not for lack of time."""
    command = ("runcluster", "--workers", "1", "--port", "0", "--worker-port", "0", *arguments)
    for _ in range(STARTS):
        ended = manage(*command, env=env)
        if NOT_IN_TIME not in ended.stderr:
            break
    return ended


class Endpoints:
    """A gateway and workers as their clients reach them."""

    names: list[str]
    gateway_url: str
    worker_urls: dict[str, str]

    def infer(
        self,
        values: Sequence[float],
        request_id: str | None = None,
        *,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and answer of POST /infer on the gateway, or on a worker's url."""
        body = {"request_id": request_id or uuid.uuid4().hex, "input_data": list(values)}
        status, answer = request(
            "POST",
            f"{url or self.gateway_url}/infer",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **(headers or {})},
        )
        return status, json.loads(answer)

    def stats(self) -> dict[str, Any]:
        return self.get("/stats")

    def health(self, name: str) -> dict[str, Any]:
        """Of the named worker, asked directly."""
        return self.get("/health", url=self.worker_urls[name])

    def get(self, path: str, *, url: str | None = None) -> dict[str, Any]:
        status, body = get(f"{url or self.gateway_url}{path}")
        assert status == 200, f"GET {path}: {status} {body[:500]!r}"
        answer: dict[str, Any] = json.loads(body)
        return answer

    def wait_until_connected(self, names: Sequence[str] | None = None, timeout_s: float = PATIENCE_S) -> None:
        """Until the gateway has these workers (all, if not given) connected and would send them requests."""

        def connected() -> bool:
            routable = {each["name"] for each in self.stats()["workers"] if each["connected"] and each["routable"]}
            return routable.issuperset(names or self.names)

        wait_until(f"{names or self.names} are connected", connected, timeout_s)


class Server(Running):
    """One process of manage.py that serves on a port of its own: a rungateway or a runnode."""

    def __init__(
        self, arguments: Sequence[str], url: str, env: Mapping[str, str], program: Sequence[str] = MANAGE
    ) -> None:
        super().__init__([*program, *arguments], env)
        self.url = url

    @classmethod
    def worker(
        cls, directory: Path, name: str = "worker_1", *arguments: str, env: Mapping[str, str] | None = None
    ) -> Self:
        port = free_ports(1)[0]
        return cls(["runnode", str(port), name, *arguments], f"http://127.0.0.1:{port}", environment(directory, env))

    @classmethod
    def gateway(
        cls, directory: Path, *arguments: str, env: Mapping[str, str] | None = None, calm: bool = False
    ) -> Self:
        """Prepares the database first, as rungateway expects one with tables; `calm`: with the tuning CALM."""
        environ = environment(directory, env)
        prepare_database(directory, environ, calm=calm)
        port = free_ports(1)[0]
        return cls(["rungateway", *arguments, "--port", str(port)], f"http://127.0.0.1:{port}", environ)

    def wait_ready(self, timeout_s: float = PATIENCE_S) -> Self:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.argv} ended with {self.process.returncode}. Its output:\n{self.log}")
            with suppress(OSError):
                return get(f"{self.url}/readyz", timeout_s=1.0)[0] == 200
            return False

        wait_until(f"{self.url}/readyz answers 200", ready, timeout_s)
        return self


class Cluster(Endpoints, Running):
    """A gateway and its workers; ready on entry, and gone, whatever happened, on exit. `calm`: with the tuning CALM."""

    def __init__(
        self,
        directory: Path,
        *,
        workers: int = 3,
        model: Path | None = None,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        calm: bool = False,
    ) -> None:
        self.env = environment(directory, env)
        if calm:
            prepare_database(directory, self.env, calm=True)
        self.names = [f"worker_{number}" for number in range(1, workers + 1)]
        command = ["runcluster", "--workers", str(workers), "--port", "0", "--worker-port", "0", *arguments]
        if model is not None:
            command += ["--model", str(model)]
        super().__init__([*MANAGE, *command], self.env)

    def __enter__(self) -> Self:
        for left in reversed(range(STARTS)):
            super().__enter__()
            try:
                self.ready_line = self.wait_for_line(r"^ready .*$").group()
                break
            except BaseException:
                self.__exit__()
                if not left or NOT_IN_TIME not in self.log:
                    raise
        self.gateway_url = self.ready_line.split()[1]
        self.worker_urls = {name: f"http://{at}" for name, at in re.findall(r"(\w+)=([^\s,]+)", self.ready_line)}
        return self

    @property
    def password(self) -> str:
        """Of the user admin, who is made at the first start."""
        return self.wait_for_line(r"^Administrator made: user admin, password (\S+)").group(1)

    def pids(self) -> dict[str, int]:
        return {name: self.pid(name) for name in [*self.names, "gateway"]}

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends the signal to a child as it runs now, and returns its pid; after SIGKILL it is gone on return."""
        pid = self.pid(name)
        os.kill(pid, number)
        if number == signal.SIGKILL:
            wait_until(f"pid {pid} is gone", lambda: not is_alive(pid))
        return pid

    def kill_worker(self, index: int, number: signal.Signals = signal.SIGKILL) -> int:
        """index 0 is worker_1."""
        return self.kill(self.names[index], number)

    @contextmanager
    def unattended(self) -> Iterator[None]:
        """While it lasts, nothing that ends is started again: what follows from an end can be seen, however slowly."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A manage.py command on this cluster's database."""
        return manage(*arguments, env=self.env)

    def stop(self) -> None:
        status = self.terminate()
        assert status == 0, f"runcluster ended with {status} after TERM. Its output:\n{self.log}"
