"""How processes follow the configuration: several of them, with the database away, with rows edited by hand."""

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connection

from gateway_app import lastgood
from gateway_app.config import ConfigWatcher, Snapshot, WorkerEntry, adopt_name, load_snapshot, register_workers
from gateway_app.core.breaker import BreakerConfig
from gateway_app.core.policy import Policy
from gateway_app.models import Revision, Tuning, Worker, recorded
from gateway_app.snapshot import InvalidConfig, parse
from inference_site.lib.nodesettings import NodeSettings
from tests.support.database import in_thread
from tests.support.waiting import until

PROJECT = Path(__file__).parents[2]


@asynccontextmanager
async def watching(**options):
    """A started watcher and the list of all snapshots it has given."""
    given: list[Snapshot] = []
    watcher = ConfigWatcher(given.append, **{"poll_s": 0.05, **options})
    await watcher.start()
    try:
        yield watcher, given
    finally:
        await watcher.stop()


def save_tuning(**values):
    tuning = Tuning.objects.get_or_create(pk=1)[0]
    for name, value in values.items():
        setattr(tuning, name, value)
    tuning.save()


def addresses():
    return {w.name: (w.host, w.port, w.enabled) for w in Worker.objects.all()}


# --- the snapshot ---


def test_an_empty_database_means_the_defaults(database):
    assert (
        load_snapshot() == Snapshot() == Snapshot(0, (), 150, Policy(BreakerConfig(5, 2, 30.0), 10.0), NodeSettings())
    )


def test_a_snapshot_holds_all_that_was_saved(database):
    Worker.objects.create(
        name="b", host="::1", port=2, weight=0.5, draining=True, isolated=True, order="trip", order_number=4
    )
    Worker.objects.create(name="a", host="localhost", port=1, enabled=False)
    save_tuning(
        virtual_nodes=7, failure_threshold=3, success_threshold=4, open_seconds=1.5, cache_entries=0, cache_mib=2,
        batch_size=8, batch_wait_ms=2.5, batch_eager=False, request_timeout_ms=900, share_cap_percent=5,
        hot_cache=False, load_factor=2, load_floor=3, error_rate_percent=50, slow_factor=0, silence_ms=250,
        slow_start_seconds=1.5, check_seconds=0.5, retry_percent=10, hedging=False, queue_ms=700, hand_off=False,
    )  # fmt: skip
    revision = Revision.objects.latest("id").id
    assert load_snapshot() == Snapshot(
        revision=revision,
        workers=(
            WorkerEntry("a", "localhost", 1, enabled=False),
            WorkerEntry("b", "::1", 2, 0.5, draining=True, isolated=True, order="trip", order_number=4),
        ),
        virtual_nodes=7,
        share_cap_percent=5.0,
        hot_cache=False,
        policy=Policy(
            BreakerConfig(3, 4, 1.5, error_ratio=0.5),
            timeout_s=0.9,
            load_factor=2.0,
            load_floor=3,
            retry_ratio=0.1,
            hedging=False,
            slow_factor=0.0,
            silence_s=0.25,
            slow_start_s=1.5,
            check_s=0.5,
            hand_off=False,
        ),
        node=NodeSettings(
            revision=revision,
            cache_entries=0,
            cache_bytes=2 * 2**20,
            batch_size=8,
            batch_wait_ms=2.5,
            batch_eager=False,
            queue_ms=700.0,
        ),
    )
    assert [worker.address for worker in load_snapshot().workers] == ["localhost:1", "[::1]:2"]


GOOD = {"name": "a", "host": "h", "port": 1}


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ([], "is list, not an object"),
        ({"workers": {}}, "not a list"),
        ({"workers": ["a"]}, "worker 1 is 'a', not an object"),
        ({"workers": [{**GOOD, "name": "a b"}]}, "worker 1, name: 'a b' cannot be"),
        ({"workers": [{**GOOD, "port": 70000}]}, "worker 1, port: 70000 is out of range"),
        ({"workers": [{**GOOD, "port": "http"}]}, "worker 1, port:"),
        ({"workers": [{**GOOD, "enabled": None}]}, "worker 1, enabled:"),
        ({"workers": [{**GOOD, "weight": float("nan")}]}, "worker 1, weight: nan"),
        ({"workers": [{**GOOD, "colour": "red"}]}, "worker 1 has 'colour', which this version does not know"),
        ({"workers": [GOOD, {**GOOD, "port": 2}]}, "2 workers have the name a"),
        ({"workers": [GOOD, {**GOOD, "name": "b"}]}, "2 workers have the address h:1"),
        ({"workers": [{**GOOD, "order": "explode"}]}, "worker 1, order: 'explode' is no order. Use trip, reset"),
        ({"workers": [{**GOOD, "order_number": -1}]}, "worker 1, order_number:"),
        ({"tuning": {"silence_ms": 50}}, "tuning, silence_ms: 50 is out of range"),
        ({"tuning": []}, "tuning is [], not an object"),
        ({"tuning": {"batch_size": 0}}, "tuning, batch_size: 0 is out of range"),
        ({"tuning": {"open_seconds": float("inf")}}, "tuning, open_seconds: inf is out of range"),
        ({"tuning": {"batch_wait_ms": 900, "request_timeout_ms": 900, "batch_eager": False}}, "tuning, batch_wait_ms"),
    ],
)
def test_a_payload_edited_by_hand_is_refused_with_the_value(payload, says):
    with pytest.raises(InvalidConfig) as caught:
        parse(7, payload)
    assert says in str(caught.value)


