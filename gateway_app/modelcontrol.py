"""Orders to load and unload models, as rows that every gateway follows; what `/v2/repository` and the admin write."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import Error as DatabaseUnavailable
from django.db import close_old_connections
from django.db.models import Max

from gateway_app.databaseaway import does_not_answer
from gateway_app.models import ModelRecord, Revision, recorded
from gateway_app.modeltext import read_versions, write_list
from inference_site.lib.errors import ApiError
from inference_site.lib.record import Record


def order_load(name: str, note: str = "") -> int:
    """Orders workers to load the model, or its new versions and changed files; returns the revision that says so.

    For a thread. Raises ApiError: 400 for what cannot be a model's name, 503 while the database is away.
    """
    return _order(name, True, note)


def order_unload(name: str, note: str = "") -> int:
    """Orders workers to let the model go; returns the revision that says so. Raises as order_load does."""
    return _order(name, False, note)


def order(name: str, loaded: bool, proposed: Record | None = None, version: str = "") -> ModelRecord:
    """The row of the model with the order in it, saved; it is made if there is none.

    `proposed` goes into its settings, and `version` into its list of versions, if it has one. Raises ValidationError.
    """
    with recorded():
        row = ModelRecord.objects.filter(name=name).first() or ModelRecord(name=name)
        row.take(proposed or Record())
        if version and row.versions.strip():
            row.versions = write_list(dict.fromkeys((*read_versions(row.versions), version)))
        # Workers may remember the numbers of a row that was deleted: a new one begins above all that there were.
        before = row.order_number or Revision.objects.aggregate(last=Max("id"))["last"] or 0
        row.loaded, row.order_number = loaded, before + 1
        row.full_clean()
        row.save()
        return row


def _order(name: str, loaded: bool, note: str) -> int:
    if not name:
        raise ApiError(400, "invalid_model", "the model's name is empty; name the one that is meant")
    try:
        close_old_connections()
        with recorded(note=note):
            order(name, loaded)
        return Revision.objects.order_by("-id").values_list("id", flat=True)[0]
    except ValidationError as error:
        sentence = next(iter(error.message_dict.values()))[0]
        raise ApiError(400, "invalid_model", sentence) from None
    except DatabaseUnavailable as error:
        message = does_not_answer(error, ", where orders are kept")
        raise ApiError(503, "database_away", message, retry_after_s=5) from error
    finally:
        close_old_connections()
