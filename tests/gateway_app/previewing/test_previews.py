"""What a change would do: only what it concerns, from what is known, and said when something is not known."""

import threading

import pytest

from gateway_app.core.breaker import BreakerConfig
from gateway_app.core.outcomes import Kind, Outcome, Record
from gateway_app.core.table import Table
from gateway_app.core.vigil import Figures
from gateway_app.models import ModelRecord, Tuning, Worker
from gateway_app.previewing import previewring, previews
from gateway_app.previewing.present import ModelOnWorker, Present
from gateway_app.previewing.previewload import ROWS, _breaker_config
from gateway_app.previewing.previewring import changes_ring, preview_ring
from gateway_app.previewing.previews import preview
from gateway_app.snapshot import parse
from tests.support.waiting import PATIENCE_S


def row(model, **values):
    return {name: model._meta.get_field(name).get_default() for name in model.PAYLOAD} | values


def payload(workers=3, models=(), canary=(), **tuning):
    if isinstance(workers, int):
        rows = [row(Worker, name=f"worker_{n}", host="h", port=n) for n in range(1, workers + 1)]
    else:
        rows = workers
    return {
        "tuning": row(Tuning, **tuning),
        "workers": list(rows),
        "models": [row(ModelRecord, **each) for each in models],
        "canary": list(canary),
    }


def busy(worker="worker_1", rate=100.0, **values):
    """A model that takes 2 ms for a batch, and 1 ms more for each row in it."""
    usual = {"fixed_s": 0.002, "each_s": 0.001, "sessions": 1, "max_size": 32, "wait_s": 0.0}
    return ModelOnWorker(worker, "digits", "1", **{**usual, **values}, arrivals=(rate,) * 10)


@pytest.fixture
def knows(monkeypatch):
    """What the gateway of this process is to know; without a call there is none."""
    known: list[Present | None] = [None]
    monkeypatch.setattr(previews, "present", lambda with_records: known[0])

    def know(**values):
        known[0] = Present(**{"figures": Figures(1000, 0, 5.0), **values})

    return know


def test_nothing_changed_is_nothing_to_show(knows):
    assert preview(payload(), payload()) == previews.Preview([])


def test_without_a_gateway_the_rest_is_shown_and_the_gap_is_said(knows):
    found = preview(payload(), payload(virtual_nodes=300, failure_threshold=1, batch_size=4))
    told = [(each.of, each.what, each.before, each.after) for each in found.differences]
    assert told == [
        ("Tuning", "virtual nodes per worker", "150", "300"),
        ("Tuning", "failures that open it", "5", "1"),
        ("Tuning", "requests per batch", "32", "4"),
    ]
    assert found.ring is not None
    assert found.breakers is None
    assert found.missing == [
        "No gateway runs in this process, so nothing is known of the load and of what workers keep: look at this page"
        " in the admin of a running gateway."
    ]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"hedging": False}, set()),
        ({"virtual_nodes": 151}, {"ring"}),
        ({"share_cap_percent": 0}, {"ring"}),
        ({"failure_threshold": 1}, {"breakers"}),
        ({"open_seconds": 1}, {"breakers"}),
        ({"batch_size": 1}, {"batches"}),
        ({"cache_entries": 10}, {"effects"}),
    ],
)
def test_only_what_a_change_concerns_is_shown(knows, change, parts):
    knows(models=(busy(),), cached={"worker_1": (50, 5000)})
    found = preview(payload(), payload(**change))
    shown = {"breakers"} if found.breakers is not None else set()
    shown |= {part for part in ("ring", "batches", "effects") if getattr(found, part)}
    if "ring" in parts:
        shown -= {"batches"}  # a share that grows by a hair brings more to compute
    assert shown == parts


# --- the ring ---


def test_a_worker_less_moves_its_keys_and_no_others(knows):
    found = preview_ring(payload(3), payload(2))
    shares = {share.worker: (share.before, share.after) for share in found.shares}
    assert shares["worker_3"][1] == 0
    assert found.moved == pytest.approx(shares["worker_3"][0], abs=1.5)
    assert sum(after for _, after in shares.values()) == pytest.approx(100)
    assert not found.at_least


