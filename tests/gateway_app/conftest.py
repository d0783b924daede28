"""Gateways over workers of the test, and databases as gateways have them: files, open to all threads and processes."""

from collections.abc import AsyncIterator

import pytest
from django.core.management import call_command
from django.db import connection

from tests.gateway_app.away import real_file
from tests.gateway_app.lineup import Cluster
from tests.gateway_app.scripted import Bench
from tests.support.database import database_file
from tests.support.waiting import PATIENCE_S

# What the product gives up after some seconds, and no test here wants it to: a busy machine is no fault of anybody's.
PATIENT = (
    "gateway_app.diagnosis.targets.CONNECT_S",
    "gateway_app.eventlog.events.STOP_S",
    "gateway_app.operating.followed.PATIENCE_S",
    "gateway_app.operating.followed.TIMEOUT_S",
    "gateway_app.previewing.previewring.PATIENCE_S",
    "gateway_app.streams.greeting.HANDSHAKE_TIMEOUT_S",
    "gateway_app.terminal.TIMEOUT_S",
    "inference_site.lifecycle.TIMEOUT_S",
    "worker_app.stream.HANDSHAKE_TIMEOUT_S",
)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given up because this machine is busy; a test that wants something given up says so."""
    for name in PATIENT:
        monkeypatch.setattr(name, PATIENCE_S)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Links to servers of the test."""
    made = Bench()
    yield made
    await made.end()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A gateway over scripted workers, to be started with their models."""
    made = Cluster()
    yield made
    await made.end()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory, django_db_blocker):
    """A migrated SQLite file to copy."""
    file = tmp_path_factory.mktemp("database") / "db.sqlite3"
    with django_db_blocker.unblock(), database_file(file):
        call_command("migrate", verbosity=0)
        connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file


@pytest.fixture
def database(tmp_path, migrated_file, django_db_blocker, settings):
    """A database file of one's own, seen by all threads and other processes, and a STATE_DIR beside it. Its path is a
    link: see `away`."""
    file, real = tmp_path / "db.sqlite3", real_file(tmp_path / "db.sqlite3")
    real.parent.mkdir()
    real.write_bytes(migrated_file.read_bytes())
    file.symlink_to(real)
    settings.STATE_DIR = tmp_path / "state"
    with django_db_blocker.unblock(), database_file(file):
        yield file
