"""Two minutes of a gateway: every second is what the counters have gained in it, whatever comes and goes meanwhile."""

import time
from random import Random
from typing import Any

import orjson
import pytest

from gateway_app.core.call import Route
from gateway_app.figures.history import KEPT_S, encoded
from gateway_app.figures.stats import stats_of
from gateway_app.gateway import Gateway
from tests.support.manyworkers import BookLink, gateway_of, report


class Books:
    """A gateway whose counters and clock a test moves."""

    def __init__(self, workers: int) -> None:
        self.gateway, self.links = gateway_of(workers)
        self.now = time.monotonic()
        self.history = self.gateway.history
        self.tick()

    def tick(self, seconds: float = 1.0) -> dict[str, Any]:
        """A second ends."""
        self.now += seconds
        for model in self.gateway.lineup:
            model.inference.latency.roll()
        self.history.tick(self.gateway)
        found = self.history.point
        assert found is not None
        return found

    def link(self, number: int) -> BookLink:
        return self.links[f"worker_{number}"]

    def route(self, number: int) -> Route:
        (route,) = self.link(number).routes
        return route

    def answer(
        self, number: int, hits: int = 0, computed: int = 0, took_ms: float = 10.0, worker_ms: float = 8.0
    ) -> None:
        """A worker has answered so many."""
        (model,) = self.gateway.lineup
        route = self.route(number)
        route.requests += hits + computed
        route.hits += hits
        route.computed += computed
        route.sent_s += computed * took_ms / 1000
        route.worker_s += computed * (took_ms - 2) / 1000
        model.inference.requests += hits + computed
        for _ in range(hits + computed):
            model.inference.latency.add(took_ms / 1000)


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    made: list[Books] = []
    monkeypatch.setattr(time, "monotonic", lambda: made[0].now if made else 0.0)
    found = Books(3)
    made.append(found)
    found.tick()
    return found


async def test_a_second_is_what_the_counters_gained(books: Books) -> None:
    books.answer(1, hits=30, computed=10)
    books.answer(2, computed=20)
    books.route(3).in_flight = 4
    books.link(1).report(report("worker_1", computed=0))
    point = books.tick(seconds=2.0)
    assert (point["rate"], point["hit_rate"], point["network"], point["errors"]) == (30.0, 0.5, 2.0, 0.0)
    assert point["p50"] == pytest.approx(10.0, rel=0.1)
    assert [each["rate"] for each in point["workers"].values()] == [20.0, 10.0, 0.0]
    assert [each["in_flight"] for each in point["workers"].values()] == [0, 0, 4]
    quiet = books.tick()
    assert (quiet["rate"], quiet["p99"], quiet["hit_rate"], quiet["network"]) == (0.0, None, None, None)


async def test_errors_of_the_last_seconds_and_their_latency(books: Books) -> None:
    (model,) = books.gateway.lineup
    books.answer(1, computed=90)
    books.tick()
    books.answer(1, computed=8, took_ms=500.0)
    model.inference.requests += 2
    model.inference.errors += 2
    books.tick()
    recent = books.history.recent(1)
    assert (recent["requests"], recent["errors"], recent["error_percent"]) == (10, 2, 20.0)
    assert recent["p99_ms"] == pytest.approx(500.0, rel=0.1)
    assert books.history.recent(2)["error_percent"] == 2.0
    for _ in range(3):
        books.tick()
    assert books.history.recent(3) == {"requests": 0, "errors": 0, "error_percent": None, "p99_ms": None}


async def test_what_workers_report_of_themselves(books: Books) -> None:
    link = books.link(1)
    link.report(report("worker_1", computed=100, queue_ms=100.0, compute_ms=300.0))
    point = books.tick()
    assert (point["queue"], point["compute"]) == (1.0, 3.0)
    link.report(report("worker_1", computed=150, queue_ms=200.0, compute_ms=350.0))
    link.report(report("worker_1", computed=200, queue_ms=300.0, compute_ms=400.0))
    books.tick()
    books.tick()  # it says nothing in this second: not even that it has computed nothing
    link.report(report("worker_1", computed=200, queue_ms=300.0, compute_ms=400.0))
    books.tick()
    assert books.history.arrivals("worker_1") == [200.0, 100.0, 0.0]
    assert books.history.arrivals("worker_1", model=("digits", "1")) == [200.0, 100.0, 0.0]
    assert books.history.arrivals("worker_1", model=("digits", "2")) == [0.0, 0.0, 0.0]
    assert books.history.arrivals("worker_1", seconds=3) == [100.0, 0.0]
    assert books.history.arrivals("worker_9") == []
    gateway = stats_of(books.gateway)["gateway"]
    assert gateway["split_ms"] == {"gateway": None, "network": None, "queue": 1.5, "compute": 2.0}


