"""What a tried version does not answer: the stable one does, soon, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import replace

import pytest

from gateway_app.core.breaker import State as Breaker
from inference_site.lib.catalog import ModelInfo, State
from tests.gateway_app.canaries.trying import BOTH, CANARY, NO, ONE, TRIAL, answers_no, inputs_of, start, versions
from tests.gateway_app.lineup import NAMES, Cluster, Told
from tests.gateway_app.scripted import Server
from tests.support.waiting import until


@pytest.mark.parametrize("kind", NO)
async def test_what_it_does_not_answer_is_answered_by_the_stable_version(cluster: Cluster, kind: str) -> None:
    await start(cluster)
    own, _ = inputs_of(cluster, 20)
    answers_no(cluster.workers[CANARY], kind)
    told = [cluster.ask(text) for text in own]
    assert {json.loads(await each.output())[1] for each in told} == {"1"}
    asked_twice = kind in ("refused", "failed", "too late")  # who is full, or has not got it, has done nothing
    assert (b"x-attempts: 2" in told[0].headers) is asked_twice
    totals = cluster.gateway.lineup.totals()
    assert (totals.requests, totals.errors, totals.client_errors, totals.cancelled) == (len(own), 0, 0, 0)
    assert cluster.gateway.lineup.trials.counts.passed_on == len(own)
    assert cluster.gateway.lineup.served["echo", "1"].inference.requests == 0


async def test_an_explanation_says_what_the_tried_version_did_not_answer(cluster: Cluster) -> None:
    await start(cluster)
    own, _ = inputs_of(cluster, 1)
    worker = cluster.workers[CANARY]
    worker.answers = False
    told = Told()
    cluster.gateway.find("echo", None).ask(own[0], told, 60_000, time.monotonic() - 0.001)
    (trying,) = cluster.gateway.lineup.trials.trying
    await until(lambda: time.monotonic() > trying._began + 0.02)
    worker.answers = True
    cluster.gateway.lineup.trials.tick(trying._half)
    await told.output()
    found = json.loads(told.headers.partition(b"x-explain: ")[2])
    assert (found["status"], found["version"]) == (200, "1")
    tried, *answered = found["attempts"]
    assert (tried["worker"], tried["outcome"]) == (CANARY, "failed")
    assert tried["reason"] == "version 2: half of the request's time is over"
    assert [each["outcome"] for each in answered] == ["answered"]
    assert 20 <= tried["took_ms"] <= found["parts_ms"]["waiting"] + 0.001
    assert sum(part or 0.0 for part in found["parts_ms"].values()) == pytest.approx(found["total_ms"], abs=0.01)


async def test_a_dead_worker_loses_nothing_and_one_that_is_back_goes_on(cluster: Cluster) -> None:
    await start(cluster)
    own, _ = inputs_of(cluster)
    cluster.workers[CANARY].answers = False
    told = [cluster.ask(text) for text in own]
    await until(lambda: len(cluster.workers[CANARY].asked) >= len(own))
    port = cluster.servers[CANARY].port
    await cluster.servers[CANARY].die()
    assert {json.loads(await each.output())[1] for each in told} == {"1"}
    assert await versions(cluster, own) == {"1"}
    assert not cluster.gateway.lineup.trials.trying
    worker = cluster.workers[CANARY]
    worker.answers, worker.models, worker.instance = True, BOTH, "the second"
    cluster.servers[CANARY] = Server(worker, port)
    await until(lambda: cluster.gateway.lineup.plain.takes)  # type: ignore[union-attr]
    assert await versions(cluster, own) == {"2"}


async def test_a_silent_worker_does_not_keep_anybody_waiting(cluster: Cluster) -> None:
    await start(cluster)
    own, _ = inputs_of(cluster)
    cluster.gateway.spawn(cluster.gateway._tick_often())
    cluster.workers[CANARY].answers = False
    told = [cluster.ask(text) for text in own]
    router = cluster.gateway.lineup.served["echo", "2"].router
    await until(lambda: len(cluster.workers[CANARY].asked) >= len(own))
    for each in cluster.gateway.lineup.served.values():
        each.router.presence.silent(each.router.routes[CANARY], "it says nothing")
    assert {json.loads(await each.output())[1] for each in told} == {"1"}
    assert router.routes[CANARY].breaker.state is Breaker.OPEN
    assert cluster.gateway.lineup.totals().cancelled == 0
    assert router.in_flight == 0


async def test_at_half_of_its_time_the_stable_version_is_asked(cluster: Cluster) -> None:
    await start(cluster)
    own, _ = inputs_of(cluster, 1)
    worker = cluster.workers[CANARY]
    worker.answers = False
    told = Told()
    model = cluster.gateway.find("echo", None)
    model.ask(own[0], told, 60_000)
    (trying,) = cluster.gateway.lineup.trials.trying
    cluster.gateway.lineup.trials.tick(trying._half - 0.001)
    assert not told.errors and cluster.gateway.lineup.trials.trying
    worker.answers = True
    cluster.gateway.lineup.trials.tick(trying._half)
    assert json.loads(await told.output())[1] == "1"
    assert not cluster.gateway.lineup.trials.trying


async def test_whoever_leaves_is_asked_for_nowhere(cluster: Cluster) -> None:
    await start(cluster)
    own, _ = inputs_of(cluster, 2)
    cluster.workers[CANARY].answers = False
    told = Told()
    ticket = cluster.gateway.find("echo", None).ask(own[0], told)
    assert ticket is not None
    ticket.cancel()
    assert not cluster.gateway.lineup.trials.trying
    assert cluster.gateway.in_flight == 0
    assert cluster.gateway.lineup.totals().cancelled == 1
    assert not told.outputs and not told.errors


async def test_its_breaker_opens_though_no_other_worker_has_the_version(cluster: Cluster) -> None:
    await start(cluster)
    own, _ = inputs_of(cluster)
    router = cluster.gateway.lineup.served["echo", "2"].router
    assert router.replaceable
    for _ in range(3):
        router.routes[CANARY].breaker.count_failure("it is sick")
    assert router.routes[CANARY].breaker.state is Breaker.OPEN
    assert await versions(cluster, own) == {"1"}
    cluster.configure(canary=None)
    assert not router.replaceable


async def test_if_it_cannot_be_loaded_or_the_worker_drains_the_stable_version_answers_all(cluster: Cluster) -> None:
    await start(cluster)
    own, _ = inputs_of(cluster)
    bad = ModelInfo(number=0, name="echo", version="2", state=State.UNAVAILABLE, reason="it is truncated")
    await cluster.tell(CANARY, ONE, bad)
    assert await versions(cluster, own) == {"1"}
    await cluster.tell(CANARY, *BOTH)
    assert await versions(cluster, own) == {"2"}
    entries = tuple(replace(entry, draining=entry.name == CANARY) for entry in cluster.snapshot.workers)
    cluster.configure(workers=entries)
    assert await versions(cluster, own) == {"1"}


async def test_with_only_its_worker_left_it_answers_no_other_keys(cluster: Cluster) -> None:
    await start(cluster)
    own, others = inputs_of(cluster)
    for name in NAMES:
        if name != CANARY:
            await cluster.servers[name].die()
    await until(lambda: sum(link.ready for link in cluster.gateway.links.values()) == 1)
    assert await versions(cluster, own) == {"2"}
    assert await versions(cluster, others) == {"1"}
    await cluster.tell(CANARY, BOTH[1])  # it has let go of the stable version
    assert cluster.gateway.lineup.catalog.newest == {"echo": "1"}
    assert (await cluster.ask(others[0]).error()).status == 503


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_nothing_is_lost_and_nobody_gets_a_version_that_is_not_his(
    cluster: Cluster, seed: int
) -> None:
    """Random faults and changes of the configuration under a steady load of plain and of versioned asks."""
    rng = random.Random(seed)
    cluster.gateway.spawn(cluster.gateway._tick_often())
    await start(cluster)
    own, others = inputs_of(cluster, 30)
    asked: list[tuple[str | None, bool, Told]] = []
    stop = False

    async def load() -> None:
        while not stop:
            is_own = rng.random() < 0.5
            text = rng.choice(own if is_own else others)
            version = rng.choice((None, None, None, "1"))
            asked.append((version, is_own, cluster.ask(text, "echo", version)))
            if rng.random() < 0.2:
                await asyncio.sleep(0.001)

    loading = asyncio.create_task(load())
    worker, on = cluster.workers[CANARY], True
    for step in range(12):
        await asyncio.sleep(0.02)
        match rng.randrange(6):
            case 0:  # it dies, and comes back
                port = cluster.servers[CANARY].port
                await cluster.servers[CANARY].die()
                worker.instance = f"number {step}"
                await asyncio.sleep(0.02)
                cluster.servers[CANARY] = Server(worker, port)
                await until(lambda: cluster.gateway.links[CANARY].ready)
            case 1:
                answers_no(worker, rng.choice(list(NO)))
            case 2:
                worker.instead = lambda number, ident: None
            case 3:
                on = not on
                cluster.configure(canary=TRIAL if on else None)
            case 4:
                await cluster.tell(CANARY, *rng.choice((BOTH, (ONE,))))
            case 5:
                for each in cluster.gateway.lineup.served.values():
                    each.router.presence.silent(each.router.routes[CANARY], "a moment")
                    each.router.presence.speaks(each.router.routes[CANARY])
    stop = True
    await loading
    for version, is_own, told in asked:
        answer = json.loads(await told.output())
        allowed = {"1"} if version == "1" or not is_own else {"1", "2"}
        assert answer[1] in allowed
    await until(lambda: cluster.gateway.in_flight == 0)
    assert not cluster.gateway.lineup.trials.trying
    totals = cluster.gateway.lineup.totals()
    assert (totals.requests, totals.errors, totals.cancelled) == (len(asked), 0, 0)
