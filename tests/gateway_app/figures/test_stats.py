"""The numbers of a gateway, taken where they change."""

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway_app.catalog import UNLOADED
from gateway_app.core.breaker import Breaker, BreakerConfig
from gateway_app.core.call import Route
from gateway_app.eventlog.events import EventLog
from gateway_app.figures.stats import gateway_health, gateway_stats
from gateway_app.gateway import Gateway
from gateway_app.snapshot import Snapshot, WorkerEntry
from gateway_app.streams.links import WorkerLink
from inference_site import lifecycle
from inference_site.lib.catalog import ModelInfo, Models, State
from inference_site.lib.trace import Parts, Trace, now_text


class ObservedRoute(Route):
    """Notes which threads look at it."""

    seen_by: set[threading.Thread]

    @property
    def routable(self) -> bool:
        self.seen_by.add(threading.current_thread())
        return True


EVENT_KEYS = ["at", "age_s", "kind", "worker", "model", "before", "after", "reason", "author"]


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    gateway = Gateway("")
    gateway.snapshot = Snapshot(3, (WorkerEntry("worker_1", "h", 1, isolated=True), WorkerEntry("off", "h", 2)))
    route = ObservedRoute("worker_1", Breaker(BreakerConfig(), time.monotonic))
    route.seen_by = set()
    (model,) = gateway.lineup
    model.router.routes["worker_1"] = route
    link = SimpleNamespace(
        leaving=False, up=True, ready=True, since=time.monotonic(), last_error="", stats=None, revision=3
    )
    gateway.links["worker_1"] = cast(WorkerLink, link)
    service = SimpleNamespace(gateway=gateway, loop=asyncio.get_running_loop())
    monkeypatch.setattr(lifecycle, "_service", service)
    return gateway


@pytest.mark.parametrize("report", [gateway_stats, gateway_health])
async def test_a_report_asked_for_by_a_thread_is_taken_on_the_loop(
    gateway: Gateway, report: Callable[[], dict[str, Any]]
) -> None:
    assert await asyncio.to_thread(report)
    (route,) = gateway.lineup.routes("worker_1")
    assert isinstance(route, ObservedRoute)
    assert route.seen_by == {threading.current_thread()}


async def test_every_configured_worker_is_there_with_what_is_known_of_it(gateway: Gateway) -> None:
    stats = await asyncio.to_thread(gateway_stats)
    first, off = stats["workers"]
    assert (first["name"], first["isolated"], first["routable"]) == ("worker_1", True, True)
    assert (off["name"], off["isolated"], off["routable"], off["in_flight"]) == ("off", False, False, 0)
    assert list(first) == list(off)
    assert [breaker["name"] for breaker in stats["circuit_breakers"]] == ["worker_1"]


def announce(gateway: Gateway, *models: ModelInfo) -> None:
    gateway.lineup.catalog.announce("worker_1", Models(revision=3, default="", models=models))


async def test_workers_without_a_model_that_anybody_wants_are_healthy(gateway: Gateway) -> None:
    gateway.snapshot = Snapshot(3, (WorkerEntry("worker_1", "h", 1), WorkerEntry("off", "h", 2)))
    (model,) = gateway.lineup
    model.router.routes.clear()
    announce(gateway)
    health = await asyncio.to_thread(gateway_health)
    assert (health["healthy"], health["routable_workers"], health["idle_workers"]) == (True, 0, 1)
    assert "have found no model" in health["no_model"]
    gone = ModelInfo(number=0, name="linear", version="2", state=State.UNAVAILABLE, reason=UNLOADED)
    announce(gateway, gone)
    health = await asyncio.to_thread(gateway_health)
    assert (health["healthy"], "unloaded: linear;" in health["no_model"]) == (True, True)
    assert [row["idle"] for row in (await asyncio.to_thread(gateway_stats))["workers"]] == [True, False]


