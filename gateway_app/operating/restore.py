"""Going back to an earlier configuration, as one new revision."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError
from django.db.models import Max

from gateway_app.adminpages.combinations import new_conflicts
from gateway_app.models import Canary, ModelRecord, Revision, Tuning, Worker, recorded
from gateway_app.revisions import ORDERS, completed, payload_of_rows
from gateway_app.snapshot import InvalidConfig, parse


class RestoreRefused(ValueError):
    """Why a revision cannot be in force again, as a sentence with what to do."""


def payload_of(number: int) -> dict[str, Any]:
    """What a revision stored, with the defaults of what its version did not know. Raises RestoreRefused."""
    stored = Revision.objects.filter(pk=number).values_list("payload", flat=True).first()
    if stored is None:
        raise RestoreRefused(f"There is no revision {number} (any more): only the newest 1,000 are kept.")
    try:
        parse(number, stored)
    except InvalidConfig as error:
        raise RestoreRefused(f"Revision {number} cannot be in force any more: {error}") from None
    return completed(stored)


def restore(
    number: int, author: str, comment: str = "", *, whatever: bool = False, seen: int | None = None
) -> Revision | None:
    """Makes workers, models, tuning and canary what they were in a revision; None if they are so already.

    Orders are not given again: their numbers only go up. Settings that do not go together are refused, unless
    `whatever` they are they come back, because what is in force now is worse. Raises RestoreRefused, also if by now
    another revision is the newest than the one that was `seen`.
    """
    payload = payload_of(number)
    try:
        with recorded(author=author, note=f"restored revision {number}", comment=comment) as made:
            before = Revision.objects.aggregate(last=Max("id"))["last"] or 0
            if seen not in (None, before):
                raise RestoreRefused(f"Revision {before} has been saved meanwhile: look at what would be changed now.")
            found = [] if whatever else new_conflicts(payload_of_rows(), payload)
            if found:
                raise RestoreRefused(f"Revision {number} cannot be restored. {found[0].sentence}")
            _restore_workers(payload["workers"], before)
            _restore_models(payload["models"], before)
            _restore_tuning(payload["tuning"])
            _restore_canary(payload["canary"], author)
    except IntegrityError as error:
        raise RestoreRefused(f"Revision {number} cannot be restored, the database refuses it: {error}") from None
    return made.revision


def _restore_workers(rows: list[dict[str, Any]], last: int) -> None:
    wanted = {row["name"]: row for row in rows}
    present = {worker.name: worker for worker in Worker.objects.all()}
    # A row whose name is not wanted, at an address that is, has got another name since: it stays the same row.
    renamed = {(worker.host, worker.port): worker for name, worker in present.items() if name not in wanted}
    chosen: list[tuple[Worker, dict[str, Any]]] = []
    for name, row in wanted.items():
        worker = present.get(name) or renamed.pop((row["host"], row["port"]), None)
        if worker is None or worker.name != name:
            # Some gateway may remember orders of that name: none of those is given again.
            worker = worker or Worker()
            worker.order, worker.order_number = "", last
        chosen.append((worker, {key: value for key, value in row.items() if key not in ORDERS}))
    kept = {worker.pk for worker, _ in chosen if worker.pk is not None}
    if leaving := [worker.pk for worker in present.values() if worker.pk not in kept]:
        Worker.objects.filter(pk__in=leaving).delete()
    changed = [(worker, row) for worker, row in chosen if _differs(worker, row)]
    for worker, row in changed:
        # Names and addresses may be swapped among them: first all out of the way, to what no form would take.
        if worker.pk is not None and any(getattr(worker, key) != row[key] for key in ("name", "host", "port")):
            Worker.objects.filter(pk=worker.pk).update(name=f"#{worker.pk}", host=f"#{worker.pk}")
    for worker, row in changed:
        _take(worker, row)


def _restore_models(rows: list[dict[str, Any]], last: int) -> None:
    present = {row.name: row for row in ModelRecord.objects.all()}
    names = {row["name"] for row in rows}
    if leaving := [row.pk for name, row in present.items() if name not in names]:
        ModelRecord.objects.filter(pk__in=leaving).delete()
    for row in rows:
        record = present.get(row["name"]) or ModelRecord(order_number=last)
        _take(record, {key: value for key, value in row.items() if key not in ORDERS})


def _restore_tuning(values: dict[str, Any]) -> None:
    tuning, _ = Tuning.objects.get_or_create(pk=Tuning.ONLY)
    _take(tuning, values)


def _restore_canary(rows: list[dict[str, Any]], author: str) -> None:
    if list(Canary.objects.values(*Canary.PAYLOAD)) == rows:
        return  # it goes on, as long as it has been going on
    Canary.objects.all().delete()
    for row in rows:
        Canary.objects.create(**row, author=author)


def _differs(record: Any, values: dict[str, Any]) -> bool:
    return record.pk is None or any(getattr(record, key) != value for key, value in values.items())


def _take(record: Any, values: dict[str, Any]) -> None:
    if _differs(record, values):
        for key, value in values.items():
            setattr(record, key, value)
        record.save()