def test_what_an_older_version_did_not_know_gets_its_default(database):
    Revision.objects.create(summary="old", payload={"workers": [GOOD], "tuning": {"batch_size": 8}})
    assert load_snapshot().node.batch_size == 8
    assert load_snapshot().virtual_nodes == 150


# --- following it ---


async def test_a_change_reaches_every_process_that_follows_within_a_second(database):
    async with watching(poll_s=0.5) as (one, _), watching(poll_s=0.5) as (two, seen_by_two):
        assert one.current == two.current == Snapshot()
        # Another process makes the change: no signal tells these two of it.
        script = (
            "import django; django.setup(); from gateway_app.models import Worker\n"
            "Worker.objects.create(name='worker_1', host='127.0.0.1', port=8001)"
        )
        environment = {
            "DATABASE_URL": f"sqlite:///{database}",
            "STATE_DIR": str(django_settings.STATE_DIR),
            "DJANGO_SETTINGS_MODULE": "inference_site.settings",
        }
        await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script], cwd=PROJECT, env=environment, check=True
        )
        changed = time.monotonic()
        await until(lambda: one.current.workers and two.current.workers)
        assert time.monotonic() - changed < 1.0
        assert one.current == two.current
        assert one.current.workers == (WorkerEntry("worker_1", "127.0.0.1", 8001),)
        assert [snapshot.revision for snapshot in seen_by_two] == [0, one.current.revision]


async def test_the_process_that_saves_is_told_at_once(database):
    async with watching(poll_s=3600) as (watcher, _):
        await in_thread(save_tuning, virtual_nodes=10)
        await until(lambda: watcher.current.virtual_nodes == 10)


async def test_wake_looks_at_once_from_any_thread(database):
    async with watching(poll_s=3600) as (watcher, _):
        # A row that no signal announces.
        await in_thread(Revision.objects.create, summary="x", payload={"tuning": {"virtual_nodes": 3}})
        threading.Thread(target=watcher.wake).start()
        await until(lambda: watcher.current.virtual_nodes == 3)


async def test_a_stopped_watcher_is_silent(database):
    async with watching() as (watcher, given):
        pass
    await in_thread(save_tuning, virtual_nodes=10)
    watcher.wake()
    await asyncio.sleep(0.2)
    assert [snapshot.revision for snapshot in given] == [0]


async def test_snapshots_arrive_whole_and_in_order_on_the_loop(database):
    """Weight and virtual nodes are always changed together: no snapshot may show one without the other."""

    def change(number):
        with recorded():
            Worker.objects.filter(name="a").update(weight=number)
            save_tuning(virtual_nodes=number)

    await in_thread(Worker.objects.create, name="a", host="h", port=1, weight=1)
    await in_thread(change, 1)
    threads = []
    async with watching(poll_s=0.002) as (watcher, given):
        apply = watcher._on_change

        def noting_its_thread(snapshot):
            threads.append(threading.current_thread())
            apply(snapshot)

        watcher._on_change = noting_its_thread
        for number in range(2, 32):
            await in_thread(change, number)
        await until(lambda: watcher.current.virtual_nodes == 31)
    assert all(snapshot.workers[0].weight == snapshot.virtual_nodes for snapshot in given)
    revisions = [snapshot.revision for snapshot in given]
    assert revisions == sorted(set(revisions))
    assert len(revisions) > 3
    assert set(threads) == {threading.main_thread()}


async def test_two_writers_at_once_lose_no_change(database):
    def add(first):
        for number in range(first, first + 10):
            Worker.objects.create(name=f"worker_{number}", host="h", port=number)

    await asyncio.gather(in_thread(add, 100), in_thread(add, 200))
    assert len((await in_thread(load_snapshot)).workers) == 20
    counts = [len(payload["workers"]) for payload in await in_thread(
        lambda: list(Revision.objects.order_by("id").values_list("payload", flat=True))
    )]  # fmt: skip
    assert counts == list(range(1, 21))


