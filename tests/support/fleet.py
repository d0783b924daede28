"""A gateway and workers as processes that a test kills, stops and starts again itself: nobody else restarts them."""

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from tests.e2e.adminsite import AdminSite
from tests.support.cluster import MANAGE, Endpoints, Server, environment, manage, prepare_database
from tests.support.ports import free_ports
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S

USER, PASSWORD = "operator", "a-password-for-tests"


class Fleet(Endpoints):
    """Ready on entry, gone on exit.

    `program` runs in place of manage.py; `env_of(name)` adds to the environment of "gateway" or a worker. `ports` says
    at which port the gateway finds each worker, where that is not its own.
    """

    def __init__(
        self,
        directory: Path,
        model: Path,
        *,
        workers: int = 3,
        program: Sequence[str] = MANAGE,
        env_of: Callable[[str], Mapping[str, str]] = lambda name: {},
        ports: Callable[[Mapping[str, int]], Mapping[str, int]] = lambda own: own,
    ) -> None:
        self.names = [f"worker_{number}" for number in range(1, workers + 1)]
        gateway_port, *own = free_ports(workers + 1)
        self.own_ports = dict(zip(self.names, own, strict=True))
        self.ports = ports(self.own_ports)
        self.gateway_url = f"http://127.0.0.1:{gateway_port}"
        self.worker_urls = {name: f"http://127.0.0.1:{port}" for name, port in self.own_ports.items()}
        self._directory = directory
        self.env = environment(directory, {"INFERENCE_TOKEN": "a-token-for-tests", "INFERENCE_WORKERS": str(workers)})
        self._program = program
        self._env_of = env_of
        self.model = model
        self._stack = ExitStack()
        self.running: dict[str, Server] = {}

    def __enter__(self) -> Self:
        try:
            for name in self.names:
                self.start(name, wait=False)
            prepare_database(self._directory, self.env)
            made = {**self.env, "DJANGO_SUPERUSER_PASSWORD": PASSWORD}
            account = ("--noinput", "--username", USER, "--email", "operator@example.com")
            manage("createsuperuser", *account, env=made).check_returncode()
            self.start("gateway")
            self.wait_until_connected()
        except BaseException as error:
            self.__exit__()
            for name, server in self.running.items():
                error.add_note(f"{name}, {server.process.returncode}: {server.log[-2000:]}")
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, name: str, *, wait: bool = True) -> Server:
        """Starts "gateway" or a worker, which must not be running."""
        if name == "gateway":
            url = self.gateway_url
            workers = [f"{each}=127.0.0.1:{port}" for each, port in self.ports.items()]
            arguments = ["rungateway", *workers, "--port", url.rpartition(":")[2]]
        else:
            url = self.worker_urls[name]
            arguments = ["runnode", str(self.own_ports[name]), name, str(self.model)]
        server = Server(arguments, url, {**self.env, **self._env_of(name)}, self._program)
        self.running[name] = self._stack.enter_context(server)
        return server.wait_ready() if wait else server

    def alive(self, name: str) -> bool:
        """Whether its process runs."""
        return self.running[name].process.poll() is None

    def pid(self, name: str) -> int:
        return self.running[name].process.pid

    def kill(self, name: str) -> None:
        """As kill -9 does; it is gone on return."""
        with suppress(ProcessLookupError):
            os.kill(self.pid(name), signal.SIGKILL)
        self.running[name].process.wait(timeout=PATIENCE_S)

    def worker(self, name: str) -> dict[str, Any]:
        """What the gateway says of it."""
        return next(each for each in self.stats()["workers"] if each["name"] == name)

    def breaker(self, name: str) -> dict[str, Any]:
        return next(each for each in self.stats()["circuit_breakers"] if each["name"] == name)

    def tune(self, **values: object) -> None:
        """Saves these values in the admin and returns when they are in force in the gateway and in its workers."""
        site = AdminSite(self.gateway_url, USER, PASSWORD)
        try:
            site.tune(**values)
            revision = site.newest_revision()
        finally:
            site.close()
        self.wait_for_revision(revision)

    def change_worker(self, name: str, **values: object) -> None:
        """As `tune`, for a row of the list of workers."""
        site = AdminSite(self.gateway_url, USER, PASSWORD)
        try:
            site.change_worker(name, **values)
        finally:
            site.close()

    def wait_for_revision(self, revision: int, timeout_s: float = PATIENCE_S) -> None:
        """Until it is in force in the gateway and in every worker that runs."""

        def in_force() -> bool:
            workers = [self.health(name)["settings"]["revision"] for name in self.names if self.alive(name)]
            return min(self.stats()["gateway"]["revision"], *workers) >= revision

        wait_until(f"revision {revision} is in force everywhere", in_force, timeout_s)


def write_whole(path: Path, values: Mapping[str, object]) -> None:
    """As JSON, so that a reader never finds half of it."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values))
    part.replace(path)
