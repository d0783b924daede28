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

    help = "Starts a worker that serves ONNX models: one file, a repository of them, or both."
    requires_system_checks = ()  # it is told its model here, not by MODEL_PATH alone

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("port", type=int)
        parser.add_argument("node_id", help="the worker's stable name, such as worker_1: its keys follow the name")
        parser.add_argument("model_path", nargs="?", type=Path, help="an .onnx file (default: MODEL_PATH)")
        parser.add_argument(
            "--repository",
            type=Path,
            metavar="DIR",
            help="a folder of models, NAME/VERSION/model.onnx (default: MODEL_REPOSITORY)",
        )
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--fd", type=int, help="an inherited listening socket, instead of --host and PORT")

    def handle(self, *args: Any, **options: Any) -> None:
        from worker_app.engine import ModelError

        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", options["node_id"]):
            raise CommandError(f"node id {options['node_id']!r} is not 1 to 100 of letters, digits, '.', '_', '-'")
        require_public_settings(options["host"])
        try:
            sock = (
                listen(options["host"], options["port"], "PORT")
                if options["fd"] is None
                else socket.socket(fileno=options["fd"])
            )
            last_run = settings.STATE_DIR / f"running-{options['node_id']}-{options['port']}"
            lifecycle.use(lifecycle.WorkerService(options["node_id"], *_models(options), last_run))
        except (ModelError, PortError) as error:
            raise CommandError(str(error)) from error
        serve(sock)


def _models(options: dict[str, Any]) -> tuple[Path | None, Path | None]:
    """The file and the folder that it serves; the model that comes with the project only if it is told of nothing."""
    repository = options["repository"] or settings.MODEL_REPOSITORY
    model = options["model_path"] or settings.MODEL_PATH
    if repository is not None and options["model_path"] is None and settings.MODEL_PATH_IS_DEFAULT:
        model = None
    return model and model.resolve(), repository and repository.resolve()