async def test_an_exception_in_the_callback_does_not_end_the_following(database, caplog):
    def picky(snapshot):
        if snapshot.virtual_nodes == 13:
            raise RuntimeError("a bug")

    watcher = ConfigWatcher(picky, poll_s=0.02)
    await watcher.start()
    try:
        await in_thread(save_tuning, virtual_nodes=13)
        await until(lambda: "could not be followed" in caplog.text)
        await in_thread(save_tuning, virtual_nodes=14)
        await until(lambda: watcher.current.virtual_nodes == 14)
    finally:
        await watcher.stop()


# --- the database is away, or a row is bad ---


async def test_with_the_database_away_the_last_snapshot_stays_and_then_heals(database):
    await in_thread(save_tuning, virtual_nodes=10)
    async with watching() as (watcher, given):
        away = database.with_name("away")
        database.rename(away)
        database.mkdir()  # what cannot be opened as a file
        await until(lambda: watcher.error)
        assert "the database does not answer (unable to open database file)" in watcher.error
        assert watcher.current.virtual_nodes == 10
        database.rmdir()
        away.rename(database)
        await until(lambda: not watcher.error)
        await in_thread(save_tuning, virtual_nodes=11)
        await until(lambda: watcher.current.virtual_nodes == 11)
        assert [snapshot.virtual_nodes for snapshot in given] == [10, 11]


async def test_a_restart_with_the_database_away_uses_the_last_good_file(database):
    await in_thread(register_workers, [("worker_1", "127.0.0.1", 8001)])
    async with watching() as (watcher, _):
        before = watcher.current
    away = database.with_name("away")
    database.rename(away)
    database.mkdir()
    async with watching() as (watcher, given):
        assert watcher.current == before
        assert "does not answer" in watcher.error
        database.rmdir()
        away.rename(database)
        await until(lambda: not watcher.error)
        await in_thread(save_tuning, virtual_nodes=11)
        await until(lambda: watcher.current.virtual_nodes == 11)
        assert [snapshot.virtual_nodes for snapshot in given] == [150, 11]


async def test_without_database_and_file_it_starts_with_the_defaults_and_says_so(database):
    database.unlink()
    database.mkdir()
    async with watching() as (watcher, given):
        assert given == [Snapshot()]
        assert "does not answer" in watcher.error


async def test_a_database_without_tables_is_an_error_until_it_is_migrated(database):
    database.unlink()
    async with watching() as (watcher, _):
        assert "no such table" in watcher.error
        assert "migrate" in watcher.error
        await in_thread(call_command, "migrate", verbosity=0)
        await until(lambda: not watcher.error)


async def test_a_refused_revision_leaves_the_good_one_in_force_and_in_the_file(database, caplog):
    await in_thread(save_tuning, virtual_nodes=10)
    async with watching() as (watcher, given):
        good = lastgood.load()
        bad = await in_thread(Revision.objects.create, summary="by hand", payload={"tuning": {"batch_size": 0}})
        await until(lambda: watcher.error)
        assert f"revision {bad.pk} is refused (tuning, batch_size: 0 is out of range." in watcher.error
        await asyncio.sleep(0.2)
        assert caplog.text.count("is refused") == 1  # said once, not at every poll
        assert watcher.current.virtual_nodes == 10
        assert lastgood.load() == good
        await in_thread(save_tuning, virtual_nodes=11)
        await until(lambda: watcher.current.virtual_nodes == 11)
        assert watcher.error == ""
        assert [snapshot.virtual_nodes for snapshot in given] == [10, 11]


async def test_a_payload_that_is_no_json_is_refused(database):
    def spoil():
        Revision.objects.create(summary="x", payload={})
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA ignore_check_constraints=1")
            cursor.execute("UPDATE gateway_app_revision SET payload = '{'")

    async with watching() as (watcher, given):
        await in_thread(spoil)
        await until(lambda: "is refused" in watcher.error)
        assert given == [Snapshot()]


def test_the_last_good_file_is_replaced_as_a_whole(database, tmp_path):
    for revision in (1, 2):
        lastgood.save(revision, {"tuning": {"virtual_nodes": revision}})
    assert lastgood.load() == Snapshot(revision=2, virtual_nodes=2, node=NodeSettings(revision=2))
    assert [file.name for file in lastgood.file().parent.iterdir()] == [
        lastgood.file().name
    ]  # no temporary one is left


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"revision": 1}', '{"revision": 1, "payload": {"tuning": {"x": 1}}}']
)
def test_a_spoilt_last_good_file_is_passed_over(database, content, caplog):
    lastgood.file().parent.mkdir()
    lastgood.file().write_text(content)
    assert lastgood.load() is None
    assert "is not used" in caplog.text


def test_two_databases_have_two_last_good_files(database, settings, monkeypatch):
    first = lastgood.file()
    monkeypatch.setitem(settings.DATABASES["default"], "NAME", "/elsewhere/db.sqlite3")
    assert lastgood.file() != first


