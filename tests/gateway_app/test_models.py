"""Every change of the configuration leaves exactly one revision, in the same transaction, in words."""

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from gateway_app.changes import describe
from gateway_app.models import Revision, Tuning, Worker, recorded, revision_saved

pytestmark = pytest.mark.django_db


def make(name="worker_1", host="127.0.0.1", port=8001, **values):
    return Worker.objects.create(name=name, host=host, port=port, **values)


def summaries():
    return list(Revision.objects.order_by("id").values_list("summary", flat=True))


def test_each_save_and_delete_leaves_a_revision_that_says_what_changed():
    worker = make()
    worker.weight = 2.5
    worker.save()
    worker.draining = True
    worker.save()
    tuning = Tuning.objects.get()
    tuning.virtual_nodes, tuning.batch_eager = 300, False
    tuning.save()
    worker.delete()
    assert summaries() == [
        "worker_1 added at 127.0.0.1 port 8001",
        "worker_1 weight 1 → 2.5",
        "worker_1 draining off → on",
        "virtual nodes per worker 150 → 300; start at once when the model is free on → off",
        "worker_1 removed",
    ]


def test_the_payload_is_the_whole_configuration():
    make(weight=2, named=False)
    payload = Revision.objects.get().payload
    assert payload["workers"] == [
        {
            "name": "worker_1",
            "host": "127.0.0.1",
            "port": 8001,
            "weight": 2.0,
            "enabled": True,
            "draining": False,
            "named": False,
            "isolated": False,
            "order": "",
            "order_number": 0,
        }
    ]
    assert payload["tuning"] == {
        "virtual_nodes": 150,
        "share_cap_percent": 2.0,
        "load_factor": 1.25,
        "load_floor": 8,
        "hot_cache": True,
        "failure_threshold": 5,
        "success_threshold": 2,
        "open_seconds": 30.0,
        "error_rate_percent": 20.0,
        "slow_factor": 5.0,
        "silence_ms": 300,
        "slow_start_seconds": 0.0,
        "check_seconds": 2.0,
        "request_timeout_ms": 10_000,
        "retry_percent": 20.0,
        "hedging": True,
        "queue_ms": 2000,
        "cache_entries": 1000,
        "cache_mib": 256,
        "hand_off": True,
        "batch_size": 32,
        "batch_wait_ms": 20.0,
        "batch_eager": True,
        "default_model": "",
    }
    assert payload["models"] == []


def test_saving_without_a_change_leaves_no_revision():
    worker = make()
    worker.save()
    Tuning.objects.get().save()
    assert len(summaries()) == 1


def test_bulk_changes_are_recorded_too():
    make()
    make("worker_2", port=8002)
    Worker.objects.update(enabled=False)
    Worker.objects.all().delete()
    assert summaries()[2:] == [
        "worker_1 enabled on → off; worker_2 enabled on → off",
        "worker_1 removed; worker_2 removed",
    ]


def test_many_changes_become_one_revision_with_its_author():
    with recorded(author="ada", note="restore"):
        make()
        with recorded(author="ignored: it joins the outer one"):
            make("worker_2", port=8002)
    revision = Revision.objects.get()
    assert revision.author == "ada"
    assert revision.summary == "restore: worker_1 added at 127.0.0.1 port 8001; worker_2 added at 127.0.0.1 port 8002"


def test_a_change_that_fails_half_way_leaves_neither_rows_nor_revision():
    def change_and_fail():
        with recorded():
            make()
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        change_and_fail()
    assert not Worker.objects.exists()
    assert not Revision.objects.exists()


def test_a_revision_that_cannot_be_written_takes_the_change_with_it(monkeypatch):
    make()

    def fail(*args, **kwargs):
        raise RuntimeError("disk full")

    monkeypatch.setattr("gateway_app.revisions.describe", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        make("worker_2", port=8002)
    assert list(Worker.objects.values_list("name", flat=True)) == ["worker_1"]


def test_watchers_hear_of_it_after_the_commit_and_never_of_a_rollback(django_capture_on_commit_callbacks):
    heard = []

    def listener(**kwargs):
        heard.append(Revision.objects.count())

    revision_saved.connect(listener)
    try:
        with django_capture_on_commit_callbacks() as callbacks:
            make()
            assert heard == []
        assert len(callbacks) == 1
        callbacks[0]()
        assert heard == [1]
    finally:
        revision_saved.disconnect(listener)


@pytest.mark.parametrize("name", ["", "worker 1", "wörker", "a/b", "x" * 101, "worker_1\n"])
def test_a_name_that_fits_no_header_is_refused(name):
    with pytest.raises(ValidationError) as caught:
        Worker(name=name, host="127.0.0.1", port=8001).full_clean()
    assert list(caught.value.message_dict) == ["name"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "node-3.example.org", "worker_1"])
def test_hosts_that_can_be_connected_to_pass(host):
    Worker(name="worker_1", host=host, port=8001).full_clean()


@pytest.mark.parametrize(
    "host", ["http://a", "a:8001", "[::1]", "256.1.1.1", "1.2.3", "a b", "-a", "a..b", "a" * 64, "a\n"]
)
def test_a_host_that_is_none_is_refused_with_its_value(host):
    with pytest.raises(ValidationError) as caught:
        Worker(name="worker_1", host=host, port=8001).full_clean()
    assert repr(host) in caught.value.message_dict["host"][0]


@pytest.mark.parametrize(
    ("field", "value"), [("port", 0), ("port", 65536), ("weight", 0), ("weight", -1.0), ("weight", 100.5)]
)
def test_a_number_out_of_range_is_refused_in_words_and_by_the_database(field, value):
    worker = Worker(**{"name": "worker_1", "host": "a", "port": 1, field: value})
    with pytest.raises(ValidationError) as caught:
        worker.full_clean()
    assert any(f"{value} is out of range. Choose from " in sentence for sentence in caught.value.message_dict[field])
    with pytest.raises(IntegrityError), transaction.atomic():
        worker.save()


