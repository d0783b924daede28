"""The last good configuration in a file: what a gateway starts with while its database is away."""

import pytest

from gateway_app import lastgood
from gateway_app.config import Snapshot, register_workers
from inference_site.lib.nodesettings import NodeSettings
from tests.gateway_app.away import bring_back, take_away
from tests.gateway_app.following import save_tuning, watching
from tests.support.database import in_thread
from tests.support.waiting import until


async def test_a_restart_with_the_database_away_uses_the_last_good_file(database):
    await in_thread(register_workers, [("worker_1", "127.0.0.1", 8001)])
    async with watching() as (watcher, _):
        before = watcher.current
    take_away(database)
    async with watching() as (watcher, given):
        assert watcher.current == before
        assert "does not answer" in watcher.error
        bring_back(database)
        await until(lambda: not watcher.error)
        await in_thread(save_tuning, virtual_nodes=11)
        await until(lambda: watcher.current.virtual_nodes == 11)
        assert [snapshot.virtual_nodes for snapshot in given] == [150, 11]


async def test_a_start_knows_what_was_followed_before(database):
    await in_thread(save_tuning, virtual_nodes=10)
    async with watching() as (watcher, _):
        assert watcher.earlier is None
    await in_thread(save_tuning, virtual_nodes=11)
    async with watching() as (watcher, _):
        assert (watcher.earlier.virtual_nodes, watcher.current.virtual_nodes) == (10, 11)


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
