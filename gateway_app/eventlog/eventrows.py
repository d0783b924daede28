"""Events as rows of the database: written by the gateway that saw them, or along with the change that they tell of."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from django.db import transaction
from django.utils import timezone

from gateway_app import revisions

if TYPE_CHECKING:
    from gateway_app.models import Event

KEPT = 100_000
# Rows beyond KEPT are removed in so large steps: not with every write.
TRIM_STEP = 100
REASON = 1000  # characters
# How many numbers are looked through after a start, and how many that have been looked through before.
LOOK_BACK, OVERLAP = 10_000, 1000


def record(
    kind: str,
    reason: str,
    *,
    worker: str = "",
    model: str = "",
    before: str = "",
    after: str = "",
    author: str = "",
) -> None:
    """Writes an event that is no single gateway's, such as an operator's action: each gateway shows it once.

    For a thread, within the `recorded` block of the change that it tells of: both are there, or neither, and the
    revision gets no event of its own.
    """
    from gateway_app.models import Event

    event = Event(
        at=timezone.now(),
        kind=kind,
        reason=clean(reason),
        worker=worker,
        model=model,
        before=before,
        after=after,
        author=author,
    )
    write([event])
    revisions.told()


def write(events: Collection[Event]) -> None:
    """Writes rows, as long as what is in them may be; now and then the oldest are removed."""
    from gateway_app.models import Event

    if not events:
        return
    for event in events:
        for name in ("gateway", "worker", "model", "before", "after", "author"):
            most = getattr(Event._meta.get_field(name), "max_length", None)
            setattr(event, name, clean(getattr(event, name))[:most])
    with transaction.atomic():
        Event.objects.bulk_create(events)
        newest = Event.objects.order_by("-id").values_list("id", flat=True)[0]
        if newest % TRIM_STEP < len(events):
            # By number and not by counting: that takes as long for 100,000 rows as for ten.
            Event.objects.filter(id__lte=newest - KEPT).delete()


def told_since(last: int | None) -> tuple[int, list[Event]]:
    """The events of `record` after the one with this number, oldest first, and the newest number of all. None: of all
    times, the newest.

    Some from before are among them: of two that are written at once, the one with the higher number may be seen first.
    """
    from gateway_app.models import Event

    newest = Event.objects.order_by("-id").values_list("id", flat=True).first() or 0
    since = newest - LOOK_BACK if last is None else last - OVERLAP
    rows = Event.objects.filter(id__gt=since, gateway="").order_by("-id")[:OVERLAP]
    return newest, list(rows)[::-1]


def clean(text: str) -> str:
    """Of what a worker or a client has worded in part: not long, and without what PostgreSQL takes in no text."""
    return str(text)[:REASON].replace("\0", "").encode(errors="replace").decode()
