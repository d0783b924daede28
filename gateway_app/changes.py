"""Says in words what differs between two configurations, as revisions keep them."""

from collections.abc import Iterator, Mapping
from typing import Any

Payload = Mapping[str, Any]
ORDER_FIELDS = ("order", "order_number")
ORDERED = {"trip": "breaker tripped by hand", "reset": "breaker reset by hand"}


def describe(before: Payload, after: Payload) -> str:
    """One sentence part per change: `worker_1 weight 1 → 2; virtual nodes 150 → 300`."""
    old, new = _workers(before), _workers(after)
    parts = [f"{name} removed" for name in old if name not in new]
    for name, worker in new.items():
        if name not in old:
            parts.append(f"{name} added at {worker['host']} port {worker['port']}")
        else:
            parts += [f"{name} {change}" for change in _worker_changes(old[name], worker)]
    if before:
        parts += _differences(before.get("tuning", {}), after["tuning"])
    return "; ".join(parts) or "defaults"


def _workers(payload: Payload) -> dict[str, Payload]:
    return {worker["name"]: worker for worker in payload.get("workers", ())}


def _worker_changes(before: Payload, after: Payload) -> Iterator[str]:
    if before.get("order_number") != after.get("order_number"):
        yield ORDERED.get(after["order"], "orders forgotten")
    yield from _differences(*({k: v for k, v in each.items() if k not in ORDER_FIELDS} for each in (before, after)))


def _differences(before: Payload, after: Payload) -> list[str]:
    return [
        f"{field.replace('_', ' ')} {_word(before.get(field))} → {_word(value)}"
        for field, value in after.items()
        if before.get(field) != value
    ]


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