def test_draining_moves_keys_too():
    rows = payload(2)["workers"]
    drained = payload([{**rows[0], "draining": True}, rows[1]])
    assert changes_ring(payload(2), drained)
    found = preview_ring(payload(2), drained)
    assert {share.worker: share.after for share in found.shares} == {"worker_1": 0, "worker_2": 100}


def test_of_many_workers_those_are_shown_that_change_the_most():
    rows = payload(60)["workers"]
    heavy = payload([{**rows[0], "weight": 5.0}, *rows[1:]])
    found = preview_ring(payload(60), heavy)
    assert (len(found.shares), found.others) == (previewring.ROWS, 40)
    assert found.shares[0].worker == "worker_1"


def test_a_ring_that_takes_too_long_is_estimated_and_known_the_next_time(monkeypatch):
    go_on, finished = threading.Event(), threading.Event()

    class Slow(Table):
        def __init__(self, *args):
            go_on.wait(PATIENCE_S)
            super().__init__(*args)

    previewring._table.cache_clear()
    monkeypatch.setattr(previewring, "Table", Slow)
    monkeypatch.setattr(previewring, "PATIENCE_S", 0.01)
    release = previewring._makers.release

    def released():
        release()
        finished.set()

    monkeypatch.setattr(previewring._makers, "release", released)
    estimated = preview_ring(payload(3), payload(2))
    assert estimated.at_least
    assert estimated.moved == pytest.approx(100 / 3)
    go_on.set()
    assert finished.wait(PATIENCE_S)
    monkeypatch.setattr(previewring, "PATIENCE_S", PATIENCE_S)
    assert not preview_ring(payload(3), payload(2)).at_least


# --- breakers ---


def failing(count, at=100.0):
    """A record of an hour in which so many requests failed in a row."""
    outcomes = [Outcome(at + n, at + n, 0, 0, Kind.FAILURE, reason="down") for n in range(count)]
    return Record(tuple(outcomes), 0.0, 3600.0)


def test_breakers_are_told_the_last_hour_again(knows):
    knows(records={("worker_1", "digits", "1"): failing(3), ("worker_2", "digits", "1"): failing(0)})
    found = preview(payload(), payload(failure_threshold=3, open_seconds=12))
    shown = (found.breakers or [])[0]
    assert (shown.worker, shown.model, found.quiet_breakers) == ("worker_1", "digits version 1", 1)
    assert (shown.before.opens, shown.after.opens) == (0, 1)
    assert shown.after.longest_s == pytest.approx(12)
    assert shown.covered_min == 60


def test_many_breakers_are_cut_short(knows):
    knows(records={(f"worker_{n}", "digits", "1"): failing(3) for n in range(ROWS + 5)})
    assert len(preview(payload(), payload(failure_threshold=3)).breakers or ()) == ROWS


def test_what_is_not_recorded_is_said_not_to_be_replayed(knows):
    knows()
    assert "can't be replayed" in preview(payload(), payload(silence_ms=0)).missing[0]
    assert not preview(payload(), payload(queue_ms=1)).missing


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {"cache_entries": 10}, True),
        ({}, {"hot_cache": False}, True),
        ({"models": [{"name": "m"}]}, {"models": [{"name": "m", "cached": False}]}, True),
        ({}, {"models": [{"name": "m", "cache_entries": 5}]}, True),
        ({}, {"models": [{"name": "m", "batch_size": 5}]}, False),
        ({}, {"batch_size": 64}, False),
    ],
)
def test_what_caches_will_answer_is_said_not_to_be_foreseen(knows, before, after, told):
    knows(models=(busy(),))
    missing = preview(payload(**before), payload(**after)).missing
    assert any("caches will answer is not foreseen" in each for each in missing) is told


