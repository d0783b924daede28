"""Several models in one gateway: each has workers, breakers and counts of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway_app.core.breaker import State
from gateway_app.figures.modelstats import model_rows
from gateway_app.figures.stats import health_of, stats_of
from gateway_app.snapshot import WorkerEntry
from gateway_app.streams import links
from inference_site.lib.catalog import ModelInfo, ModelSettings
from inference_site.lib.catalog import State as ModelState
from tests.gateway_app.lineup import NAMES, Cluster, inputs
from tests.gateway_app.scripted import INFERENCES, TOKEN, Server, ready
from tests.support.waiting import PATIENCE_S, until
from tests.worker_app.echo_engine import EchoEngine, echo_node
from worker_app.node import Node
from worker_app.stream import Stream


async def test_each_model_is_found_by_its_name_and_has_counts_of_its_own(cluster: Cluster) -> None:
    await cluster.start(ready(1), ready(2, "other"), ready(3, "other", "2"))
    assert await cluster.answer() == ["echo", "1", "0"]
    assert await cluster.answer(name="other") == ["other", "2", "0"]
    assert await cluster.answer(name="other", version="1") == ["other", "1", "0"]
    rows = {(row["name"], row["version"]): row for row in model_rows(cluster.gateway)}
    assert {key: row["requests"] for key, row in rows.items()} == {
        ("echo", "1"): 1, ("other", "1"): 1, ("other", "2"): 1,
    }  # fmt: skip
    assert [key for key, row in rows.items() if row["default"]] == [("echo", "1")]
    assert rows["other", "2"]["workers"] == [
        {"name": name, "state": "READY", "reason": "", "number": 3} for name in NAMES
    ]
    stats = stats_of(cluster.gateway)
    assert [each["model"] for each in stats["circuit_breakers"]] == ["echo", "other/1", "other/2"] * 3
    assert stats["gateway"]["requests"] == 3


async def test_with_one_model_there_is_one_breaker_for_each_worker(cluster: Cluster) -> None:
    cluster.configure(workers=(WorkerEntry("worker_1", "127.0.0.1", 1),))
    before = stats_of(cluster.gateway)["circuit_breakers"]
    await cluster.start()
    after = stats_of(cluster.gateway)["circuit_breakers"]
    assert [(each["name"], each["model"]) for each in before] == [("worker_1", "")]
    assert [(each["name"], each["model"]) for each in after] == [(name, "echo") for name in NAMES]


async def test_workers_whose_only_model_is_unloaded_are_well(cluster: Cluster) -> None:
    await cluster.start()
    off = ModelInfo(number=0, name="echo", version="1", state=ModelState.UNAVAILABLE, reason="unloaded")
    cluster.configure(models={"echo": ModelSettings(loaded=False)})
    for name in NAMES:
        await cluster.tell(name, off)
    assert health_of(cluster.gateway)["healthy"]
    assert [(row["routable"], row["idle"]) for row in stats_of(cluster.gateway)["workers"]] == [(False, True)] * 3
    broken = ModelInfo(number=0, name="echo", version="1", state=ModelState.UNAVAILABLE, reason="it is truncated")
    for name in NAMES:
        await cluster.tell(name, broken)
    assert not health_of(cluster.gateway)["healthy"]


async def test_one_models_failures_leave_the_others_alone(cluster: Cluster) -> None:
    await cluster.start(ready(1), ready(2, "other"))
    for worker in cluster.workers.values():
        worker.output = lambda number, payload: b"[0]"
    sick = cluster.workers["worker_1"]
    link = cluster.gateway.links["worker_1"]
    echo, other = (model.router.routes["worker_1"] for model in cluster.gateway.lineup.served.values())
    for _ in range(5):
        echo.breaker.failure(1, "no memory for this model")
    assert (echo.breaker.state, other.breaker.state) == (State.OPEN, State.CLOSED)
    assert link.ready
    for each in inputs(40):
        await cluster.ask(each, "echo").output()
        await cluster.ask(each, "other").output()
    assert {kind[1] for kind in sick.open[0].asks if kind[0] in INFERENCES} == {2}
    (event,) = [each for each in cluster.gateway.events.recent if each.kind == "breaker"]
    assert event.reason.startswith("echo: 5 failures")


async def test_what_is_larger_than_a_worker_takes_is_refused_and_cuts_no_stream(
    cluster: Cluster, settings: Any
) -> None:
    settings.MAX_BODY_BYTES = 2000
    await cluster.start()
    fits, too_large = b"[%b]" % (b" " * 2000), b"[%b]" % (b" " * 2100)
    await cluster.ask(fits).output()
    told = cluster.ask(too_large)
    ((status, code),) = [(error.status, error.code) for error in told.errors]
    assert (status, code, "2102 bytes" in told.errors[0].message) == (413, "body_too_large", True)
    assert cluster.gateway.lineup.totals().client_errors == 1
    worker = cluster.workers["worker_2"]  # one that takes less than the others
    worker.max_ask_bytes = 1000
    for each in worker.open:
        await each.close()
    await until(lambda: cluster.gateway.links["worker_2"].max_ask_bytes and "worker_2" in cluster.numbers())
    assert (await cluster.ask(fits).error()).status == 413
    await cluster.ask(b"[%b]" % (b" " * 1000)).output()
    assert {len(payload) for each in cluster.workers.values() for _, payload in each.asked} == {2002, 1002}


async def test_a_worker_without_a_model_is_passed_over(cluster: Cluster) -> None:
    await cluster.start(ready(1), ready(2, "other"))
    await cluster.tell("worker_2", ready(1))
    assert cluster.numbers("other") == {"worker_1": 2, "worker_3": 2}
    for each in inputs(40):
        assert await cluster.answer(each, "other") == ["other", "1", "0"]
    await until(lambda: cluster.workers["worker_2"].used() == {1})


async def test_the_model_is_known_while_its_workers_are_away(cluster: Cluster) -> None:
    await cluster.start()
    for server in cluster.servers.values():
        await server.die()
    await until(lambda: not any(link.ready for link in cluster.gateway.links.values()))
    assert (await cluster.ask().error()).code == "no_worker_available"
    assert cluster.gateway.find("echo", None).info.state is ModelState.UNAVAILABLE
    assert [info.state for info in cluster.gateway.models()] == [ModelState.UNAVAILABLE]


async def test_what_is_not_to_be_kept_is_computed_each_time_and_a_model_may_have_its_own_deadline(
    cluster: Cluster,
) -> None:
    await cluster.start(ready(1, cached=False, deadline_ms=150))
    for _ in range(6):
        await cluster.answer()
    assert sum(len(worker.asked) for worker in cluster.workers.values()) == 6
    for worker in cluster.workers.values():
        worker.answers = False
    told = cluster.ask()
    while not told.errors:
        await asyncio.sleep(0.02)
        for model in cluster.gateway.lineup:
            model.router.tick()
    assert (told.errors[0].code, "0.15 s" in told.errors[0].message) == ("deadline_passed", True)


async def test_results_of_real_workers_move_along_when_one_of_them_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over real links, from a real worker with two models to another one."""
    cluster, nodes = Cluster(), {}
    try:
        for name in NAMES[:2]:
            nodes[name] = echo_node(EchoEngine(), EchoEngine(name="other"), name=name)
            nodes[name].start()
            cluster.servers[name] = Server(app_of(nodes[name]))
        cluster.configure(
            workers=tuple(WorkerEntry(name, "127.0.0.1", server.port) for name, server in cluster.servers.items())
        )
        await until(lambda: all(link.ready for link in cluster.gateway.links.values()))
        monkeypatch.setattr(links, "SHARE_WITHIN_S", PATIENCE_S)
        texts = [b"[%d,0,0,0]" % number for number in range(20)]
        for text in texts:
            for model in ("echo", "other"):
                await cluster.ask(text, model).output()
        leaver, heir = (nodes[name] for name in NAMES[:2])
        had = {model.name: len(model.results) for model in leaver.models.values()}
        assert min(had.values()) > 0
        leaver.drain()
        await until(lambda: {m.name: m.tally.kept for m in heir.models.values()} == had)
        assert cluster.gateway.links[NAMES[0]].sharing == 0
    finally:
        await cluster.end()
        for node in nodes.values():
            node.close()


def app_of(node: Node) -> Callable[[Any, Any, Any], Awaitable[None]]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Stream(node, TOKEN, send, bulk=scope["query_string"] == b"bulk").serve(scope, receive)

    return app


async def test_a_second_that_fails_is_not_the_last(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers report goes into these figures: a bug there must not end the counting for good."""
    await cluster.start()
    ticks: list[int] = []

    def tick(gateway: object) -> None:
        ticks.append(len(ticks))
        raise RuntimeError("a figure that can't be told")

    monkeypatch.setattr(cluster.gateway.history, "tick", tick)
    cluster.gateway.spawn(cluster.gateway._tick_each_second())
    await until(lambda: len(ticks) >= 2)