def test_one_address_belongs_to_one_worker():
    make()
    with pytest.raises(ValidationError, match="Another worker has this host and port already"):
        Worker(name="worker_2", host="127.0.0.1", port=8001).full_clean()
    with pytest.raises(IntegrityError), transaction.atomic():
        make("worker_2")


def test_there_is_one_tuning():
    make()
    with pytest.raises(IntegrityError), transaction.atomic():
        Tuning.objects.create(id=2)


@pytest.mark.parametrize(
    ("field", "value", "ends"),
    [
        ("virtual_nodes", 0, "1 to 10,000"),
        ("virtual_nodes", 10_001, "1 to 10,000"),
        ("share_cap_percent", 100.5, "0 to 100 %"),
        ("failure_threshold", 0, "1 to 1,000"),
        ("success_threshold", 0, "1 to 1,000"),
        ("open_seconds", 0.0, "0.1 to 3,600 seconds"),
        ("error_rate_percent", 100.5, "0 to 100 %"),
        ("retry_percent", -1.0, "0 to 100 %"),
        ("slow_factor", 1.25, "1.5 to 1,000, or 0 to switch it off"),
        ("slow_factor", float("nan"), "1.5 to 1,000, or 0 to switch it off"),
        ("silence_ms", 99, "100 to 60,000 ms, or 0 to switch it off"),
        ("check_seconds", 601.0, "0.1 to 600 seconds, or 0 to switch it off"),
        ("slow_start_seconds", 600.5, "0 to 600 seconds"),
        ("queue_ms", 0, "1 to 600,000 ms"),
        ("cache_mib", 0, "1 to 1,048,576 MiB"),
        ("cache_entries", 10_000_001, "0 to 10,000,000"),
        ("batch_size", 0, "1 to 1,024"),
        ("batch_size", 1025, "1 to 1,024"),
        ("batch_wait_ms", -1.0, "0 to 10,000 ms"),
        ("batch_wait_ms", 10_001.0, "0 to 10,000 ms"),
        ("request_timeout_ms", 0, "1 to 600,000 ms"),
    ],
)
def test_tuning_out_of_range_is_refused_with_the_range(field, value, ends):
    with pytest.raises(ValidationError) as caught:
        Tuning(**{field: value}).full_clean()
    assert f"{value} is out of range. Choose from {ends}." in caught.value.message_dict[field]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("error_rate_percent", 100.5),
        ("retry_percent", -1.0),
        ("slow_factor", 1.25),
        ("silence_ms", 99),
        ("check_seconds", 601.0),
        ("slow_start_seconds", 600.5),
        ("queue_ms", 0),
    ],
)
def test_tuning_out_of_range_is_refused_by_the_database_too(field, value):
    with pytest.raises(IntegrityError), transaction.atomic():
        Tuning(**{field: value}).save()


@pytest.mark.parametrize("field", ["error_rate_percent", "retry_percent", "slow_factor", "silence_ms", "check_seconds"])
def test_zero_switches_a_signal_off(field):
    tuning = Tuning(**{field: 0})
    tuning.full_clean()
    tuning.save()


def test_waiting_for_a_batch_longer_than_a_request_may_take_is_refused():
    with pytest.raises(ValidationError, match="would run into its limit of 500 ms"):
        Tuning(batch_eager=False, batch_wait_ms=500, request_timeout_ms=500).full_clean()
    Tuning(batch_eager=True, batch_wait_ms=500, request_timeout_ms=500).full_clean()


def test_what_an_upgrade_adds_is_no_change():
    worker = make()
    newest = Revision.objects.get()
    for name in ("isolated", "order", "order_number"):
        del newest.payload["workers"][0][name]
    del newest.payload["tuning"]["hedging"]
    newest.save()
    worker.save()
    assert len(summaries()) == 1
    Worker.objects.update(isolated=True)
    Tuning.objects.update(hedging=False)
    assert summaries()[1:] == ["worker_1 isolated off → on", "ask a second worker when one is slow on → off"]


@pytest.mark.parametrize("payload", [[], {"workers": [1]}, {"tuning": []}, {"workers": None}, "x"])
def test_a_save_replaces_a_payload_that_was_spoilt_by_hand(payload):
    make()
    Revision.objects.update(payload=payload)
    make("worker_2", port=8002)
    assert len(Revision.objects.latest("id").payload["workers"]) == 2


def test_an_order_by_hand_is_told_in_words():
    worker = make()
    for order in ("trip", "trip", "reset"):
        worker.order, worker.order_number = order, worker.order_number + 1
        worker.save()
    worker.order, worker.order_number = "", 0
    worker.save()
    assert summaries()[1:] == [
        "worker_1 breaker tripped by hand",
        "worker_1 breaker tripped by hand",
        "worker_1 breaker reset by hand",
        "worker_1 orders forgotten",
    ]


def test_the_newest_revisions_are_kept(monkeypatch):
    monkeypatch.setattr("gateway_app.revisions.KEPT", 3)
    worker = make()
    for weight in (2, 3, 4, 5):
        worker.weight = weight
        worker.save()
    assert summaries() == ["worker_1 weight 2 → 3", "worker_1 weight 3 → 4", "worker_1 weight 4 → 5"]


def test_a_first_revision_that_adds_nothing_is_called_the_defaults():
    assert describe({}, {"workers": [], "tuning": {"batch_size": 32}}) == "defaults"
