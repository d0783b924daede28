"""What differs between two configurations, row by row, for people: labels as in the forms, values with their units."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from gateway_app.models import Canary, ModelRecord, Tuning, Worker
from gateway_app.revisions import ORDERS

Payload = Mapping[str, Any]
Row = Mapping[str, Any]

_HIDDEN = ("name", "named", *ORDERS)
_UNIT = re.compile(r"^(.*) \(([^()]+)\)$")


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that differs. `of` says whose it is: Tuning, or a worker or model by name."""

    of: str
    what: str
    before: str
    after: str


def differences(before: Payload, after: Payload) -> list[Difference]:
    """What changes from one to the other; orders that were carried out once are no part of it."""
    found = list(_values("Tuning", Tuning, before.get("tuning", {}), after.get("tuning", {})))
    for kind, title, model in (("workers", "Worker", Worker), ("models", "Model", ModelRecord)):
        old = {row["name"]: row for row in before.get(kind, ())}
        new = {row["name"]: row for row in after.get(kind, ())}
        for name in sorted(old.keys() | new.keys()):
            found += _row(f"{title} {name}", model, old.get(name), new.get(name))
    found += _row(
        "Canary", Canary, next(iter(before.get("canary", ())), None), next(iter(after.get("canary", ())), None)
    )
    return found


def _row(of: str, model: Any, before: Row | None, after: Row | None) -> Iterator[Difference]:
    if before is None and after is not None:
        yield Difference(of, "", "", "added" if model is not ModelRecord else "settings added")
        before = {name: model._meta.get_field(name).get_default() for name in model.PAYLOAD}
    elif after is None and before is not None:
        yield Difference(of, "", "there" if model is not ModelRecord else "settings", "removed")
        return
    yield from _values(of, model, before or {}, after or {})


def _values(of: str, model: Any, before: Row, after: Row) -> Iterator[Difference]:
    for name in model.PAYLOAD:
        if name not in _HIDDEN and name in after and before.get(name) != after[name]:
            label, unit = _label(model, name)
            was, becomes = before.get(name), after[name]
            if name == "port":  # a number that counts nothing
                was, becomes = str(was), str(becomes)
            yield Difference(of, label, _told(was, unit), _told(becomes, unit))


@cache
def _label(model: Any, name: str) -> tuple[str, str]:
    """A field as its form calls it, and its unit."""
    title = str(model._meta.get_field(name).verbose_name)
    found = _UNIT.match(title)
    return (found[1], found[2]) if found else (title, "")


def _told(value: object, unit: str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value in (None, "", {}):
        return "as usual"
    if isinstance(value, Mapping):  # fields of the tuning
        return ", ".join(
            f"{label} {_told(each, of)}" for name, each in value.items() for label, of in [_label(Tuning, name)]
        )
    number = f"{value:,g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return f"{number} {unit}" if unit else number
