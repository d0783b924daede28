"""manage.py rungateway: a gateway on one port."""

from __future__ import annotations

import logging
import socket
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseUnavailable
from django.db import connection

from gateway_app.config import Address, register_workers, with_workers
from gateway_app.preparation import needs_migration
from inference_site import lifecycle
from inference_site.checks import require_public_settings
from inference_site.ports import PortError, listen
from inference_site.server import serve

logger = logging.getLogger(__name__)


def parse_worker(text: str) -> tuple[str | None, str, int]:
    """(name or None, host, port) of `[NAME=]HOST:PORT`. Raises CommandError."""
    name, _, address = text.rpartition("=")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise CommandError(
            f"{text!r} is not a worker; write HOST:PORT or NAME=HOST:PORT, such as worker_1=127.0.0.1:8001"
        )
    return name or None, host.strip("[]"), int(port)


class Command(BaseCommand):
    """Starts a gateway."""

    help = "Starts a gateway. Workers given here are written to the database and the others there are disabled."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("workers", nargs="*", metavar="[NAME=]HOST:PORT", help="none: the workers in the database")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
        parser.add_argument(
            "--grpc-port", type=int, default=settings.GRPC_PORT, help="of gRPC, 0: none (default: GRPC_PORT, else none)"
        )
        parser.add_argument("--fd", type=int, help="an inherited listening socket, instead of --host and --port")

    def handle(self, *args: Any, **options: Any) -> None:
        workers = [parse_worker(text) for text in options["workers"]]
        try:
            require_public_settings(options["host"])
            sock = (
                listen(options["host"], options["port"], "--port")
                if options["fd"] is None
                else socket.socket(fileno=options["fd"])
            )
            if options["grpc_port"] and options["fd"] is None:
                listen(options["host"], options["grpc_port"], "--grpc-port").close()  # or it says why not
        except (ImproperlyConfigured, PortError) as error:
            raise CommandError(str(error)) from error
        lifecycle.use(lifecycle.GatewayService(not_written(workers), options["host"], options["grpc_port"]))
        serve(sock)


def not_written(workers: Sequence[Address]) -> Sequence[Address]:
    """Writes the workers to the database; all of them again if it is away. Raises CommandError."""
    try:
        if workers:
            register_workers(workers)
    except DatabaseUnavailable as error:
        if connection.connection is not None and needs_migration():
            raise CommandError("the database lacks tables or columns: run `manage.py migrate` first") from error
        try:
            with_workers({}, workers)
        except ValueError as wrong:
            raise CommandError(str(wrong)) from wrong
        logger.warning("The database does not answer (%s): the workers given are written to it once it does", error)
        return workers
    except ValueError as error:
        raise CommandError(str(error)) from error
    return ()
