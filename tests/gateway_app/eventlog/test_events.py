"""What happens is kept: at once in memory, soon in the database, also when that was away for a while."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager

import pytest
from django.utils import timezone

from gateway_app.core.breaker import State
from gateway_app.core.storms import BURST
from gateway_app.eventlog import eventrows, events
from gateway_app.eventlog.events import LOOK_S, EventLog
from gateway_app.models import Event, Revision, Worker, recorded
from tests.gateway_app.away import bring_back, take_away
from tests.support.database import in_thread
from tests.support.waiting import PATIENCE_S, until


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


async def test_an_event_is_in_memory_at_once_and_soon_in_the_database(database):
    async with logging() as log:
        began = time.monotonic()
        trip(log, "5 failures in a row")
        (event,) = log.recent
        assert (event.worker, event.before, event.after) == ("worker_1", "CLOSED", "OPEN")
        assert began <= event.since <= time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
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
    monkeypatch.setattr("gateway_app.eventlog.events.PENDING", 10)
    async with logging() as log:
        take_away(database)
        for number in range(8):
            trip(log, str(number))
        await until(lambda: "cannot be written to the database" in caplog.text)
        for number in range(8, 15):
            trip(log, str(number))
            await asyncio.sleep(0.01)
        await until(lambda: log.dropped == 5)  # else some of them may be on their way, and arrive
        bring_back(database)
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
    monkeypatch.setattr(eventrows, "write", lambda batch: released.wait())
    monkeypatch.setattr(events, "STOP_S", 0.1)
    try:
        async with logging() as log:
            trip(log, "never")
    finally:
        released.set()


@pytest.mark.parametrize(
    ("reason", "written"), [("a\0b", "ab"), ("ä" * 100_000, "ä" * 1000), ("\ud800!", "?!"), ("", "")]
)
async def test_any_reason_can_be_written(database, reason, written):
    async with logging() as log:
        trip(log, reason, "w" * 500)
    assert await reasons() == [written]


# What others have written.


def told(reason, author="ada"):
    with recorded():
        eventrows.record("action", reason, worker="worker_1", author=author)


async def test_what_is_written_with_a_change_is_shown_once_by_every_gateway(database):
    async with logging() as one, logging(gateway="127.0.0.1:8001/18") as other:
        await until(lambda: one._read is not None and other._read is not None)
        heard = []
        other.listeners.add(lambda: heard.append(len(other.recent)))
        await in_thread(told, "worker_1: draining")
        for log in (one, other):
            log.look()
            log.look()
        await until(lambda: one.recent and other.recent)
        trip(one, "seen by one")  # written by it, and not shown by the other
        await until(lambda: not one._pending)
        await in_thread(told, "worker_1: taking requests again")
        other.look()
        await until(lambda: len(other.recent) == 2)
        shown = [(event.kind, event.worker, event.author, event.reason) for event in other.recent]
        assert shown == [
            ("action", "worker_1", "ada", "worker_1: draining"),
            ("action", "worker_1", "ada", "worker_1: taking requests again"),
        ]
        assert [event.reason for event in one.recent] == ["worker_1: draining", "seen by one"]
        assert heard == [1, 2]
    written = await in_thread(lambda: set(Event.objects.values_list("gateway", "reason")))
    assert written == {
        ("", "worker_1: draining"),
        ("127.0.0.1:8000/17", "seen by one"),
        ("", "worker_1: taking requests again"),
    }
    assert await in_thread(Event.objects.count) == 3


async def test_a_number_that_is_seen_late_is_shown_all_the_same(database):
    """PostgreSQL shows what was written first, and has the lower number, later if it is committed later."""
    await in_thread(told, "first")
    late = await in_thread(lambda: Event.objects.get().pk)
    await in_thread(lambda: Event.objects.filter(pk=late).update(id=late + 1))
    async with logging() as log:
        await until(lambda: log.recent)
        await in_thread(lambda: Event.objects.create(id=late, at=timezone.now(), kind="action", reason="late"))
        log.look()
        await until(lambda: len(log.recent) == 2)
        assert [event.reason for event in log.recent] == ["first", "late"]


async def test_a_process_that_starts_shows_the_newest_of_before(database):
    def before():
        for number in range(30):
            told(str(number))
        Event.objects.create(at=timezone.now(), kind="breaker", gateway="another/1", reason="seen by another")

    began = time.monotonic()
    await in_thread(before)
    async with logging() as log:
        await until(lambda: log.recent)
        assert [event.reason for event in log.recent] == [str(number) for number in range(10, 30)]
        await in_thread(told, "new")
        log.look()
        await until(lambda: log.recent[-1].reason == "new")
        assert len(log.recent) == 21
        assert all(began - PATIENCE_S < event.since <= time.monotonic() for event in log.recent)


async def test_what_cannot_be_read_is_read_later(database, caplog):
    caplog.set_level("DEBUG", "gateway_app.eventlog.events")
    async with logging() as log:
        await until(lambda: log._read is not None)
        await in_thread(told, "meanwhile")
        take_away(database)
        log.look()
        await until(lambda: "events of others cannot be read" in caplog.text)
        assert not log.recent
        bring_back(database)
        log.look()
        await until(lambda: [event.reason for event in log.recent] == ["meanwhile"])


async def test_without_a_revision_it_is_looked_for_now_and_then(database):
    clock = Clock()
    async with logging(clock=clock) as log:
        await until(lambda: log._read is not None)
        await in_thread(told, "a verdict")
        log.tick()
        assert not log._look
        clock.now += LOOK_S
        log.tick()
        await until(lambda: [event.reason for event in log.recent] == ["a verdict"])


# Storms.


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


async def test_a_link_that_flaps_writes_a_few_rows_and_a_count(database):
    clock = Clock()
    async with logging(clock=clock) as log:
        for number in range(1000):
            log.add("worker", str(number), worker="worker_1", before="lost", after="connected")
        log.add("breaker", "another kind", worker="worker_1")
        log.add("worker", "another worker", worker="worker_2")
        assert len(log.recent) == BURST + 2
        log.tick()
        assert len(log.recent) == BURST + 2
        clock.now += 3600
        log.tick()
        log.tick()
    assert (await reasons())[-3:] == [
        "another kind",
        "another worker",
        "999 (the last of 960 in a short time)",
    ]
    assert log.dropped == 0


async def test_a_listener_that_fails_stops_nothing(database, caplog):
    async with logging() as log:
        log.listeners.add(lambda: 1 / 0)
        trip(log, "first")
        trip(log, "second")
        assert "a listener of events failed" in caplog.text
    assert await reasons() == ["first", "second"]


# Revisions.


def test_each_revision_has_one_event(database):
    Worker.objects.create(name="worker_1", host="h", port=1)
    with recorded(author="ada", comment="a new disk"):
        Worker.objects.update(weight=2)
        Worker.objects.update(draining=True)
    with recorded(author="ada"):
        Worker.objects.update(weight=2)  # changes nothing
    with recorded(author="ada"):
        Worker.objects.update(draining=False)
        eventrows.record("action", "worker_1: taking requests again", author="ada")
    found = [(each.kind, each.author, each.reason, each.gateway) for each in Event.objects.order_by("id")]
    first, second, third = Revision.objects.order_by("id").values_list("id", flat=True)
    assert third > second
    assert found == [
        ("config", "", f"revision {first}: worker_1 added at h port 1", ""),
        ("config", "ada", f"revision {second}: worker_1 weight 1 → 2; worker_1 draining off → on (a new disk)", ""),
        ("action", "ada", "worker_1: taking requests again", ""),
    ]


def test_a_change_that_fails_leaves_no_event(database):
    def fails():
        with recorded(author="ada"):
            Worker.objects.create(name="worker_1", host="h", port=1)
            eventrows.record("action", "not so", author="ada")
            raise RuntimeError("as a view that fails")

    with pytest.raises(RuntimeError):
        fails()
    assert not Event.objects.exists()
    Worker.objects.create(name="worker_1", host="h", port=1)
    assert Event.objects.get().kind == "config"


def test_old_rows_go_in_steps_and_by_their_number(database, monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(eventrows, "KEPT", 1000)
    now = timezone.now()

    def write(count):
        eventrows.write([Event(at=now, reason="x") for _ in range(count)])

    for _ in range(15):
        write(90)
    first, last = (Event.objects.order_by(order).values_list("id", flat=True)[0] for order in ("id", "-id"))
    assert last == 1350
    assert 1000 <= Event.objects.count() <= 1000 + eventrows.TRIM_STEP
    assert first == last - Event.objects.count() + 1
    write(48)  # up to 1,398: nothing to remove yet
    with django_assert_num_queries(4) as captured:  # a transaction, the rows, and the newest number
        write(1)
    assert not any("DELETE" in each["sql"] for each in captured.captured_queries)
