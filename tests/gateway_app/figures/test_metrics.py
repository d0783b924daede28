"""What Prometheus is told by a gateway: the numbers of /stats and of V2's statistics, and nothing that goes down."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from gateway_app.core.breaker import State
from gateway_app.core.call import Route
from gateway_app.figures import metrics
from gateway_app.figures.metrics import gateway_metrics, samples_of
from gateway_app.figures.stats import stats_of
from gateway_app.gateway import Gateway
from gateway_app.served import Totals
from inference_site import lifecycle
from inference_site.lib import frames
from inference_site.lib.frames import Tell
from inference_site.lib.window import BOUNDS_S, LatencyWindow
from tests.gateway_app.lineup import NAMES, POLICY, Cluster
from tests.gateway_app.scripted import ready
from tests.support.manyworkers import gateway_of, report
from tests.support.scrape import Scrape
from tests.support.waiting import until

DIGITS = {"model": "digits", "version": "1"}
ECHO = {"model": "echo", "version": "1"}


def scrape(gateway: Gateway) -> Scrape:
    return Scrape(samples_of(gateway).text())


async def test_the_numbers_are_those_of_stats() -> None:
    gateway, links = gateway_of(3)
    (model,) = gateway.lineup
    for number, (name, route) in enumerate(model.router.routes.items(), start=1):
        route.requests, route.failures, route.in_flight = 100 * number, number, number
        links[name].report(report(name, 10 * number, 50.0, 30.0))
    inference, router = model.inference, model.router
    inference.requests, inference.errors, inference.client_errors, inference.joined = 700, 3, 2, 5
    inference.hot.hits, router.spills, router.retries, router.hedges, router.hedge_wins = 11, 12, 13, 14, 15
    router.budget_exhausted, router.expired, router.cancelled, router.shed, router.suspects_refused = 16, 17, 18, 19, 20
    gateway.malformed = 4
    found, stats = scrape(gateway), stats_of(gateway)
    for name in metrics.TOTALS:
        assert found(f"inference_gateway_{name}_total") == stats["gateway"][name], name
    assert (found("inference_gateway_requests_total"), found("inference_gateway_client_errors_total")) == (704, 6)
    assert found("inference_gateway_in_flight") == stats["gateway"]["in_flight"] == 6
    for row in stats["workers"]:
        labels = {"worker": row["name"], **DIGITS}
        assert found("inference_worker_requests_total", **labels) == row["requests"]
        assert found("inference_worker_failures_total", **labels) == row["failures"]
        assert found("inference_worker_in_flight", **labels) == row["in_flight"]
        assert found("inference_worker_connected", worker=row["name"]) == row["connected"]
    counted = gateway.statistics("digits", "1")
    assert counted.computed == 60
    assert found("nv_inference_count", **DIGITS) == counted.inferences
    assert found("nv_inference_request_success", **DIGITS) == counted.success
    assert found("nv_cache_num_hits_per_model", **DIGITS) == counted.cache_hits == 60 + 11
    assert found("nv_inference_queue_duration_us", **DIGITS) == 150_000
    assert found("nv_cache_num_entries", **DIGITS) == 3000
    assert found("nv_inference_pending_request_count", **DIGITS) == stats["models"][0]["in_flight"] == 6


async def test_every_counter_of_the_gateway_is_told() -> None:
    gateway, _ = gateway_of(1)
    told = {name for name, kind in scrape(gateway).kinds.items() if name.startswith("inference_gateway_")}
    counted = stats_of(gateway)["gateway"]
    assert {f"inference_gateway_{name}_total" for name in metrics.TOTALS} < told
    assert {"hot_entries", *metrics.TOTALS} <= set(counted)


async def test_a_breaker_is_in_one_state() -> None:
    gateway, _ = gateway_of(3)
    (model,) = gateway.lineup
    breaker = model.router.routes["worker_2"].breaker

    def states() -> dict[str, list[str]]:
        found = scrape(gateway)
        return {
            name: [
                state
                for state in State
                if found("inference_worker_breaker_state", worker=name, state=state, **DIGITS) == 1
            ]
            for name in model.router.routes
        }

    assert states() == {"worker_1": ["CLOSED"], "worker_2": ["CLOSED"], "worker_3": ["CLOSED"]}
    for _ in range(breaker.config.failure_threshold):
        breaker.failure(breaker.acquire() or 0, "it failed")
    assert states() == {"worker_1": ["CLOSED"], "worker_2": ["OPEN"], "worker_3": ["CLOSED"]}
    assert scrape(gateway)("inference_worker_breaker_opens_total", worker="worker_2", **DIGITS) == 1


async def test_the_time_of_requests_is_counted_for_ever() -> None:
    gateway, _ = gateway_of(1)
    (model,) = gateway.lineup
    name = "inference_request_duration_seconds"
    for took_s in (1e-6, 0.003, 0.003, 2.0, 1000.0):
        model.inference.latency.add(took_s)
        for _ in range(40):  # more seconds than quantiles are taken of
            model.inference.latency.roll()
    model.inference.latency.add(0.1)
    assert model.inference.latency.quantiles_ms(0.5) == [pytest.approx(100, rel=0.1)]
    found = scrape(gateway)
    assert found(f"{name}_count", **DIGITS) == 6
    assert found(f"{name}_sum", **DIGITS) == pytest.approx(1002.106001)
    counts = dict(found.below(name, **DIGITS))
    for bound, count in counts.items():
        assert count == sum(took_s <= bound for took_s in (1e-6, 0.003, 0.003, 0.1, 2.0, 1000.0)), bound


def test_a_duration_is_not_above_the_bound_of_its_bucket() -> None:
    for index, bound in enumerate(BOUNDS_S):
        for took_s, expected in ((bound * 0.999, index), (bound * 1.001, index + 1)):
            window = LatencyWindow()
            window.add(took_s)
            assert list(window.ever).index(1) == expected


async def test_a_worker_of_another_version_has_no_numbers_rather_than_wrong_ones() -> None:
    gateway, links = gateway_of(2)
    stats = report("worker_1")
    stats["models"][0].update(cache_size="many", cache_util=None)
    links["worker_1"].report(stats)
    found = scrape(gateway)
    assert (found("nv_cache_num_entries", **DIGITS), found("nv_cache_util", **DIGITS)) == (1000, 0)


async def test_what_was_passed_on_and_joined_is_counted_at_its_worker(cluster: Cluster) -> None:
    """Requests that the gateway joins, one that its owner is too busy for, and one that it fails on."""
    await cluster.start()
    cluster.configure(policy=replace(POLICY, load_factor=1.25), hot_cache=False)
    gateway = cluster.gateway
    told = [cluster.ask(b"[7]") for _ in range(3)]
    for each in told:
        await each.output()
    found = scrape(gateway)
    assert found("inference_gateway_joined_total") == found.total("inference_worker_joined_total") == 2
    (owner,) = [name for name in NAMES if found("inference_worker_requests_total", worker=name, **ECHO)]
    assert found("inference_worker_joined_total", worker=owner, **ECHO) == 2
    route: Route = gateway.lineup.served["echo", "1"].router.routes[owner]
    route.in_flight += 1000  # so busy that others help
    await cluster.ask(b"[7]").output()
    route.in_flight -= 1000
    found = scrape(gateway)
    assert found("inference_gateway_spills_total") == found.total("inference_worker_spills_total") == 1
    assert found("inference_worker_spills_total", worker=owner, **ECHO) == 0
    worker = cluster.workers[owner]
    worker.answers = False
    told = [cluster.ask(b"[7]")]
    await until(lambda: route.in_flight)
    assert route.link is not None
    (call,) = route.link.pending()
    route.link.withdraw(call)
    route.router.answered(call, int(Tell.FAILED), 0, 503, b"it failed", 0)
    await told[0].output()
    found = scrape(gateway)
    assert found("inference_gateway_retries_total") == found.total("inference_worker_retries_total") == 1
    assert found("inference_worker_retries_total", worker=owner, **ECHO) == 1
    assert found("inference_worker_failures_total", worker=owner, **ECHO) == 1


async def test_nothing_goes_down_while_a_version_is_away(cluster: Cluster) -> None:
    await cluster.start()
    gateway = cluster.gateway
    for number in range(5):
        await cluster.answer(b"[%d]" % number)
    statistics = {
        "success": 5, "success_spread": {"20": 5}, "fail": 6, "fail_late": 2, "fail_engine": 1, "computed": 5,
        "queue_ns": 5000, "queue_spread": {"10": 5}, "batches": {"1": [3, 0], "2": [1, 0], "4096": [1, 0]},
        "executions": 5, "inferences": 4101, "cache_evictions": 9,
    }  # fmt: skip
    said = {"models": [{"number": 1, "statistics": statistics}]}
    await cluster.workers["worker_1"].open[0].send(frames.tell(Tell.STATS, 0, json.dumps(said).encode()))
    await until(lambda: gateway.links["worker_1"].stats)
    gateway.lineup.served["echo", "1"].router.second_opinions = 1
    before = scrape(gateway)
    for reason, count in {"REJECTED": 2, "BACKEND": 1, "OTHER": 2}.items():
        assert before("nv_inference_request_failure", reason=reason, **ECHO) == count
    assert before("inference_request_duration_seconds_count", **ECHO) == 5
    assert before.below("inference_queue_duration_seconds", **ECHO)[0] == (1.024e-06, 5)
    assert [count for _, count in before.below("inference_batch_size", **ECHO)] == [3, *[4] * 10, 5]
    assert before("nv_cache_num_evictions", **ECHO) == 9
    for name in NAMES:
        await cluster.tell(name, ready(1, "other"))
    await until(lambda: not gateway.lineup.ending and ("echo", "1") not in gateway.lineup.served)
    assert ECHO not in scrape(gateway).labels("nv_inference_count")
    for name in NAMES:
        await cluster.tell(name, ready(2))
    await until(lambda: len(cluster.numbers()) == 3)
    after = scrape(gateway).counters()
    of_workers = {"inference_worker_requests_total", "inference_worker_hits_total"}
    for key, value in before.counters().items():
        if key[0] not in of_workers:  # which begin anew with the version, as after a restart
            assert after.get(key, 0) >= value, key


async def test_it_is_taken_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, _ = gateway_of(1)
    service = SimpleNamespace(gateway=gateway, loop=asyncio.get_running_loop())
    monkeypatch.setattr(lifecycle, "_service", service)
    threads = []

    def noted(gateway: Gateway) -> Totals:
        threads.append(threading.current_thread())
        return gateway.lineup.totals()

    monkeypatch.setattr(metrics, "totals_of", noted)
    assert Scrape(await asyncio.to_thread(gateway_metrics))("inference_gateway_requests_total") == 0
    assert threads == [threading.current_thread()]
