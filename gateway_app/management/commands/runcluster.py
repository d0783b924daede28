"""`manage.py runcluster`: a gateway and its workers on this machine, from nothing, until Ctrl-C."""

import http.client
import json
import os
import secrets
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from socket import socket
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from gateway_app.preparation import Preparation
from inference_site.checks import require_public_settings
from inference_site.child import ChildSpec
from inference_site.console import Console
from inference_site.ports import PortError, address_of, listen
from inference_site.supervisor import Stage, Supervisor, SupervisorError

# Of these, the last 2 s are for the process to end after its drain: together with killing, below 10 s.
GATEWAY_STOP_WAIT_S, WORKER_STOP_WAIT_S = 6.0, 3.0


class Command(BaseCommand):
    help = (
        "Migrates the database, starts a gateway and its workers, restarts what dies; Ctrl-C or TERM drains and stops."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--workers", type=int, default=3, help="how many (default %(default)s)")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
        parser.add_argument("--port", type=int, default=8000, help="of the gateway; 0: any (default %(default)s)")
        parser.add_argument(
            "--worker-port", type=int, default=8001, help="of the first worker, 0: any (default %(default)s)"
        )
        parser.add_argument("--model", type=Path, help="an .onnx file (default: MODEL_PATH, else the one in models/)")
        parser.add_argument(
            "--repository",
            type=Path,
            metavar="DIR",
            help="a folder of models, each as NAME/VERSION/model.onnx (default: MODEL_REPOSITORY); without --model and"
            " MODEL_PATH they alone are served",
        )
        parser.add_argument(
            "--grpc-port",
            type=int,
            default=settings.GRPC_PORT,
            metavar="PORT",
            help="of the gateway's gRPC service, 0: off (default: GRPC_PORT, else off)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        host, count, model = options["host"], options["workers"], options["model"]
        if count < 1:
            raise CommandError(f"--workers is {count}; a cluster needs at least 1")
        if model is not None and not model.is_file():
            raise CommandError(f"--model is {model}, and there is no such file")
        repository, grpc_port = options["repository"], options["grpc_port"]
        if repository is not None and not repository.is_dir():
            raise CommandError(f"--repository is {repository}, and there is no such folder; make it, it may be empty")
        if not 0 <= grpc_port <= 65535:
            raise CommandError(f"--grpc-port is {grpc_port}; give a port from 1 to 65535, or 0 for no gRPC")
        require_public_settings(host)
        try:
            gateway_socket, *worker_sockets = open_sockets(host, options["port"], options["worker_port"], count)
            if grpc_port:  # the gateway opens it itself; here it is found out early whether it can
                listen(host, grpc_port, "--grpc-port").close()
        except PortError as error:
            raise CommandError(str(error)) from error

        names = [f"worker_{number}" for number in range(1, count + 1)]
        workers = dict(zip(names, worker_sockets, strict=True))
        addresses = [(name, *where(listener)) for name, listener in workers.items()]
        with closing(Console()) as console:
            database = Preparation(addresses, lambda text: console.line(text, urgent=True))
            database.begin()
            try:
                supervisor(host, gateway_socket, workers, console, database, model, repository, grpc_port).run()
            except SupervisorError as error:
                raise CommandError(str(error)) from error


def open_sockets(host: str, port: int, worker_port: int, count: int) -> list[socket]:
    """The gateway's and the workers'. This process holds them, so a process that is restarted loses no connection."""
    last = worker_port + count - 1
    if worker_port and worker_port <= port <= last:
        raise PortError(f"--port {port} lies among the workers' ports, {worker_port} to {last}: choose others")
    ports = [worker_port + number if worker_port else 0 for number in range(count)]
    return [listen(host, port, "--port"), *(listen(host, each, "--worker-port") for each in ports)]


def where(listener: socket) -> tuple[str, int]:
    """Host and port as the gateway reaches them."""
    host, _, port = address_of(listener).rpartition(":")
    return host.strip("[]"), int(port)


def supervisor(
    host: str,
    gateway_socket: socket,
    workers: dict[str, socket],
    console: Console,
    database: Preparation,
    model: Path | None = None,
    repository: Path | None = None,
    grpc_port: int = 0,
) -> Supervisor:
    manage = (sys.executable, str(settings.BASE_DIR / "manage.py"))
    env = {
        **os.environ,
        "INFERENCE_TOKEN": settings.INFERENCE_TOKEN or secrets.token_urlsafe(24),
        "INFERENCE_WORKERS": str(len(workers)),  # each takes its part of the cores
        "PYTHONUNBUFFERED": "1",
        "GRPC_PORT": str(grpc_port),
        **({} if repository is None else {"MODEL_REPOSITORY": str(repository.resolve())}),
    }
    model_argument = () if model is None else (str(model.resolve()),)

    def spec(name: str, mode: str, listener: socket, command: Callable[[], Sequence[str]]) -> ChildSpec:
        def argv() -> Sequence[str]:
            return (*manage, *command(), "--host", host, "--fd", str(listener.fileno()))

        ready = probe(address_of(listener))
        # A worker's successor waits for its end: a GPU may not have room for two models.
        return ChildSpec(name, argv, {**env, "INFERENCE_MODE": mode}, listener, ready, overlaps=mode == "gateway")

    def worker_spec(name: str, listener: socket) -> ChildSpec:
        command = ("runnode", str(listener.getsockname()[1]), name, *model_argument)
        return spec(name, "worker", listener, lambda: command)

    worker_specs = tuple(worker_spec(name, listener) for name, listener in workers.items())
    named = [f"{name}={address_of(listener)}" for name, listener in workers.items()]
    gateway_command = ("rungateway", "--port", str(gateway_socket.getsockname()[1]))
    gateway_spec = spec(
        "gateway",
        "gateway",
        gateway_socket,
        # While the database is away it does not say which workers there are.
        lambda: gateway_command if database.done else (*gateway_command, *named),
    )
    url = f"http://{address_of(gateway_socket)}"
    return Supervisor(
        [Stage(worker_specs, WORKER_STOP_WAIT_S), Stage((gateway_spec,), GATEWAY_STOP_WAIT_S)],
        console,
        ready_line=f"ready {url} (dashboard), {url}/admin/ (configuration), workers {' '.join(named)}"
        + (f", gRPC on port {grpc_port}" if grpc_port else ""),
        check=all_connected(address_of(gateway_socket), list(workers)),
    )


def get(address: str, path: str) -> tuple[int, bytes]:
    # The name that the outside knows the site by: under the bare address Django would refuse.
    known_as = next((name.lstrip(".") for name in settings.ALLOWED_HOSTS if name != "*"), address)
    with closing(http.client.HTTPConnection(address, timeout=1.0)) as client:
        client.request("GET", path, headers={"Host": known_as})
        response = client.getresponse()
        return response.status, response.read()


def probe(address: str) -> Callable[[], str]:
    def why_not_ready() -> str:
        try:
            status, body = get(address, "/readyz")
        except (OSError, http.client.HTTPException) as error:
            return f"no answer from http://{address}/readyz ({error or type(error).__name__})"
        return (
            "" if status == 200 else f"http://{address}/readyz answers {status} {body[:300].decode(errors='replace')}"
        )

    return why_not_ready


def all_connected(gateway_address: str, names: list[str]) -> Callable[[], str]:
    def why_not() -> str:
        try:
            _, body = get(gateway_address, "/stats")
            connected = {each["name"] for each in json.loads(body)["workers"] if each["connected"]}
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            return f"gateway: no usable answer from http://{gateway_address}/stats ({error!r})"
        missing = [name for name in names if name not in connected]
        return f"gateway: not connected to {', '.join(missing)}" if missing else ""

    return why_not
