"""Every change of the configuration leaves a revision that all gateways then follow."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.db import models, transaction
from django.dispatch import Signal

from gateway_app.changes import describe

# Sent once the transaction that wrote a revision has been committed, in the process that wrote it.
revision_saved = Signal()
# Of workers and models: what an operator orders once, and how many orders there were.
ORDERS = ("order", "order_number")
# Revisions that are kept: how long one can look back.
KEPT = 1000


@dataclass(slots=True)
class Recording:
    """What came of a `recorded` block once it has ended: its revision, if it made one, and the one before."""

    revision: "Revision | None" = None
    previous: "Revision | None" = None
    told: bool = False  # an event of its own tells of the change


_recording: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextmanager
def recorded(author: str = "", note: str = "", comment: str = "") -> Iterator[Recording]:
    """One transaction whose changes of rows, however many, become one revision; none if nothing changed.

    Within another `recorded` it joins that one, and its own Recording stays empty. `author` is a user's name, empty for
    the command line; `note` says where the change came from, `comment` is its author's own reason.
    """
    made = Recording()
    if _recording.get() is not None:
        yield made
        return
    token = _recording.set(made)
    try:
        with transaction.atomic():
            queue()
            yield made
            _write_revision(made, author, note, comment)
    finally:
        _recording.reset(token)


def queue() -> None:
    """Waits until nobody else changes the configuration; until the transaction that this is in ends, nobody else will.

    In PostgreSQL, two changes at once would each leave the other's out of its payload. Before any other row is locked:
    of two who lock the same rows in another order, one fails.
    """
    from gateway_app.tuning import Tuning  # it is built on this module

    Tuning.objects.select_for_update().filter(pk=Tuning.ONLY).first()


def told() -> None:
    """An event tells of what this block changes: its revision needs none."""
    recording = _recording.get()
    if recording is not None:
        recording.told = True


def payload_of_rows() -> dict[str, Any]:
    """The configuration as its rows are now, in the form that revisions keep."""
    from gateway_app.models import Canary, ModelRecord, Tuning, Worker  # they are built on this module

    # Without a row to lock yet, before the first revision, writers queue here: before they read each other's rows.
    tuning, _ = Tuning.objects.select_for_update().get_or_create(pk=Tuning.ONLY)
    return {
        "workers": list(Worker.objects.order_by("name").values(*Worker.PAYLOAD)),
        "models": list(ModelRecord.objects.order_by("name").values(*ModelRecord.PAYLOAD)),
        "tuning": {field: getattr(tuning, field) for field in Tuning.PAYLOAD},
        "canary": list(Canary.objects.values(*Canary.PAYLOAD)),
    }


def _write_revision(made: Recording, author: str, note: str, comment: str) -> None:
    from gateway_app.operating.guards import supersede  # it is built on this module

    payload = payload_of_rows()
    newest = made.previous = Revision.objects.order_by("-id").first()
    before = completed(newest.payload) if newest else {}
    if before != payload:
        summary = describe(before, payload)
        said = f"{note}: {summary}" if note else summary
        made.revision = Revision.objects.create(author=author, summary=said, comment=comment, payload=payload)
        _tell(made.revision)
        if without_orders(before) != without_orders(payload):
            supersede(made.revision)
        for last in Revision.objects.order_by("-id").values_list("id", flat=True)[KEPT : KEPT + 1]:
            Revision.objects.filter(id__lte=last).delete()
        transaction.on_commit(lambda: revision_saved.send(sender=Revision), robust=True)


def without_orders(payload: Any) -> dict[str, Any]:
    """The configuration as it stays: without what operators have ordered once."""
    return {
        key: [{name: value for name, value in row.items() if name not in ORDERS} for row in rows]
        if key in ("workers", "models")
        else rows
        for key, rows in payload.items()
    }


def _tell(revision: "Revision") -> None:
    from gateway_app.eventlog import eventrows  # it is built on this module

    recording = _recording.get()
    if recording is not None and not recording.told:
        why = f" ({revision.comment})" if revision.comment else ""
        eventrows.record("config", f"revision {revision.pk}: {revision.summary}{why}", author=revision.author)


def completed(payload: Any) -> dict[str, Any]:
    """What an older version stored, with the defaults of what it did not know: an upgrade alone changes nothing.

    {} for what is beyond recognition.
    """
    from gateway_app.models import ModelRecord, Tuning, Worker

    try:
        return {
            "workers": [_defaults(Worker) | row for row in payload.get("workers", [])],
            "models": [_defaults(ModelRecord) | row for row in payload.get("models", [])],
            "tuning": _defaults(Tuning) | payload.get("tuning", {}),
            "canary": payload.get("canary", []),
        }
    except (AttributeError, TypeError):  # edited by hand, beyond recognition
        return {}


def _defaults(model: Any) -> dict[str, Any]:
    return {name: model._meta.get_field(name).get_default() for name in model.PAYLOAD}


class RecordedQuerySet(models.QuerySet[Any]):
    """Bulk changes are recorded as single ones are."""

    def update(self, **values: Any) -> int:
        with recorded():
            return super().update(**values)

    def delete(self) -> tuple[int, dict[str, int]]:
        with recorded():
            return super().delete()


class Recorded(models.Model):
    """A row of the configuration: saving or deleting it writes a revision in the same transaction."""

    objects = RecordedQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        with recorded():
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with recorded():
            return super().delete(*args, **kwargs)


class Revision(models.Model):
    """The whole configuration as it was from some moment on; never changed, and the newest 1,000 are kept."""

    created = models.DateTimeField(auto_now_add=True)
    author = models.CharField(max_length=150, blank=True, help_text="Who saved it; empty for the command line.")
    summary = models.TextField(help_text="What changed.")
    comment = models.TextField(blank=True, help_text="Why, in the words of who saved it.")
    payload = models.JSONField()

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"revision {self.pk}"
