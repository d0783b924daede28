"""What operators want of a model: its row, its revisions, and what workers are told."""

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from gateway_app import lastgood, modelcontrol
from gateway_app.config import load_snapshot, with_workers
from gateway_app.models import ModelRecord, Revision, Tuning
from gateway_app.snapshot import InvalidConfig, parse
from inference_site.lib.catalog import ModelSettings
from inference_site.lib.errors import ApiError
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Padding, Record
from tests.support.database import database_file

pytestmark = pytest.mark.django_db

FULL = Record(
    output="logits",
    pad_with_zeros=False,
    padding=Padding(dimension="length", buckets=(16, 32), mask="mask", values={"ids": 1.0, "types": 0.5}),
    cached=False,
    batches=True,
    batch_size=16,
    batch_wait_ms=2.5,
    cache_entries=0,
    deadline_ms=800,
    warm_up=({"ids": (8, 16), "mask": (8, 16)}, {"ids": (1, 32), "mask": (1, 32)}),
    sessions=2,
)


def summaries():
    return list(Revision.objects.order_by("id").values_list("summary", flat=True))


def test_a_row_without_values_says_nothing():
    row = ModelRecord(name="digits")
    row.full_clean()
    assert row.settings == ModelSettings()


def test_a_record_is_taken_into_a_row_and_out_of_it():
    row = ModelRecord(name="text").take(FULL)
    row.full_clean()
    assert row.record == FULL
    assert row.take(Record(batch_size=8)).record.padding == FULL.padding
    assert row.record.batch_size == 8


def test_every_member_of_a_record_but_its_name_has_a_field():
    said = {name for name in Record.__struct_fields__ if getattr(FULL, name) is None}
    assert said == {"name"}


def test_what_is_saved_reaches_workers_through_the_payload():
    row = ModelRecord(name="text", loaded=False, versions="2, 1", order_number=3).take(FULL)
    row.save()
    tuning = Tuning.objects.get()
    tuning.default_model = "text"
    tuning.save()
    payload = Revision.objects.latest("id").payload
    assert payload["models"] == [
        {
            "name": "text", "loaded": False, "versions": "2, 1", "order_number": 3, "output": "logits",
            "pad_with_zeros": False, "cached": False, "batches": True, "batch_size": 16, "batch_wait_ms": 2.5,
            "cache_entries": 0, "deadline_ms": 800, "sessions": 2, "padding_dimension": "length",
            "padding_buckets": "16, 32", "padding_mask": "mask", "padding_values": "ids = 1, types = 0.5",
            "warm_up": "ids = 8x16, mask = 8x16\nids = 1x32, mask = 1x32",
        }
    ]  # fmt: skip
    node = load_snapshot().node
    assert node.default_model == "text"
    assert node.models == {"text": ModelSettings(loaded=False, order=3, versions=("2", "1"), record=FULL)}


def test_the_last_good_file_holds_models_too(settings, tmp_path):
    settings.STATE_DIR = tmp_path
    ModelRecord(name="text", versions="2").take(FULL).save()
    newest = Revision.objects.latest("id")
    lastgood.save(newest.pk, newest.payload)
    assert lastgood.load() == load_snapshot()
    # Workers of the command line leave them alone.
    assert with_workers(newest.payload, [("worker_1", "h", 1)])["models"] == newest.payload["models"]


def test_changes_are_told_in_words():
    row = ModelRecord.objects.create(name="digits", batch_size=8, cached=False)
    row.batch_size, row.output = None, "probabilities"
    row.save()
    row.loaded = False
    row.save()
    modelcontrol.order_load("digits", note="V2")
    modelcontrol.order_load("digits")
    modelcontrol.order_unload("digits")
    modelcontrol.order_load("other")
    modelcontrol.order_unload("third")
    ModelRecord.objects.create(name="fourth", loaded=False)
    ModelRecord.objects.filter(name="digits").delete()
    assert summaries() == [
        "settings of model digits added (keep results off, rows per batch 8)",
        "model digits output of /infer as usual → probabilities; model digits rows per batch 8 → as usual",
        "model digits loaded on → off",
        "V2: model digits ordered to load",
        "model digits ordered to load",
        "model digits ordered to unload",
        "settings of model other added; model other ordered to load",
        "settings of model third added; model third ordered to unload",
        "settings of model fourth added (loaded off)",
        "settings of model digits removed",
    ]


def test_an_order_after_its_row_was_deleted_is_none_that_workers_have_seen():
    seen = []
    for _ in range(3):
        for _ in range(2):
            modelcontrol.order_load("digits")
            seen.append(ModelRecord.objects.get().order_number)
        ModelRecord.objects.all().delete()
    ModelRecord.objects.create(name="digits", batch_size=4)
    modelcontrol.order_load("digits")
    seen.append(ModelRecord.objects.get().order_number)
    assert len(set(seen)) == 7


def test_an_order_makes_the_row_and_counts():
    first = modelcontrol.order_load("digits")
    assert first == Revision.objects.latest("id").id
    assert modelcontrol.order_unload("digits") == first + 1
    row = ModelRecord.objects.get()
    assert (row.name, row.loaded, row.order_number) == ("digits", False, 2)
    assert modelcontrol.order_load("digits") == first + 2
    assert load_snapshot().node.models["digits"] == ModelSettings(order=3)


def test_an_order_with_settings_and_a_version_joins_what_is_pinned():
    modelcontrol.order("digits", True, Record(batch_size=4), "2")
    assert ModelRecord.objects.get().settings == ModelSettings(order=1, record=Record(batch_size=4))
    ModelRecord.objects.update(versions="1, 2")
    modelcontrol.order("digits", True, Record(sessions=2), "3")
    assert ModelRecord.objects.get().settings == ModelSettings(
        order=2, versions=("1", "2", "3"), record=Record(batch_size=4, sessions=2)
    )


