"""Says in words what one worker tries, for revisions, forms and pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def changes(before: Sequence[Row], after: Sequence[Row]) -> Iterator[str]:
    """What differs between two revisions' rows of canaries, as sentence parts."""
    if list(before) == list(after):
        return
    yield from (f"canary on {row['worker']} ended ({tried(row)})" for row in before)
    yield from (f"canary on {row['worker']} started ({tried(row)})" for row in after)


def tried(row: Row) -> str:
    """What a canary tries: `requests per batch 64, digits version 2`."""
    from gateway_app.tuning import Tuning  # revisions need this module, and that one needs them

    parts = [f"{Tuning._meta.get_field(name).verbose_name} {word(value)}" for name, value in row["tuning"].items()]  # type: ignore[union-attr]
    if row["model"]:
        parts.append(f"{row['model']} version {row['version']}")
    return ", ".join(parts)


def word(value: object) -> str:
    """A setting's value for people."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