async def test_a_state_dir_that_cannot_be_written_stops_nothing(database, settings, caplog):
    settings.STATE_DIR = database / "impossible"
    async with watching() as (watcher, _):
        await in_thread(save_tuning, virtual_nodes=10)
        await until(lambda: watcher.current.virtual_nodes == 10)
    assert "Set STATE_DIR to a writable directory" in caplog.text


# --- workers from the command line and their handshakes ---


def test_workers_given_by_name_are_written_and_the_others_disabled(database):
    Worker.objects.create(name="old", host="h", port=1)
    before = Revision.objects.count()
    register_workers([("worker_1", "127.0.0.1", 8001), ("worker_2", "127.0.0.1", 8002)])
    assert addresses() == {
        "old": ("h", 1, False),
        "worker_1": ("127.0.0.1", 8001, True),
        "worker_2": ("127.0.0.1", 8002, True),
    }
    assert Revision.objects.count() == before + 1
    register_workers([("worker_1", "127.0.0.1", 8001), ("worker_2", "127.0.0.1", 8002)])
    assert Revision.objects.count() == before + 1


def test_a_known_worker_keeps_weight_and_draining_at_a_new_address(database):
    Worker.objects.create(name="worker_1", host="h", port=1, weight=3, draining=True, enabled=False)
    register_workers([("worker_1", "h", 2)])
    assert load_snapshot().workers == (WorkerEntry("worker_1", "h", 2, weight=3.0, draining=True),)


def test_workers_can_swap_and_take_over_addresses(database):
    register_workers([("a", "h", 1), ("b", "h", 2), ("c", "h", 3)])
    Worker.objects.filter(name="a").update(weight=5)
    register_workers([("a", "h", 2), ("b", "h", 1), ("d", "h", 3)])
    assert addresses() == {"a": ("h", 2, True), "b": ("h", 1, True), "d": ("h", 3, True)}
    assert Worker.objects.get(name="a").weight == 5


def test_a_bare_address_is_named_by_its_handshake(database):
    register_workers([(None, "127.0.0.1", 8001), (None, "::1", 8001)])
    assert [(w.name, w.named) for w in load_snapshot().workers] == [("--1-8001", False), ("127.0.0.1-8001", False)]
    assert adopt_name("127.0.0.1", 8001, "worker_1")
    assert Worker.objects.get(port=8001, host="127.0.0.1").named
    assert adopt_name("127.0.0.1", 8001, "worker_1")
    assert not adopt_name("127.0.0.1", 8001, "worker_9")
    assert not adopt_name("127.0.0.1", 9999, "worker_9")
    # Given again as a bare address, it keeps the name it is known by.
    register_workers([(None, "127.0.0.1", 8001)])
    assert addresses()["worker_1"] == ("127.0.0.1", 8001, True)


def test_a_name_is_taken_over_from_a_disabled_row_but_not_from_an_enabled_one(database, caplog):
    Worker.objects.create(name="worker_1", host="gone", port=1, weight=2)
    register_workers([(None, "h", 8001), (None, "h", 8002)])
    assert adopt_name("h", 8001, "worker_1")
    assert Worker.objects.get(name="worker_1").weight == 2
    assert not adopt_name("h", 8002, "worker_1")
    assert "The workers at h:8002 and h:8001 both call themselves worker_1" in caplog.text
    assert addresses() == {"worker_1": ("h", 8001, True), "h-8002": ("h", 8002, True)}


def test_a_handshake_with_an_impossible_name_changes_nothing(database, caplog):
    register_workers([(None, "h", 8001)])
    assert not adopt_name("h", 8001, "worker 1")
    assert "keeps its address as its name" in caplog.text
    assert addresses() == {"h-8001": ("h", 8001, True)}


def test_a_name_given_to_another_address_leaves_the_bare_one_without(database):
    register_workers([("worker_1", "h", 1)])
    register_workers([(None, "h", 1), ("worker_1", "h", 2)])
    assert addresses() == {"h-1": ("h", 1, True), "worker_1": ("h", 2, True)}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([("a b", "h", 1)], "worker a b=h:1: 'a b' cannot be a worker's name"),
        ([(None, "h:x", 1)], "is no host"),
        ([("a", "h", 0)], "0 is out of range"),
        ([("a", "h", 1), ("a", "h", 2)], "the name a is given to 2 workers"),
        ([("a", "h", 1), ("b", "H", 1)], "the address h:1 is given to 2 workers"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_written(database, given, says):
    register_workers([("good", "g", 1)])
    before = addresses()
    with pytest.raises(ValueError) as caught:
        register_workers(given)
    assert says in str(caught.value)
    assert addresses() == before
