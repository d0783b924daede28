"""manage.py runnode: a worker on one port."""

from __future__ import annotations

import re
import socket
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from inference_site import lifecycle
from inference_site.checks import require_public_settings
from inference_site.ports import PortError, listen
from inference_site.server import serve


class Command(BaseCommand):
    """Starts a worker."""

    help = "Starts a worker that serves one ONNX model."
    requires_system_checks = ()  # it is told its model here, not by MODEL_PATH alone

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("port", type=int)
        parser.add_argument("node_id", help="the worker's stable name, such as worker_1: its keys follow the name")
        parser.add_argument("model_path", nargs="?", type=Path, help="an .onnx file (default: MODEL_PATH)")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--fd", type=int, help="an inherited listening socket, instead of --host and PORT")

    def handle(self, *args: Any, **options: Any) -> None:
        from worker_app.engine import ModelError
        from worker_app.record import RecordError

        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", options["node_id"]):
            raise CommandError(f"node id {options['node_id']!r} is not 1 to 100 of letters, digits, '.', '_', '-'")
        require_public_settings(options["host"])
        try:
            sock = (
                listen(options["host"], options["port"], "PORT")
                if options["fd"] is None
                else socket.socket(fileno=options["fd"])
            )
            model = (options["model_path"] or settings.MODEL_PATH).resolve()
            last_run = settings.STATE_DIR / f"running-{options['node_id']}-{options['port']}"
            lifecycle.use(lifecycle.WorkerService(options["node_id"], model, last_run))
        except (ModelError, RecordError, PortError) as error:
            raise CommandError(str(error)) from error
        serve(sock)
