"""What a change of the configuration would do, before it is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway_app.adminpages.combinations import without_effect
from gateway_app.core.vigil import Figures
from gateway_app.previewing.differences import Difference, differences
from gateway_app.previewing.present import Present, present
from gateway_app.previewing.previewload import (
    BatchPreview,
    BreakerPreview,
    changes_breakers,
    preview_batches,
    preview_breakers,
)
from gateway_app.previewing.previewring import RingPreview, changes_ring, preview_ring

Payload = Mapping[str, Any]

# What is judged as it happens, from more than what is recorded.
_NOT_REPLAYED = ("slow_factor", "silence_ms")
_CACHES = ("cache_entries", "cache_mib", "hot_cache")
_MODEL_CACHES = ("cached", "cache_entries")


@dataclass(frozen=True, slots=True)
class Preview:
    """Each part is there only if the change concerns it. `missing` says what could not be told, and why."""

    differences: list[Difference]
    ring: RingPreview | None = None
    breakers: list[BreakerPreview] | None = None
    quiet_breakers: int = 0
    batches: list[BatchPreview] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    figures: Figures | None = None  # of now, which a guard compares with


def preview(before: Payload, after: Payload) -> Preview:
    """For any thread but the loop's; takes some seconds for the largest rings."""
    found = differences(before, after)
    if not found:
        return Preview(found)
    ring = preview_ring(before, after) if changes_ring(before, after) else None
    replayed = changes_breakers(before, after)
    now = present(with_records=replayed)
    breakers, quiet = None, 0
    missing = []
    if now is None:
        missing.append(
            "No gateway runs in this process, so nothing is known of the load and of what workers keep: look at this"
            " page in the admin of a running gateway."
        )
    elif replayed:
        breakers, quiet = preview_breakers(before, after, now)
    if any(before["tuning"][name] != after["tuning"][name] for name in _NOT_REPLAYED):
        missing.append("Slowness and silence can't be replayed: outcomes are recorded, and not how long each one took.")
    if _changes_caches(before, after):
        missing.append(
            "How many requests the caches will answer is not foreseen, so what models have to run is taken as it is"
            " now. The hit rates on the dashboard tell what became of it."
        )
    return Preview(
        found,
        ring,
        breakers,
        quiet,
        preview_batches(before, after, now, _growth(ring)) if now is not None else [],
        list(_effects(before, after, now)),
        [each for each in without_effect(after) if each not in without_effect(before)],
        missing,
        now.figures if now is not None else None,
    )


def _changes_caches(before: Payload, after: Payload) -> bool:
    if any(before["tuning"][name] != after["tuning"][name] for name in _CACHES):
        return True
    old, new = ({row["name"]: row for row in payload.get("models", ())} for payload in (before, after))
    return any(
        old.get(name, {}).get(field) != new.get(name, {}).get(field)
        for name in old.keys() | new.keys()
        for field in _MODEL_CACHES
    )


def _growth(ring: RingPreview | None) -> dict[str, float]:
    """By worker, how many times its present part of the keys it will have."""
    if ring is None:
        return {}
    return {share.worker: share.after / share.before for share in ring.shares if share.before > 0}


def _effects(before: Payload, after: Payload, now: Present | None) -> Iterator[str]:
    """What is forgotten, let go, or felt at once."""
    cached = now.cached if now is not None else {}
    yield from _of_workers(before, after, cached)
    old, new = before["tuning"], after["tuning"]
    for worker, (results, size_bytes) in sorted(cached.items()):
        kept = min(results, new["cache_entries"])
        if new["cache_entries"] < old["cache_entries"] and kept < results:
            yield f"{worker} forgets {results - kept:,} of its {results:,} results: the longest unused."
        elif new["cache_mib"] < old["cache_mib"] and size_bytes > new["cache_mib"] * 2**20:
            yield f"{worker} keeps {new['cache_mib']:,} MiB of its {size_bytes / 2**20:,.1f} MiB of results."
    if old["hot_cache"] and not new["hot_cache"] and now is not None and now.hot_entries:
        yield f"The gateway forgets the {now.hot_entries:,} results that it keeps itself; workers answer all."
    if old["default_model"] != new["default_model"]:
        said = new["default_model"] or "the model of MODEL_PATH, or none"
        yield f"Requests to /infer that name no model get another one: {said}."
    models = [{row["name"]: row for row in payload.get("models", ())} for payload in (before, after)]
    for name in sorted(models[0].keys() | models[1].keys()):
        if models[0].get(name) != models[1].get(name):
            yield f"The gateway forgets the hottest results of the model {name}, and asks its workers again."
    yield from _of_time(old, new, now)


def _of_workers(before: Payload, after: Payload, cached: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    there = [{row["name"]: row for row in payload["workers"] if row["enabled"]} for payload in (before, after)]
    for name in sorted(there[0].keys() - there[1].keys()):
        results = f", and the {cached[name][0]:,} results in its cache are of no use" if name in cached else ""
        yield f"{name} is let go: the state of its breaker is forgotten{results}. Drain it first to hand them on."
    for name in sorted(there[1].keys() - there[0].keys()):
        yield f"The gateway connects to {name}; until it does, the next in line answer its inputs."
    for name in sorted(there[0].keys() & there[1].keys()):
        old, new = there[0][name], there[1][name]
        if (old["host"], old["port"]) != (new["host"], new["port"]):
            yield f"The gateway leaves {name} at {old['host']} port {old['port']} once what it has there is answered."


def _of_time(old: Mapping[str, Any], new: Mapping[str, Any], now: Present | None) -> Iterator[str]:
    p99_ms = now.figures.p99_ms if now is not None else None
    limit = new["request_timeout_ms"]
    if limit < old["request_timeout_ms"] and p99_ms is not None and p99_ms > limit / 2:
        yield f"p99 is {p99_ms:,.1f} ms now; a second worker is asked after half of the new time, {limit / 2:,g} ms."
