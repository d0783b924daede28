"""What Prometheus is told by a worker: the numbers of /health and of V2's statistics, and nothing that goes down."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from inference_site import lifecycle
from inference_site.lib.catalog import ModelSettings, Statistics
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Tell
from tests.support.scrape import Scrape
from tests.worker_app.asker import Asker
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_node
from tests.worker_app.file_engine import Shelf
from tests.worker_app.nodes import FakeStream, ask, settled, wish
from worker_app import metrics
from worker_app.core.lru import LRU
from worker_app.engine import EngineError
from worker_app.metrics import samples_of, worker_metrics
from worker_app.node import Node
from worker_app.stats import node_health

ECHO = {"model": "echo", "version": "1"}


def scrape(node: Node) -> Scrape:
    return Scrape(samples_of(node).text())


def bytes_of(*values: float) -> bytes:
    return np.array(values, "f4").tobytes()


async def test_the_numbers_are_those_of_health_and_of_statistics(start: Start) -> None:
    engine = EchoEngine()
    engine.refuses = {
        bytes_of(8, 0, 0, 0): ApiError(422, "model_refused_input", "it can't be run"),
        bytes_of(9, 0, 0, 0): EngineError("the device is away"),
    }
    node = echo_node(engine, cache_entries=3)
    asker = Asker(node)
    asker.ask([7, 0, 0, 0], "late", left_ms=1)
    await asyncio.sleep(0.005)
    start(node)
    await asker.everything()
    assert asker.answers["late"][0] is Tell.EXPIRED
    for number in (1, 2, 1, 3, 4, 8, 9, 4):
        await asker.answer([number, 0, 0, 0])
    for _ in range(2):  # the second waits for the first one's result
        asker.ask([5, 0, 0, 0])
    await asker.everything()
    found, health, counted = scrape(node), node_health(node), node.statistics("echo", "1")
    assert found("inference_requests_total") == health["total_requests"] == 11
    assert found("inference_joined_total") == health["joined"] == 1
    assert found("inference_abandoned_total") == health["abandoned"] == 0
    assert found("nv_inference_request_success", **ECHO) == counted.success == 8
    assert found("nv_cache_num_hits_per_model", **ECHO) == health["cache_hits"] == 2
    assert found("nv_cache_num_misses_per_model", **ECHO) == counted.cache_misses
    assert found("nv_inference_count", **ECHO) == counted.inferences == 5
    assert found("nv_inference_exec_count", **ECHO) == counted.executions == 5
    assert found("nv_inference_compute_infer_duration_us", **ECHO) == counted.compute_infer_ns // 1000 == 10
    for reason in ("REJECTED", "BACKEND", "OTHER"):
        assert found("nv_inference_request_failure", reason=reason, **ECHO) == 1
    assert counted.fail == 3
    assert found("nv_cache_num_entries", **ECHO) == health["cache_size"] == 3
    assert (found("nv_cache_num_evictions", **ECHO), found("nv_cache_util", **ECHO)) == (2, 1)
    assert found("nv_inference_pending_request_count", **ECHO) == health["queue"] == 0


async def test_histograms_count_each_request_once(start: Start) -> None:
    node = echo_node()
    asker = Asker(start(node))
    for number in (1, 2, 1, 3):
        await asker.answer([number, 0, 0, 0])
    found, counted = scrape(node), node.statistics("echo", "1")
    assert found("inference_request_duration_seconds_count", **ECHO) == counted.success == 4
    assert found("inference_request_duration_seconds_sum", **ECHO) == counted.success_ns / 1e9
    assert found("inference_queue_duration_seconds_count", **ECHO) == counted.computed == 3
    assert found("inference_queue_duration_seconds_sum", **ECHO) == counted.queue_ns / 1e9
    assert found("inference_compute_duration_seconds_count", **ECHO) == 3
    assert found("inference_compute_duration_seconds_sum", **ECHO) == 18_000 / 1e9
    below = dict(found.below("inference_compute_duration_seconds", **ECHO))
    assert (below[4.096e-06], below[8.192e-06]) == (0, 3)
    assert found.below("inference_batch_size", **ECHO)[0] == (1, 3)
    assert found("inference_batch_size_sum", **ECHO) == counted.inferences == 3


async def test_what_waits_is_pending() -> None:
    node = echo_node()
    asker = Asker(node)
    for number in range(4):
        asker.ask([number, 0, 0, 0])
    assert scrape(node)("nv_inference_pending_request_count", **ECHO) == 4


async def test_nothing_goes_down_when_a_version_is_loaded_anew(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "old")
    node = start(shelf.node(cache_entries=1))
    stream = FakeStream(uses=frozenset((1,)))
    node.joined(stream)
    for number in (1, 2, 2):
        await ask(node, [number, 0])
    before = scrape(node)
    assert before("nv_cache_num_evictions", model="a", version="1") == 1
    shelf.put("a", "1", "new")
    node.configure(wish(1, a=ModelSettings(order=1)))
    await settled(node)
    both = scrape(node)  # the old one is in use yet; each set of labels is there once
    stream.uses = frozenset((2,))
    node.collect()
    await ask(node, [1, 0])
    after = scrape(node)
    assert after("nv_inference_count", model="a", version="1") == 3
    for key, value in before.counters().items():
        assert value <= both.counters()[key] <= after.counters()[key], key


async def test_it_is_taken_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    service = SimpleNamespace(plane=SimpleNamespace(node=echo_node()), loop=asyncio.get_running_loop())
    monkeypatch.setattr(lifecycle, "_service", service)
    threads = []

    def noted(node: Node) -> dict[str, object]:
        threads.append(threading.current_thread())
        return node_health(node)

    monkeypatch.setattr(metrics, "node_stats", noted)
    assert Scrape(await asyncio.to_thread(worker_metrics))("inference_requests_total") == 0
    assert threads == [threading.current_thread()]


def test_statistics_of_two_processes_add_up() -> None:
    found = Statistics(success_spread={3: 1}, fail_late=1)
    found.add(Statistics(success_spread={3: 2, 9: 1}, queue_spread={1: 1}, fail_late=2, fail_engine=4))
    assert (found.success_spread, found.queue_spread, found.compute_spread) == ({3: 3, 9: 1}, {1: 1}, {})
    assert (found.fail_late, found.fail_engine) == (3, 4)
    assert Statistics().success_spread == {}


def test_only_what_is_forgotten_for_want_of_room_is_an_eviction() -> None:
    lru: LRU[int, int] = LRU(2, 100)
    assert lru.util == 0
    lru.put(1, 1, 10)
    lru.put(1, 2, 80)  # in place of what it had
    assert (lru.evictions, lru.util) == (0, 0.8)
    lru.put(2, 1, 10)
    lru.put(3, 1, 10)
    lru.put(4, 1, 200)  # larger than all of it
    assert (lru.evictions, lru.util) == (1, 1)
    lru.resize(1, 100)
    assert lru.evictions == 2
    lru.clear()
    lru.resize(0, 100)
    lru.put(1, 1, 1)  # nothing is kept
    assert (lru.evictions, lru.util, len(lru)) == (2, 0, 0)
