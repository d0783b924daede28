"""Says in words what differs between two configurations, as revisions keep them."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from django.apps import apps

from gateway_app.canaries import canarytext

Payload = Mapping[str, Any]
ORDER_FIELDS = ("order", "order_number")
ORDERED = {
    "trip": "breaker tripped by hand",
    "reset": "breaker reset by hand",
    "flush": "cache flushed by hand",
}


def describe(before: Payload, after: Payload) -> str:
    """One sentence part per change: `worker_1 weight 1 → 2; requests per batch 32 → 64`."""
    old, new = _by_name(before, "workers"), _by_name(after, "workers")
    parts = [f"{name} removed" for name in old if name not in new]
    for name, worker in new.items():
        if name not in old:
            parts.append(f"{name} added at {worker['host']} port {worker['port']}")
        else:
            parts += [f"{name} {change}" for change in _worker_changes(old[name], worker)]
    parts += _model_changes(_by_name(before, "models"), _by_name(after, "models"))
    if before:
        parts += _differences(before.get("tuning", {}), after["tuning"], _labels("Tuning"))
    parts += canarytext.changes(before.get("canary", ()), after.get("canary", ()))
    return "; ".join(parts) or "defaults"


def _by_name(payload: Payload, kind: str) -> dict[str, Payload]:
    return {row["name"]: row for row in payload.get(kind, ())}


def _worker_changes(before: Payload, after: Payload) -> Iterator[str]:
    if before.get("order_number") != after.get("order_number"):
        yield ORDERED.get(after["order"], "orders forgotten")
    yield from _differences(*({k: v for k, v in each.items() if k not in ORDER_FIELDS} for each in (before, after)))


def _model_changes(old: Mapping[str, Payload], new: Mapping[str, Payload]) -> Iterator[str]:
    yield from (f"settings of model {name} removed" for name in old if name not in new)
    for name, row in new.items():
        before = old.get(name, {"order_number": 0})
        ordered = before.get("order_number") != row.get("order_number")
        # An order says already whether the model is to be loaded.
        shown = {key: value for key, value in row.items() if not (ordered and key in ("order_number", "loaded"))}
        if name in old:
            yield from (f"model {name} {change}" for change in _differences(before, shown, _labels("ModelRecord")))
        else:
            own = {key: value for key, value in shown.items() if _is_said(key, value)}
            said = _differences({}, own, _labels("ModelRecord"))
            yield f"settings of model {name} added" + (f" ({', '.join(said)})" if said else "")
        if ordered:
            yield f"model {name} ordered to {'load' if row['loaded'] else 'unload'}"


def _is_said(key: str, value: object) -> bool:
    """Whether a new row's value is more than its default."""
    return (key, value) not in (("loaded", True), ("order_number", 0)) and key != "name" and value not in (None, "")


@cache
def _labels(table: str) -> dict[str, str]:
    """Its fields as their form calls them."""
    fields = apps.get_model("gateway_app", table)._meta.fields
    return {each.name: str(each.verbose_name) for each in fields}


def _differences(before: Payload, after: Payload, labels: Mapping[str, str] | None = None) -> list[str]:
    return [
        f"{_called(field, labels)} {_word(before[field])} → {_word(value)}"
        if field in before
        else f"{_called(field, labels)} {_word(value)}"
        for field, value in after.items()
        if before.get(field) != value
    ]


def _called(field: str, labels: Mapping[str, str] | None) -> str:
    return (labels or {}).get(field) or field.replace("_", " ")


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value in (None, ""):
        return "as usual"
    return f"{value:g}" if isinstance(value, float) else str(value)