def test_the_settings_of_breakers_are_those_of_the_snapshot():
    values = {"failure_threshold": 9, "success_threshold": 3, "open_seconds": 7.0, "error_rate_percent": 40.0}
    assert _breaker_config(row(Tuning, **values)) == parse(1, payload(**values)).policy.breaker
    assert parse(1, payload(**values)).policy.breaker == BreakerConfig(9, 3, 7.0, 0.4)


# --- batches ---


def test_batches_are_forecast_at_the_recorded_rates(knows):
    knows(models=(busy(rate=100.0), busy("worker_2", rate=300.0)))
    found = preview(payload(), payload(batch_size=1))
    (shown,) = found.batches
    assert (shown.worker, shown.rate, shown.peak) == ("worker_2", 300.0, 300.0)
    assert shown.before.mean_size > shown.after.mean_size == 1
    assert (shown.before.p95_ms or 0) < (shown.after.p95_ms or 0)  # 300 batches of 3 ms are nearly all of a second


def test_what_would_be_too_much_is_said(knows):
    knows(models=(busy(rate=600.0),))
    (shown,) = preview(payload(), payload(batch_size=1)).batches
    assert not shown.before.saturated
    assert shown.after.saturated
    assert shown.after.saturates_at == pytest.approx(333.3, abs=0.1)


def test_a_worker_less_is_more_to_do_for_the_others(knows):
    knows(models=(busy("worker_1", 200.0), busy("worker_3", 210.0)))
    (shown,) = preview(payload(3), payload(2)).batches
    assert shown.worker == "worker_1"
    assert shown.after.utilisation > 1.2 * shown.before.utilisation


def test_a_models_own_settings_and_its_json_come_before_the_tuning(knows):
    own = {"name": "digits", "batch_size": 32}
    knows(models=(busy(),))
    assert not preview(payload(models=[own]), payload(models=[own], batch_size=1)).batches
    assert preview(payload(models=[own]), payload(models=[{**own, "batch_size": 2}])).batches
    knows(models=(busy(max_size=8),))  # neither the tuning nor its row says 8
    assert not preview(payload(), payload(batch_size=1)).batches


def test_a_canary_is_forecast_on_its_worker(knows):
    knows(models=(busy(),))
    tried = {"worker": "worker_1", "tuning": {"batch_size": 1}, "model": "", "version": ""}
    (shown,) = preview(payload(), payload(canary=[tried])).batches
    assert shown.after.mean_size == 1
    assert not preview(payload(), payload(canary=[{**tried, "worker": "worker_2"}])).batches


# --- what is felt at once ---


def test_what_is_forgotten_is_counted(knows):
    knows(cached={"worker_1": (900, 5 * 2**20), "worker_2": (40, 100)}, hot_entries=64)
    after = payload(cache_entries=100, hot_cache=False, default_model="text")
    assert preview(payload(), after).effects == [
        "worker_1 forgets 800 of its 900 results: the longest unused.",
        "The gateway forgets the 64 results that it keeps itself; workers answer all.",
        "Requests to /infer that name no model get another one: text.",
    ]
    assert preview(payload(), payload(cache_mib=2)).effects == ["worker_1 keeps 2 MiB of its 5.0 MiB of results."]


def test_workers_that_come_and_go_are_told_of(knows):
    knows(cached={"worker_2": (40, 100)})
    (gone,) = preview(payload(2), payload(1)).effects
    assert gone.startswith("worker_2 is let go: the state of its breaker is forgotten, and the 40 results in its cache")
    (come,) = preview(payload(1), payload(2)).effects
    assert come.startswith("The gateway connects to worker_2")
    (moved,) = preview(payload(1), payload([{**payload(1)["workers"][0], "port": 2}])).effects
    assert moved == "The gateway leaves worker_1 at h port 1 once what it has there is answered."


def test_what_is_worth_knowing_is_what_the_change_makes_so(knows):
    assert preview(payload(), payload(retry_percent=0)).notes
    assert not preview(payload(retry_percent=0), payload(retry_percent=0, batch_size=1)).notes
