"""Settings that do not go together are refused with both values; the usual ones, and what was so before, are not."""

from typing import Any

import pytest

from gateway_app.adminpages.combinations import conflicts, new_conflicts, without_effect
from gateway_app.models import ModelRecord, Tuning
from gateway_app.snapshot import parse


def defaults(model: Any) -> dict[str, Any]:
    return {name: model._meta.get_field(name).get_default() for name in model.PAYLOAD}


def payload(models=(), workers=(), **tuning):
    usual = defaults(Tuning)
    assert set(tuning) <= set(usual)
    rows = [defaults(ModelRecord) | each for each in models]
    return {"tuning": usual | tuning, "models": rows, "workers": list(workers), "canary": []}


def worker(name, **values):
    return {"name": name, "weight": 1.0, "enabled": True, "draining": False, "isolated": False, **values}


def sentences(**changes):
    return [each.sentence for each in conflicts(payload(**changes))]


def test_the_defaults_go_together():
    assert not conflicts(payload())
    assert not without_effect(payload(workers=[worker("worker_1")]))


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        (
            {"silence_ms": 10_000},
            "silence_ms",
            "A request ends after 10,000 ms (time per request), before 10,000 ms of",
        ),
        ({"request_timeout_ms": 300, "queue_ms": 300}, "silence_ms", "Take less than 300 ms here"),
        ({"queue_ms": 10_001}, "queue_ms", "nobody waits for the end of a queue of 10,001 ms. Take 10,000 ms or less"),
        ({"batch_eager": False, "batch_wait_ms": 0.0}, "batch_wait_ms", "yet 0 ms at the longest"),
        ({"cache_entries": 10_000_000, "cache_mib": 1}, "cache_entries", "10,000,000 results do not fit into 1 MiB"),
        ({"cache_entries": 32_769, "cache_mib": 1}, "cache_entries", "Take 32,768 entries or fewer, or more MiB."),
    ],
)
def test_what_defeats_itself_is_told_at_its_field(changes, field, says):
    (found,) = conflicts(payload(**changes))
    assert says in found.sentence
    assert found.fields[0] == field
    assert not found.model


@pytest.mark.parametrize(
    "changes",
    [
        {"silence_ms": 9_999},
        {"silence_ms": 0, "request_timeout_ms": 2_000},
        {"queue_ms": 10_000},
        {"batch_eager": True, "batch_wait_ms": 0.0},
        {"cache_entries": 32_768, "cache_mib": 1},
        {"cache_entries": 0, "cache_mib": 1},
    ],
)
def test_what_is_just_possible_is_not_refused(changes):
    assert not sentences(**changes)
    parse(1, payload(**changes))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"deadline_ms": 20}, "with 20 ms of waiting for a batch, a request would run into its limit of 20 ms"),
        ({"batch_wait_ms": 10_000.0}, "with 10,000 ms of waiting"),
        ({"cache_entries": 9_000_000}, "9,000,000 results do not fit into 256 MiB"),
    ],
)
def test_a_models_own_settings_are_told_with_its_name(row, says):
    (found,) = conflicts(payload(models=[{"name": "text", **row}], batch_eager=False))
    assert found.sentence.startswith("Model text: ")
    assert says in found.sentence
    assert (found.model, found.own[0]) == ("text", next(iter(row)))
    assert not conflicts(payload(models=[{"name": "text", **row, "batches": False, "cache_entries": None}]))


def test_what_was_so_before_is_no_reason_to_refuse_something_else():
    before = payload(queue_ms=20_000)
    assert not new_conflicts(before, payload(queue_ms=20_000, virtual_nodes=300))
    assert new_conflicts(before, payload(queue_ms=30_000))
    assert new_conflicts({}, before)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"retry_percent": 0}, "With 0 % of second attempts no second worker is asked"),
        ({"batch_eager": False, "batch_size": 1}, "every batch is full at once"),
        ({"cache_entries": 0}, "no results to move along"),
        (
            {"virtual_nodes": 10_000, "workers": [worker("w", weight=100.0), worker("v", weight=5.0)]},
            "1,050,000 points",
        ),
        ({"workers": [worker("w", enabled=False), worker("v", isolated=True)]}, "clients get 503"),
        ({"models": [{"name": "m", "cached": False, "cache_entries": 5}]}, "its 5 entries stay empty"),
        ({"models": [{"name": "m", "batches": False, "batch_size": 5}]}, "its 5 rows per batch do nothing"),
        ({"models": [{"name": "m", "loaded": False}], "default_model": "m"}, "who names no model gets 404"),
    ],
)
def test_what_has_no_effect_is_worth_knowing(changes, says):
    (found,) = without_effect(payload(**changes))
    assert says in found
