"""The configuration as a process follows it: every change, in order, and what it does without a database."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connection, transaction

from gateway_app import lastgood
from gateway_app.config import ConfigWatcher, Snapshot, WorkerEntry, load_snapshot
from gateway_app.models import Revision, Worker, recorded
from tests.gateway_app.away import bring_back, take_away
from tests.gateway_app.following import save_tuning, watching
from tests.support.database import in_thread
from tests.support.waiting import until

PROJECT = Path(__file__).parents[2]


async def test_a_change_reaches_every_process_that_follows(database):
    async with watching() as (one, _), watching() as (two, seen_by_two):
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
        await until(lambda: one.current.workers and two.current.workers)
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
            if number % 10 == 1:  # else it may see none but the last
                await until(lambda: watcher.current.virtual_nodes == number)  # noqa: B023 it is waited for here
    assert all(snapshot.workers[0].weight == snapshot.virtual_nodes for snapshot in given)
    revisions = [snapshot.revision for snapshot in given]
    assert revisions == sorted(set(revisions))
    assert len(revisions) >= 4
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


async def test_with_the_database_away_the_last_snapshot_stays_and_then_heals(database):
    await in_thread(save_tuning, virtual_nodes=10)
    async with watching() as (watcher, given):
        take_away(database)
        await until(lambda: watcher.error)
        assert "the database does not answer (unable to open database file)" in watcher.error
        assert watcher.current.virtual_nodes == 10
        bring_back(database)
        await until(lambda: not watcher.error)
        await in_thread(save_tuning, virtual_nodes=11)
        await until(lambda: watcher.current.virtual_nodes == 11)
        assert [snapshot.virtual_nodes for snapshot in given] == [10, 11]


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
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA ignore_check_constraints=1")
            with transaction.atomic():  # nobody sees it as it was before
                Revision.objects.create(summary="x", payload={})
                cursor.execute("UPDATE gateway_app_revision SET payload = '{'")

    async with watching() as (watcher, given):
        await in_thread(spoil)
        await until(lambda: "is refused" in watcher.error)
        assert given == [Snapshot()]
