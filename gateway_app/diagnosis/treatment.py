"""diagnose --model --apply: what the doctor proposes becomes the settings of a model that is served here."""

from __future__ import annotations

from pathlib import Path

import msgspec
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import Error as DatabaseError

from gateway_app import modelcontrol
from gateway_app.databaseaway import does_not_answer
from inference_site.lib.record import Record
from worker_app.doctor.identity import FILE, name_of, record_of
from worker_app.doctor.report import Chart
from worker_app.record import RecordError


class ApplyError(Exception):
    """The settings could not be saved; the message says why, and what mends it."""


def served_name(file: Path) -> str:
    """The name under which workers started with these settings serve the file; "" if they do not."""
    path, repository, single = file.resolve(), settings.MODEL_REPOSITORY, settings.MODEL_PATH
    if repository is not None and path.name == FILE and path.parent.parent.parent == repository.resolve():
        return path.parent.parent.name if path.parent.name.isdigit() else ""
    if single is not None and path == single.resolve():
        try:
            return name_of(file, record_of(file))
        except RecordError:  # the examination says it in full
            return file.stem
    return ""


def why_not_served(file: Path) -> str:
    folder = settings.MODEL_REPOSITORY or "MODEL_REPOSITORY"
    return (
        f"--apply: no worker serves {file}, so there are no settings to save; put it at"
        f" {folder}/<name>/<version>/{FILE}, or set MODEL_PATH to it"
    )


def apply(name: str, chart: Chart) -> None:
    """Saves them, and orders workers to load the model with them. Raises ApplyError."""
    try:
        modelcontrol.order(name, True, msgspec.convert(chart.proposed, Record))
    except ValidationError as error:
        raise ApplyError(f"the settings of {name!r} can't be saved: {' '.join(error.messages)}") from None
    except DatabaseError as error:
        raise ApplyError(
            f"the settings of {name!r} can't be saved: {does_not_answer(error)}, and run manage.py migrate if it is new"
        ) from None
