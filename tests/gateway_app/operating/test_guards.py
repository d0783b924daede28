"""Guards: a change that does harm is taken back once, by whoever sees it first; nothing else is."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from django.db import Error as DatabaseUnavailable
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from gateway_app.core.vigil import LEAST_REQUESTS, Figures
from gateway_app.models import Event, Guard, Revision, Tuning, Worker
from gateway_app.operating import guards
from gateway_app.operating.guards import GuardWatcher, Wish, arm, keep, revert
from tests.support.database import in_thread
from tests.support.waiting import until

State = Guard.State


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    for name in ("START_S", "POLL_S", "RETRY_S"):
        monkeypatch.setattr(guards, name, 0.005)


class Present:
    """What a gateway would know of its requests: so much in each second."""

    def __init__(self, requests=100, errors=0, p99_ms=2.0):
        self.requests, self.errors, self.p99_ms = requests, errors, p99_ms

    def recent(self, seconds):
        return {"requests": self.requests * seconds, "errors": self.errors * seconds, "p99_ms": self.p99_ms}


def tune(**values):
    tuning, _ = Tuning.objects.get_or_create(pk=Tuning.ONLY)
    for name, value in values.items():
        setattr(tuning, name, value)
    tuning.save()
    return Revision.objects.latest("id").pk


def guarded(wish=Wish(), present=Figures(1000, 2, 10.0)):  # noqa: B008
    """A change with a guard: the numbers of the revisions before and after it."""
    before = tune(virtual_nodes=100)
    after = tune(virtual_nodes=200)
    arm(after, before, wish, present)
    return before, after


def state():
    return Guard.objects.get().state


@asynccontextmanager
async def watching(present, revision):
    watcher = GuardWatcher(present, lambda: revision)
    task = asyncio.create_task(watcher.run())
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.wait((task,))


# --- rows ---


@pytest.mark.django_db
def test_a_guard_knows_what_was_before_and_until_when():
    began = timezone.now()
    before, after = guarded(Wish(error_points=3, p99_factor=1.5, minutes=2))
    guard = Guard.objects.get()
    assert (guard.revision_id, guard.back_to, guard.state) == (after, before, State.WATCHING)
    assert (guard.base_error_percent, guard.base_p99_ms) == (0.2, 10.0)
    assert began <= guard.until - timedelta(minutes=2) <= timezone.now()
    said = guards.told_of(guard)
    assert "if errors exceed 3.2 % or the p99 latency 15.0 ms" in said
    assert f"revision {before} comes back by itself" in said


@pytest.mark.django_db
def test_without_requests_before_only_errors_are_watched():
    guarded(present=Figures())
    assert Guard.objects.get().base_p99_ms is None
    assert "p99" not in guards.told_of(Guard.objects.get())


@pytest.mark.django_db
def test_who_is_second_decides_nothing():
    before, after = guarded()
    assert revert(after, "it is slow", "ada")
    assert not revert(after, "it is slow", "bob")
    assert not keep(after, "bob")
    newest = Revision.objects.latest("id")
    assert (newest.author, newest.comment) == ("ada", "it is slow")
    assert newest.summary == f"restored revision {before}: virtual nodes per worker 200 → 100"
    assert Tuning.objects.get().virtual_nodes == 100
    assert state() == State.REVERTED


@pytest.mark.django_db
def test_who_takes_a_change_back_waits_for_who_saves_before_anything_is_locked():
    _, after = guarded()
    with CaptureQueriesContext(connection) as asked:
        assert revert(after, "it is slow")
    tables = [table for each in asked for table in ("tuning", "guard") if f'FROM "gateway_app_{table}"' in each["sql"]]
    assert tables[:2] == ["tuning", "guard"]  # as saving does: in PostgreSQL, else one of the two fails


@pytest.mark.django_db
def test_a_change_that_is_kept_by_hand_is_told_of():
    _, after = guarded()
    assert keep(after, "ada")
    assert (state(), Guard.objects.get().outcome) == (State.SUPERSEDED, "kept by hand")
    event = Event.objects.latest("id")
    assert (event.kind, event.author, event.reason) == ("config", "ada", f"guard of revision {after}: kept by hand")
    assert Tuning.objects.get().virtual_nodes == 200


@pytest.mark.django_db
def test_another_change_ends_it_but_an_order_does_not():
    Worker.objects.create(name="worker_1", host="h", port=1)
    _, after = guarded()
    worker = Worker.objects.get()
    worker.order, worker.order_number = "trip", 1
    worker.save()
    assert state() == State.WATCHING
    newest = tune(batch_size=8)
    guard = Guard.objects.get()
    assert guard.state == State.SUPERSEDED
    assert guard.outcome == f"revision {newest} was saved meanwhile: requests per batch 32 → 8"
    assert not revert(after, "too late")
    assert Tuning.objects.get().virtual_nodes == 200


@pytest.mark.django_db
def test_what_an_operator_ordered_meanwhile_is_not_undone():
    Worker.objects.create(name="worker_1", host="h", port=1)
    _, after = guarded()
    worker = Worker.objects.get()
    worker.order, worker.order_number = "trip", 7
    worker.save()
    assert revert(after, "it is slow")
    assert (Worker.objects.get().order, Worker.objects.get().order_number) == ("trip", 7)


# --- watching ---


@pytest.mark.parametrize(
    ("present", "says"),
    [
        (Present(errors=5), "taken back by itself: 5.0 % of 700 requests failed, the limit was 1.2 %"),
        (Present(p99_ms=40.0), "taken back by itself: p99 was 40.0 ms over 700 requests, the limit was 20.0 ms"),
    ],
)
async def test_what_does_harm_is_taken_back_with_the_reason(database, present, says):
    before, after = await in_thread(guarded)
    async with watching(present, after) as watcher:
        await until(lambda: (watcher.told() or {}).get("state") == "reverted")
        told = watcher.told()
    assert (told["revision"], told["back_to"], told["outcome"], told["left_s"]) == (after, before, says, 0.0)
    newest = await in_thread(Revision.objects.latest, "id")
    assert (newest.author, newest.comment) == ("guard", says)
    assert newest.payload["tuning"]["virtual_nodes"] == 100


async def test_what_does_no_harm_stays(database):
    # What there is in one look is enough, for its time may be over at the first.
    _, after = await in_thread(guarded, Wish(minutes=0.005))
    async with watching(Present(requests=LEAST_REQUESTS), after) as watcher:
        await until(lambda: (watcher.told() or {}).get("state") == "kept")
    assert (await in_thread(Revision.objects.latest, "id")).pk == after
    guard = await in_thread(Guard.objects.get)
    assert guard.outcome.startswith("kept: nothing has become worse in ")
    assert guard.decided >= guard.until


async def test_with_hardly_a_request_nothing_can_be_told(database):
    _, after = await in_thread(guarded, Wish(minutes=0.005))
    async with watching(Present(requests=0, p99_ms=None), after) as watcher:
        await until(lambda: (watcher.told() or {}).get("state") == "kept")
    assert (await in_thread(Guard.objects.get)).outcome == "kept: too few requests to tell: 0 requests since then"


async def test_it_is_judged_only_once_it_is_in_force_here(database):
    _, after = await in_thread(guarded)
    revision = after - 1
    watcher = GuardWatcher(Present(errors=50), lambda: revision)

    def told():
        return watcher.told() or {"state": ""}

    task = asyncio.create_task(watcher.run())
    await until(lambda: watcher.told() is not None)
    looks = 0

    async def another_look():
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.005)

    while looks < 30:
        await another_look()
    assert told()["state"] == "watching"
    revision = after
    await until(lambda: told()["state"] == "reverted")
    task.cancel()


async def test_one_bad_second_is_judged_once_however_often_orders_are_given(database, monkeypatch):
    monkeypatch.setattr(guards, "POLL_S", 3600.0)
    newest, looks = guards._newest, []

    def counted():
        looks.append(True)
        return newest()

    monkeypatch.setattr(guards, "_newest", counted)
    _, after = await in_thread(guarded)
    async with watching(Present(errors=50), after) as watcher:
        while len(looks) < 20:
            watcher.wake()
            await asyncio.sleep(0.005)
    assert await in_thread(state) == State.WATCHING
    assert watcher.told()["error_percent"] is None


async def test_two_gateways_take_it_back_once(database):
    _, after = await in_thread(guarded)
    async with watching(Present(errors=50), after) as one, watching(Present(errors=50), after) as other:
        await until(lambda: all((each.told() or {}).get("state") == "reverted" for each in (one, other)))
    assert await in_thread(Revision.objects.filter(author="guard").count) == 1


async def test_a_gateway_that_was_started_again_goes_on_watching(database):
    _, after = await in_thread(guarded)
    async with watching(Present(), after) as watcher:
        await until(lambda: (watcher.told() or {}).get("p99_ms") == 2.0)
    async with watching(Present(errors=50), after) as watcher:
        await until(lambda: (watcher.told() or {}).get("state") == "reverted")


async def test_a_revision_to_go_back_to_that_is_gone_is_told(database):
    before, after = await in_thread(guarded)
    await in_thread(Revision.objects.filter(pk=before).delete)
    async with watching(Present(errors=50), after) as watcher:
        await until(lambda: (watcher.told() or {}).get("state") == "kept")
        assert f"There is no revision {before} (any more)" in watcher.told()["outcome"]
        assert "50.0 % of 700 requests failed" in watcher.told()["outcome"]


async def test_while_nothing_is_watched_the_database_is_left_alone(database, monkeypatch):
    looks = 0
    newest = guards._newest

    def counted():
        nonlocal looks
        found = newest()
        looks += 1  # with what it has seen, not with what is saved from now on
        return found

    monkeypatch.setattr(guards, "_newest", counted)
    async with watching(Present(errors=50), 10) as watcher:
        await until(lambda: looks == 1)
        watcher.wake()
        await until(lambda: looks == 2)
        _, after = await in_thread(guarded)
        assert watcher.told() is None
        assert looks == 2
        watcher.wake()
        await until(lambda: (watcher.told() or {}).get("revision") == after)


async def test_a_database_that_is_away_is_asked_again(database, monkeypatch):
    _, after = await in_thread(guarded)
    newest, failures = guards._newest, 0

    def failing():
        nonlocal failures
        failures += 1
        if failures < 4:
            raise DatabaseUnavailable("away")
        return newest()

    monkeypatch.setattr(guards, "_newest", failing)
    async with watching(Present(), after) as watcher:
        await until(lambda: watcher.told() is not None)
