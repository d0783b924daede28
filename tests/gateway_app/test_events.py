"""What breakers do is kept: at once in memory, soon in the database, also when that was away for a while."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager

import pytest

from gateway_app import eventrows
from gateway_app.core.breaker import State
from gateway_app.events import EventLog
from gateway_app.models import Event
from tests.support.database import PROMPTLY_S, in_thread, until


@asynccontextmanager
async def logging(**options):
    log = EventLog(**{"gateway": "127.0.0.1:8000/17", "pause_s": 0.02, **options})
    await log.start()
    try:
        yield log
    finally:
        await log.stop()


def trip(log, reason, worker="worker_1"):
    log.add("breaker", reason, worker=worker, before=State.CLOSED, after=State.OPEN)


async def reasons():
    return await in_thread(lambda: list(Event.objects.order_by("id").values_list("reason", flat=True)))


def away(database):
    """What cannot be opened as a file."""
    database.rename(database.with_name("away"))
    database.mkdir()


def back(database):
    database.rmdir()
    database.with_name("away").rename(database)


async def test_an_event_is_in_memory_at_once_and_soon_in_the_database(database):
    async with logging() as log:
        trip(log, "5 failures in a row")
        (event,) = log.recent
        assert (event.worker, event.before, event.after) == ("worker_1", "CLOSED", "OPEN")
        assert 0 <= time.monotonic() - event.since < 60
        async with asyncio.timeout(PROMPTLY_S):
            while not await reasons():
                await asyncio.sleep(0.01)
        row = await in_thread(Event.objects.get)
        assert (row.gateway, row.worker, row.before, row.after) == ("127.0.0.1:8000/17", "worker_1", "CLOSED", "OPEN")
        assert (row.at, row.reason) == (event.at, "5 failures in a row")


async def test_what_comes_together_is_written_together(database, monkeypatch):
    writes = []
    write = eventrows.write

    def counting(batch):
        writes.append(len(batch))
        write(batch)

    monkeypatch.setattr(eventrows, "write", counting)
    async with logging(pause_s=3600) as log:
        trip(log, "0")
        await until(lambda: writes == [1])
        for number in range(1, 50):
            trip(log, str(number), f"worker_{number}")
        await asyncio.sleep(0.1)
        assert writes == [1]
    assert writes == [1, 49]
    assert await reasons() == [str(number) for number in range(50)]


async def test_the_newest_hundred_stay_in_memory(database):
    async with logging() as log:
        for number in range(250):
            trip(log, str(number), f"worker_{number}")
        assert [event.reason for event in log.recent] == [str(number) for number in range(150, 250)]
    assert len(await reasons()) == 250


async def test_with_the_database_away_events_wait_in_bounds(database, monkeypatch, caplog):
    monkeypatch.setattr("gateway_app.events.PENDING", 10)
    async with logging() as log:
        away(database)
        for number in range(8):
            trip(log, str(number))
        await until(lambda: "cannot be written to the database" in caplog.text)
        for number in range(8, 15):
            trip(log, str(number))
            await asyncio.sleep(0.01)
        back(database)
        await until(lambda: "written to the database again; 5 were dropped" in caplog.text)
    assert await reasons() == [str(number) for number in range(5, 15)]
    assert caplog.text.count("cannot be written") == 1
    assert log.dropped == 5


async def test_the_table_is_trimmed_to_the_newest(database, monkeypatch):
    monkeypatch.setattr(eventrows, "KEPT", 3)
    monkeypatch.setattr(eventrows, "TRIM_STEP", 1)
    async with logging() as log:
        for number in range(5):
            trip(log, str(number))
    assert await reasons() == ["2", "3", "4"]


async def test_a_stop_writes_what_is_left_but_does_not_wait_for_a_database_that_hangs(database, monkeypatch):
    async with logging(pause_s=3600) as log:
        trip(log, "first")
        await until(lambda: not log._pending)
        trip(log, "last")
    assert await reasons() == ["first", "last"]

    released = threading.Event()
    monkeypatch.setattr(eventrows, "write", lambda batch: released.wait(60))
    async with logging() as log:
        trip(log, "never")
        began = time.monotonic()
    assert time.monotonic() - began < 30  # of the 60 that the database takes
    released.set()


@pytest.mark.parametrize(
    ("reason", "written"), [("a\0b", "ab"), ("ä" * 100_000, "ä" * 1000), ("\ud800!", "?!"), ("", "")]
)
async def test_any_reason_can_be_written(database, reason, written):
    async with logging() as log:
        trip(log, reason, "w" * 500)
    assert await reasons() == [written]