@pytest.mark.parametrize("name", ["", "a b", ".hidden", "-x", "_x", "a/b", "../x", "stats", "x" * 101, "a\n"])
def test_an_order_for_what_is_no_name_is_refused(name):
    with pytest.raises(ApiError) as caught:
        modelcontrol.order_load(name)
    assert (caught.value.status, caught.value.code) == (400, "invalid_model")
    assert not ModelRecord.objects.exists()


def test_an_order_says_that_the_database_is_away(tmp_path, django_db_blocker):
    with django_db_blocker.unblock(), database_file(tmp_path), pytest.raises(ApiError) as caught:
        modelcontrol.order_load("digits")
    assert (caught.value.status, caught.value.code) == (503, "database_away")
    assert "check DATABASE_URL" in caught.value.message


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("name", "a b", "'a b' cannot be a model's name."),
        ("versions", "one", "'one' is no version."),
        ("padding_buckets", "64, 32", "32 follows 64."),
        ("padding_values", "ids", "'ids' lacks the name or the value."),
        ("warm_up", "ids = x", "'x' is no shape of ids."),
        ("batch_size", 0, "0 is out of range. Choose from 1 to 1,024."),
        ("batch_wait_ms", 10_001.0, "10001.0 is out of range. Choose from 0 to 10,000 ms."),
        ("cache_entries", 10_000_001, "10000001 is out of range. Choose from 0 to 10,000,000."),
        ("deadline_ms", 0, "0 is out of range. Choose from 1 to 600,000 ms."),
        ("sessions", 65, "65 is out of range. Choose from 1 to 64."),
    ],
)
def test_what_cannot_be_is_named_with_the_fix(field, value, says):
    padding = {"padding_dimension": "length", "padding_buckets": "16"}
    with pytest.raises(ValidationError) as caught:
        ModelRecord(**{"name": "digits", **padding, field: value}).full_clean()
    assert says in caught.value.message_dict[field][0]


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"padding_dimension": "length"}, "padding_buckets"),
        ({"padding_buckets": "16"}, "padding_dimension"),
        ({"padding_mask": "mask"}, "padding_dimension"),
        ({"padding_dimension": "length", "padding_values": "ids = 1"}, "padding_buckets"),
    ],
)
def test_half_of_a_padding_is_refused_in_words_and_by_the_database(given, missing):
    row = ModelRecord(name="text", **given)
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    assert "Something must be given here too" in caught.value.message_dict[missing][0]
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save()


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 0), ("batch_wait_ms", 10_001.0), ("cache_entries", 10_000_001), ("deadline_ms", 0),
     ("sessions", 65), ("name", "")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_by_the_database_too(field, value):
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelRecord(**{"name": "digits", field: value}).save()


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"models": {}}, "models is {}, not a list"),
        ({"models": [1]}, "model 1 is 1, not an object"),
        ({"models": [{"name": "stats"}]}, "model 1, name: 'stats' cannot be a model's name"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "2 models have the name a"),
        ({"models": [{"name": "a", "colour": 1}]}, "model 1 has 'colour', which this version does not know"),
        ({"models": [{"name": "a", "padding_mask": "m"}]}, "model 1, padding_dimension: Something must be given"),
        ({"models": [{"name": "a", "batch_wait_ms": float("nan")}]}, "model 1, batch_wait_ms"),
        ({"tuning": {"default_model": "a b"}}, "tuning, default_model: 'a b' cannot be a model's name"),
    ],
)
def test_a_payload_edited_by_hand_is_refused_with_the_value(payload, says):
    with pytest.raises(InvalidConfig) as caught:
        parse(7, payload)
    assert says in str(caught.value)


def test_a_revision_of_before_there_were_models_is_complete():
    assert parse(7, {"workers": [], "tuning": {"batch_size": 8}}).node == NodeSettings(revision=7, batch_size=8)
    ModelRecord.objects.create(name="digits")
    newest = Revision.objects.latest("id")
    ModelRecord.objects.all().delete()
    del newest.payload["models"], newest.payload["tuning"]["default_model"]
    Revision.objects.create(summary="older", payload=newest.payload)
    count = Revision.objects.count()
    Tuning.objects.get().save()
    assert Revision.objects.count() == count


@pytest.mark.django_db(transaction=True)
def test_an_upgrade_keeps_what_there_was(database):
    """From the last release's tables with data in them, and the old payload stays in force."""
    executor = MigrationExecutor(connection)
    executor.migrate([("gateway_app", "0002_routing")])
    before = executor.loader.project_state([("gateway_app", "0002_routing")]).apps
    before.get_model("gateway_app", "Worker").objects.create(name="worker_1", host="h", port=1, isolated=True)
    before.get_model("gateway_app", "Tuning").objects.create(id=1, virtual_nodes=77)
    old = {"workers": [{"name": "worker_1", "host": "h", "port": 1}], "tuning": {"virtual_nodes": 77}}
    before.get_model("gateway_app", "Revision").objects.create(summary="old", payload=old)
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    assert load_snapshot().virtual_nodes == 77
    assert load_snapshot().node.models == {}
    assert (Tuning.objects.get().virtual_nodes, Tuning.objects.get().default_model) == (77, "")
    modelcontrol.order_load("digits")
    snapshot = load_snapshot()
    assert snapshot.virtual_nodes == 77
    assert [worker.isolated for worker in snapshot.workers] == [True]
    assert list(snapshot.node.models) == ["digits"]