@pytest.mark.parametrize("state", [State.LOADING, State.UNAVAILABLE])
async def test_a_model_that_is_missing_is_no_health(gateway: Gateway, state: State) -> None:
    gateway.snapshot = Snapshot(3, (WorkerEntry("worker_1", "h", 1),))
    (model,) = gateway.lineup
    model.router.routes.clear()
    announce(gateway, ModelInfo(number=0, name="linear", version="2", state=state, reason="it is broken"))
    health = await asyncio.to_thread(gateway_health)
    assert (health["healthy"], health["idle_workers"], health["no_model"]) == (False, 0, "")


async def test_who_is_not_connected_or_kept_out_is_not_idle(gateway: Gateway) -> None:
    (model,) = gateway.lineup
    model.router.routes.clear()
    announce(gateway)
    assert not (await asyncio.to_thread(gateway_health))["healthy"]  # it is isolated
    gateway.snapshot = Snapshot(3, (WorkerEntry("worker_1", "h", 1),))
    assert (await asyncio.to_thread(gateway_health))["healthy"]
    gateway.links["worker_1"].leaving = True
    assert not (await asyncio.to_thread(gateway_health))["healthy"]


async def test_whose_process_is_about_to_stop_is_draining_until_it_is_gone(gateway: Gateway) -> None:
    gateway.snapshot = Snapshot(3, (WorkerEntry("worker_1", "h", 1),))
    link = gateway.links["worker_1"]
    asked = "draining", "leaving", "connected"

    async def row() -> dict[str, Any]:
        (found,) = (await asyncio.to_thread(gateway_stats))["workers"]
        return dict(found)

    assert [(await row())[key] for key in asked] == [False, False, True]
    link.leaving = True
    assert [(await row())[key] for key in asked] == [True, True, True]
    link.up = link.ready = False
    link.since = time.monotonic() - 200
    gone = await row()
    assert [gone[key] for key in asked] == [False, True, False]
    assert gone["connection_s"] >= 200


async def test_the_newest_fifty_events_are_shown_newest_last(gateway: Gateway) -> None:
    gateway.events = EventLog()
    for number in range(55):
        gateway.events.add("breaker", str(number), worker=f"worker_{number}", before="CLOSED", after="OPEN")
    shown = (await asyncio.to_thread(gateway_stats))["events"]
    assert [event["reason"] for event in shown] == [str(number) for number in range(5, 55)]
    assert list(shown[0]) == EVENT_KEYS
    assert shown[0]["age_s"] >= shown[-1]["age_s"] >= 0


async def test_the_gateways_own_part_of_the_time_is_that_of_a_sample_of_late(gateway: Gateway) -> None:
    def trace(at: str, kept: str, cache: str | None, own_ms: float, waiting_ms: float = 0.0) -> Trace:
        parts = Parts(gateway=own_ms, waiting=waiting_ms, compute=3.0)
        return Trace("i", at, "digits", "1", "", 200, "w", cache, "owner", "w", [], None, parts, own_ms + 3.0, kept)

    assert (await asyncio.to_thread(gateway_stats))["gateway"]["split_ms"] is None
    gateway.traces.add(trace("2020-01-01T00:00:00.000Z", "sampled", "miss", 50.0))
    assert (await asyncio.to_thread(gateway_stats))["gateway"]["split_ms"] is None
    gateway.traces.add(trace(now_text(), "sampled", "miss", 0.1))
    gateway.traces.add(trace(now_text(), "sampled", "miss", 0.1, waiting_ms=0.2))
    for kept, cache in (("failed", None), ("slow", "miss"), ("sampled", "gateway"), ("explained", "miss")):
        gateway.traces.add(trace(now_text(), kept, cache, 70.0))  # none of these is a sample of what is computed
    split = (await asyncio.to_thread(gateway_stats))["gateway"]["split_ms"]
    assert split == {"gateway": 0.2, "network": None, "queue": None, "compute": None}
