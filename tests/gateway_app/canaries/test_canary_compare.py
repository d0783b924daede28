"""What is said of a worker that tries something: its figures beside the others', and why it idles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway_app.canaries import canarywatch
from gateway_app.canaries.canarycompare import NEEDED, Measure, compare, verdict, why_idle
from gateway_app.canaries.canarywatch import Tally
from gateway_app.canaries.trial import Trial
from inference_site.lib.catalog import ModelInfo, ModelSettings, State
from tests.gateway_app.lineup import Cluster, inputs
from tests.gateway_app.scripted import ready
from tests.support.waiting import until

CANARY = "worker_2"
TUNING = Trial(CANARY, {"batch_size": 64})
VERSION = Trial(CANARY, {}, "echo", "2")


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setattr(canarywatch, "_row_of", lambda worker: ("ann", 90.0))
    made = Cluster()
    yield made
    await made.end()


def told(cluster: Cluster) -> dict[str, Any]:
    found = compare(cluster.gateway)
    assert found is not None
    return found


def figures(cluster: Cluster) -> dict[str, tuple[float | None, float | None]]:
    return {each["what"]: (each["canary"], each["others"]) for each in told(cluster)["compare"]}


def tick(cluster: Cluster) -> None:
    cluster.gateway.canary_watch.tick(cluster.gateway)


async def trying(cluster: Cluster, trial: Trial | None, **changes: Any) -> None:
    cluster.configure(canary=trial, **changes)
    await until(lambda: all(link.revision == cluster.snapshot.revision for link in cluster.gateway.links.values()))
    tick(cluster)


async def test_without_a_canary_nothing_is_said(cluster: Cluster) -> None:
    await cluster.start()
    tick(cluster)
    assert compare(cluster.gateway) is None


async def test_only_what_came_since_it_began_is_compared(cluster: Cluster) -> None:
    await cluster.start()
    for text in inputs(40):
        await cluster.answer(text)
    await trying(cluster, TUNING)
    assert told(cluster)["requests"] == 0
    assert told(cluster)["verdict"] == f"Not enough requests yet: 0 of {NEEDED}."
    for text in inputs(120)[40:]:
        await cluster.answer(text)
    tick(cluster)
    watch = cluster.gateway.canary_watch
    assert watch.canary.answered + watch.others.answered == 80
    assert 0 < watch.canary.answered < watch.others.answered
    said = told(cluster)
    assert (said["worker"], said["tuning"], said["state"]) == (CANARY, {"batch_size": 64}, "in force")
    assert figures(cluster)["errors"] == (0.0, 0.0)
    await until(lambda: told(cluster)["author"] == "ann")
    assert told(cluster)["age_s"] >= 90
    await trying(cluster, replace(TUNING, tuning={"batch_size": 8}))
    assert told(cluster)["requests"] == 0  # another one


async def test_a_version_is_compared_with_the_one_that_the_others_have(cluster: Cluster) -> None:
    await cluster.start()
    await trying(cluster, VERSION, models={"echo": ModelSettings(versions=("1",))})
    assert told(cluster)["verdict"] == f"{CANARY} has no version 2 of echo ready."
    bad = ModelInfo(number=0, name="echo", version="2", state=State.UNAVAILABLE, reason="it is truncated")
    await cluster.tell(CANARY, ready(1), bad)
    assert told(cluster)["verdict"] == f"{CANARY} has no version 2 of echo ready: {CANARY}: it is truncated."
    await cluster.tell(CANARY, ready(1), ready(2, version="2", digest="new"))
    tick(cluster)
    for text in inputs(90):
        await cluster.answer(text)
    tick(cluster)
    watch = cluster.gateway.canary_watch
    answered = {
        (key, name): route.requests
        for key, model in cluster.gateway.lineup.served.items()
        for name, route in model.router.routes.items()
    }
    assert watch.canary.answered == answered[("echo", "2"), CANARY] > 0
    assert watch.others.answered == sum(answered[("echo", "1"), name] for name in ("worker_1", "worker_3")) > 0
    assert figures(cluster)["left to the other version"] == (0.0, 0.0)
    for _ in range(5):
        cluster.gateway.lineup.served["echo", "2"].router.routes[CANARY].breaker.count_failure("out of memory")
    assert (
        told(cluster)["verdict"]
        == f"The breaker of {CANARY} for version 2 is open: 5 failures in a row, the last: out of memory."
    )
    assert told(cluster)["state"] == "idle"


async def test_why_it_idles(cluster: Cluster) -> None:
    await cluster.start()
    await trying(cluster, TUNING)
    assert why_idle(cluster.gateway, TUNING) == ""
    entries = cluster.snapshot.workers

    async def says(**changes: Any) -> Any:
        workers = tuple(replace(each, **changes) if each.name == CANARY else each for each in entries)
        cluster.configure(workers=workers)
        return told(cluster)["verdict"]

    assert "is draining: the others do its work" in await says(draining=True)
    assert "is isolated" in await says(isolated=True)
    assert "has not taken it yet" in await says()
    cluster.configure(workers=tuple(each for each in entries if each.name != CANARY))
    await until(lambda: "There is no worker worker_2 any more" in told(cluster)["verdict"])
    cluster.configure(workers=entries)
    await until(lambda: CANARY in cluster.gateway.links and cluster.gateway.links[CANARY].ready)
    await cluster.servers[CANARY].die()
    await until(lambda: not cluster.gateway.links[CANARY].ready)
    assert "is not connected" in told(cluster)["verdict"]
    await says(enabled=False)
    await until(lambda: "is disabled" in told(cluster)["verdict"])


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ({}, "No version of echo is listed in its settings"),
        ({"echo": ModelSettings(versions=("1", "2"))}, "All workers are told to load version 2 of echo"),
        ({"echo": ModelSettings(loaded=False, versions=("1",))}, "echo is unloaded"),
    ],
)
async def test_why_a_version_is_not_tried(cluster: Cluster, models: dict[str, ModelSettings], says: str) -> None:
    await cluster.start()
    await trying(cluster, VERSION, models=models)
    assert says in told(cluster)["verdict"]


async def test_batches_of_a_size_that_each_model_has_of_its_own_change_nothing(cluster: Cluster) -> None:
    await cluster.start(ready(1, batches=True, max_batch_size=8))
    await trying(cluster, TUNING)
    assert "each model on worker_2 has its own size of batches (echo 8)" in told(cluster)["verdict"]
    await cluster.tell(CANARY, ready(1, batches=True, max_batch_size=64))
    assert told(cluster)["state"] == "in force"


def measure(what: str, canary: float | None, others: float | None, unit: str = "ms", better: int = -1) -> Measure:
    return Measure(what, canary, others, unit, better)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([measure("p99", 3.0, 2.9)], "No clear difference after 500 requests."),
        ([measure("p99", 0.2, 0.1)], "No clear difference"),  # nobody notices
        ([measure("p99", None, 2.0), measure("p50", 2.0, None)], "No clear difference"),
        ([measure("p99", 6.0, 3.0)], "Worse: p99 6.0 ms, the others' 3.0 ms."),
        ([measure("p99", 3.0, 6.0)], "Better: p99 3.0 ms, the others' 6.0 ms."),
        ([measure("hit rate", 40.0, 60.0, "%", 1)], "Worse: hit rate 40.0 %, the others' 60.0 %."),
        ([measure("hit rate", 60.0, 40.0, "%", 1), measure("p99", 6.0, 3.0)], "Both: worse is p99 6.0 ms"),
        ([measure("errors", 2.0, 0.5, "%")], "Worse: errors 2.0 %, the others' 0.5 %."),
        ([measure("mean batch", 20.0, 2.0, "rows", 0)], "No clear difference"),  # neither good nor bad
    ],
)
def test_the_verdict(found: list[Measure], says: str) -> None:
    assert verdict(found, 500, failures=9).startswith(says)
    assert verdict(found, NEEDED - 1, failures=9) == f"Not enough requests yet: {NEEDED - 1} of {NEEDED}."


def test_a_few_failures_may_be_chance() -> None:
    assert verdict([measure("errors", 2.0, 0.0, "%")], 250, failures=4).startswith("No clear difference")


def test_counters_that_begin_anew_take_nothing_away() -> None:
    tally = Tally()
    tally.grow(Tally(answered=5, ran=5), Tally(answered=8, ran=9, rows=3))
    tally.grow(Tally(answered=8, ran=9), Tally(answered=9, ran=1))
    assert (tally.answered, tally.ran, tally.rows) == (3, 4, 3)
