"""Another version or file takes the place of one that serves: nothing is lost, and nothing old is answered."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway_app.core.breaker import State
from gateway_app.figures.modelstats import model_rows
from inference_site.lib import asks, frames
from inference_site.lib.catalog import ModelInfo
from inference_site.lib.catalog import State as ModelState
from inference_site.lib.frames import Tell
from tests.gateway_app.lineup import NAMES, Cluster, Told, inputs
from tests.gateway_app.scripted import Server, ready, result
from tests.support.waiting import until


@pytest.mark.parametrize(("version", "digest"), [("1", "new"), ("2", "new")])
async def test_a_switch_under_load_loses_nothing_and_nothing_old_is_answered_after_it(
    cluster: Cluster, version: str, digest: str
) -> None:
    await cluster.start()
    hot = [await cluster.answer(b"[0]") for _ in range(8)]
    assert hot == [["echo", "1", "0"]] * 8
    asked: list[tuple[bool, Told]] = []
    stop = False

    async def load() -> None:
        number = 0
        while not stop:
            number += 1
            switched = cluster.gateway.find(None, None).info.digest == digest
            asked.append((switched, cluster.ask(b"[%d]" % (number % 40))))
            await asyncio.sleep(0)

    async def some_more() -> None:
        enough = len(asked) + 20
        await until(lambda: len(asked) > enough)

    def only_new() -> bool:
        cluster.gateway.lineup.end_idle()  # as the gateway does each second
        return all(worker.used() == {2} for worker in cluster.workers.values())

    loading = asyncio.create_task(load())
    await until(lambda: len(asked) > 50)
    for name in NAMES:
        waits = ModelInfo(number=0, name="echo", version=version, state=ModelState.LOADING)
        await cluster.tell(name, ready(1), waits)
        await some_more()
    for name in NAMES:
        assert cluster.gateway.find(None, None).info.digest == "0"
        await cluster.tell(name, ready(1, current=False), ready(2, version=version, digest=digest))
        await some_more()
    assert cluster.gateway.find(None, None).info.digest == digest
    await until(only_new)
    for name in NAMES:
        await cluster.tell(name, ready(2, version=version, digest=digest))
    await until(lambda: sum(switched for switched, _ in asked) > 20)
    stop = True
    await loading
    for switched, told in asked:
        answer = json.loads(await told.output())
        assert answer[2] == digest if switched else answer[2] in ("0", digest)
    assert cluster.gateway.in_flight == 0


async def test_a_worker_that_cannot_load_it_keeps_the_old_one_and_says_why(cluster: Cluster) -> None:
    await cluster.start()
    for name in NAMES[:2]:
        await cluster.tell(name, ready(1, current=False), ready(2, digest="new"))
    broken = ModelInfo(number=0, name="echo", version="1", state=ModelState.UNAVAILABLE, reason="it is truncated")
    await cluster.tell(NAMES[2], ready(1), broken)
    assert {(await cluster.answer(each))[2] for each in inputs(30)} == {"0"}
    assert cluster.numbers() == dict.fromkeys(NAMES, 1)
    await until(lambda: all(worker.used() == {1} for worker in cluster.workers.values()))
    (row,) = model_rows(cluster.gateway)
    assert (row["state"], row["digest"]) == ("READY", "0")
    assert row["workers"][2] == {
        "name": NAMES[2], "state": "READY", "number": 1,
        "reason": "the last change is not in force: it is truncated; what was loaded serves on",
    }  # fmt: skip
    said = "the last change is not in force: worker_3: it is truncated; what was loaded serves on"
    assert row["reason"] == said
    assert [(info.state, info.reason) for info in cluster.gateway.models()] == [(ModelState.READY, said)]


async def test_what_the_old_version_has_begun_it_ends_before_it_is_let_go(cluster: Cluster) -> None:
    await cluster.start()
    for worker in cluster.workers.values():
        worker.answers = False
    told = cluster.ask()
    await until(lambda: any(each.asked for each in cluster.workers.values()))
    (worker,) = [each for each in cluster.workers.values() if each.asked]
    for name in NAMES:
        await cluster.tell(name, ready(1, current=False), ready(2, version="2"))
    assert cluster.gateway.find(None, None).info.version == "2"
    assert cluster.gateway.in_flight == 1
    await until(lambda: worker.used() == {1, 2})
    ((ident, payload),) = worker.asked
    await worker.open[0].send(result(ident, payload, b"[5]"))
    assert await told.output() == b"[5]"
    cluster.gateway.lineup.end_idle()
    await until(lambda: all(each.used() == {2} for each in cluster.workers.values()))
    assert cluster.gateway.lineup.totals().requests == 1  # what is gone has been counted


async def test_a_number_that_is_gone_costs_no_attempt_and_others_answer(cluster: Cluster) -> None:
    await cluster.start()
    owner = cluster.gateway.lineup.served["echo", "1"].router.ring.owners(
        asks.key_of(b"[1]", asks.seed_of("echo", "1"))
    )
    cluster.workers[owner[0]].models = ()  # without saying so
    told = cluster.ask()
    await told.output()
    assert b"x-attempts: 1" in told.headers
    assert cluster.numbers() == {name: 1 for name in NAMES if name != owner[0]}
    assert cluster.gateway.links[owner[0]].routes[0].breaker.failures == 0
    await cluster.tell(owner[0], ready(4))
    assert cluster.numbers()[owner[0]] == 4


async def test_gone_everywhere_is_no_workers_failure(cluster: Cluster) -> None:
    await cluster.start()
    for worker in cluster.workers.values():
        worker.models = ()
    error = await cluster.ask().error()
    assert (error.status, error.code) == (503, "no_worker_available")
    assert "has not loaded it" in error.message
    assert all(route.breaker.state is State.CLOSED for route in cluster.gateway.lineup.routes(NAMES[0]))


async def test_a_call_that_was_under_way_to_an_old_number_goes_to_the_new_one_of_the_same_worker(
    cluster: Cluster,
) -> None:
    cluster.workers = {"worker_1": cluster.workers["worker_1"]}
    (worker,) = cluster.workers.values()
    await cluster.start()
    worker.answers = False
    told = cluster.ask()
    await until(lambda: worker.asked)
    await cluster.tell("worker_1", ready(2, digest="new"))
    worker.answers = True
    ((ident, _),) = worker.asked
    await worker.open[0].send(frames.tell(Tell.GONE, ident, b""))
    assert json.loads(await told.output())[2] == "new"
    assert b"x-attempts: 1" in told.headers


async def test_a_new_process_is_asked_under_its_own_numbers_and_not_before_it_has_its_settings(
    cluster: Cluster,
) -> None:
    await cluster.start()
    worker = cluster.workers["worker_1"]
    await cluster.servers["worker_1"].die()
    await until(lambda: "worker_1" not in cluster.numbers())
    worker.instance, worker.models, worker.says_models = "second", (ready(9),), False
    worker.revision = -1
    port = cluster.servers["worker_1"].port
    cluster.servers["worker_1"] = Server(worker, port)
    await until(lambda: worker.revision == cluster.snapshot.revision and cluster.gateway.links["worker_1"].up)
    worker.revision -= 1
    await worker.tell_models()
    await asyncio.sleep(0.1)
    assert not cluster.gateway.links["worker_1"].ready  # that is what it had by older settings
    assert {(await cluster.answer(each))[0] for each in inputs(20)} == {"echo"}
    worker.revision += 1
    await worker.tell_models()
    await until(lambda: cluster.numbers().get("worker_1") == 9)
    await until(lambda: worker.used() == {9})