async def test_a_worker_that_starts_anew_counts_from_nothing(books: Books) -> None:
    link = books.link(1)
    link.report(report("worker_1", computed=1000, queue_ms=9.0, compute_ms=9.0))
    books.tick()
    link.report(report("worker_1", computed=10, queue_ms=1.0, compute_ms=1.0))
    assert books.tick()["queue"] is None
    link.report(report("worker_1", computed=20, queue_ms=3.0, compute_ms=1.0))
    assert books.tick()["queue"] == 0.2


async def test_what_a_worker_says_may_be_anything(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    link = books.link(1)
    for nonsense in ({}, {"models": None}, {"models": [1]}, {"models": [{"statistics": {"computed": "x"}}]}):
        link.report(nonsense)
        assert books.tick()["queue"] is None
        stats_of(books.gateway)
    assert "worker_1 sends numbers that can't be read" in caplog.text


async def test_workers_come_and_go_and_no_figure_is_ever_negative(books: Books) -> None:
    gateway, chance = books.gateway, Random(5)
    computed = dict.fromkeys(books.links, 0)
    for _ in range(200):
        for number in (1, 2, 3):
            books.answer(number, hits=chance.randrange(3), computed=chance.randrange(3))
        name = f"worker_{chance.randrange(3) + 1}"
        if chance.random() < 0.2:  # its route is made anew
            (model,) = gateway.lineup
            del model.router.routes[name]
            model.router.configure(model.router.ring, (), model.router.policy)
            gateway.lineup._connect_routes()
        if chance.random() < 0.2:
            computed[name] = 0
        else:
            computed[name] += chance.randrange(100)
        books.links[name].report(report(name, computed[name], computed[name] * 2.0, computed[name] * 3.0))
        if chance.random() < 0.1 and len(gateway.links) > 1:
            gateway.links.pop(name, None)
        else:
            gateway.links.update(books.links)  # type: ignore[arg-type]
        point = books.tick(chance.choice([0.9, 1.0, 1.1, 3.0]))
        numbers = [point[each] for each in ("rate", "errors", "hit_rate", "queue", "compute", "network")]
        numbers += [each["rate"] for each in point["workers"].values()]
        assert all(number is None or number >= 0 for number in numbers), point
        assert set(point["workers"]) == set(gateway.links)
    assert len(books.history.points) == KEPT_S
    moments = [point["t"] for point in books.history.points]
    assert moments == sorted(set(moments))


async def test_a_renamed_worker_goes_on_under_its_new_name(books: Books) -> None:
    gateway = books.gateway
    books.answer(1, computed=50)
    books.tick()
    books.answer(1, computed=5)
    gateway.links["north"] = gateway.links.pop("worker_1")
    assert books.tick()["workers"]["north"]["rate"] == 5.0


async def test_what_is_sent_is_what_there_is(books: Books) -> None:
    books.answer(1, computed=5)
    books.tick()
    assert orjson.loads(encoded(books.history)) == {"step_s": 1, "points": books.history.points}


async def test_the_figures_of_now_are_of_each_worker_and_of_all(books: Books) -> None:
    (model,) = books.gateway.lineup
    for _ in range(5):
        books.answer(1, hits=30, computed=10)
        books.answer(2, computed=20)
        model.inference.requests += 40
        model.inference.hot.hits += 40
        books.tick()
    stats = stats_of(books.gateway)
    first, second, third = stats["workers"]
    assert [each["requests_per_s"] for each in (first, second, third)] == [40.0, 20.0, 0.0]
    assert [each["recent_hit_rate"] for each in (first, second, third)] == [0.75, 0.0, None]
    assert (first["split_ms"], third["split_ms"]) == ({"network": 2.0, "queue": None, "compute": None}, None)
    assert stats["gateway"]["hit_rate"] == 0.7  # (30 + 40) of (30 + 10 + 20 + 40)
    assert (stats["gateway"]["processes"], stats["gateway"]["processes_current"]) == (4, 4)
    books.link(2).revision -= 1
    books.link(3).ready = False
    gateway = stats_of(books.gateway)["gateway"]
    assert (gateway["processes"], gateway["processes_current"]) == (3, 2)


def the_size(value: Any) -> int:
    return len(orjson.dumps(value))


async def test_with_a_hundred_workers_the_figures_stay_within_bounds() -> None:
    gateway, links = gateway_of(100)
    for second in range(KEPT_S):
        for name, link in links.items():
            link.report(report(name, 1000 * second, 9.0, 9.0))
        gateway.history.tick(gateway)
    for number in range(1000):
        gateway.events.add("breaker", "r" * 1000, worker=f"worker_{number}")
    one: Gateway = gateway_of(1)[0]
    stats, alone = stats_of(gateway), stats_of(one)
    assert len(stats["events"]) == 50
    assert the_size({**stats, "events": []}) < 100 * the_size({**alone, "events": []})
    assert the_size(stats) < 400_000
    assert the_size(stats["point"]) * KEPT_S < 1_000_000
