"""A canary that ends under load: aborted nothing of it is answered, promoted nothing older."""

from __future__ import annotations

import json
import time

import pytest

from inference_site.lib.catalog import ModelSettings
from inference_site.lib.errors import ApiError
from tests.gateway_app.canaries.trying import BOTH, CANARY, answers_no, inputs_of, start, versions
from tests.gateway_app.lineup import NAMES, Cluster, Told
from tests.gateway_app.scripted import ready
from tests.support.waiting import until


async def test_aborted_no_answer_of_it_comes_afterwards(cluster: Cluster) -> None:
    await start(cluster)
    own, others = inputs_of(cluster)
    for _ in range(4):
        assert await versions(cluster, own) == {"2"}
    cluster.configure(canary=None)
    assert await versions(cluster, own + others) == {"1"}
    await cluster.tell(CANARY, ready(1), ready(2, version="2", digest="new", current=False))
    assert await versions(cluster, own + others) == {"1"}
    await cluster.tell(CANARY, ready(1))
    with pytest.raises(ApiError, match="no version '2'"):
        cluster.gateway.find("echo", "2")


async def test_promoted_nobody_who_had_it_gets_the_old_one_again(cluster: Cluster) -> None:
    await start(cluster)
    own, others = inputs_of(cluster)
    assert await versions(cluster, own) == {"2"}
    cluster.configure(models={"echo": ModelSettings(versions=("2",))}, canary=None)
    new = ready(2, version="2", digest="new")
    await cluster.tell(CANARY, ready(1, current=False), new)
    assert (await versions(cluster, own), await versions(cluster, others)) == ({"2"}, {"1"})
    await cluster.tell("worker_1", ready(1, current=False), new)
    assert (await versions(cluster, own), await versions(cluster, others)) == ({"2"}, {"1"})
    await cluster.tell("worker_3", ready(1, current=False), new)
    assert await versions(cluster, own + others) == {"2"}
    lineup = cluster.gateway.lineup
    assert lineup.plain is lineup.served["echo", "2"] and lineup.trials.trial is None
    await until(lambda: set(cluster.numbers(version="2")) == set(NAMES))
    assert lineup.served["echo", "2"].router.ring is cluster.gateway.table
    # What comes later is no matter of the canary's.
    cluster.configure(models={"echo": ModelSettings(versions=("2", "3"))})
    for name in NAMES:
        await cluster.tell(name, new, ready(3, version="3", digest="newer"))
    assert await versions(cluster, own + others) == {"3"}


async def under_way(cluster: Cluster) -> list[Told]:
    """Asks that the canary's worker has been sent, and does not answer."""
    own, _ = inputs_of(cluster, 5)
    worker = cluster.workers[CANARY]
    worker.answers = False
    told = [cluster.ask(text) for text in own]
    await until(lambda: len(worker.asked) >= len(own))
    return told


async def switch(cluster: Cluster, version: str) -> None:
    """All workers are told to have this version, have it, and have let go of the first one."""
    new = ready(int(version), version=version, digest="new")
    cluster.configure(models={"echo": ModelSettings(versions=(version,))}, canary=None)
    for name in NAMES:
        await cluster.tell(name, new, *(BOTH[1:] if name == CANARY and version != "2" else ()))
    assert cluster.gateway.lineup.catalog.newest == {"echo": version}
    assert ("echo", "1") not in cluster.gateway.lineup.served


async def test_what_is_under_way_when_it_is_promoted_does_not_go_back_to_the_version_before(cluster: Cluster) -> None:
    await start(cluster)
    told = await under_way(cluster)
    await switch(cluster, "2")
    for trying in tuple(cluster.gateway.lineup.trials.trying):
        cluster.gateway.lineup.trials.tick(trying._half)
    await cluster.servers[CANARY].die()
    cluster.gateway.lineup.trials.tick(time.monotonic())
    assert {json.loads(await each.output())[1] for each in told} == {"2"}
    assert not cluster.gateway.lineup.trials.trying
    totals = cluster.gateway.lineup.totals()
    assert (totals.requests, totals.errors, totals.cancelled) == (len(told), 0, 0)


async def test_promoted_an_error_is_its_own_and_counted_once(cluster: Cluster) -> None:
    await start(cluster)
    told = await under_way(cluster)
    await switch(cluster, "2")
    for name in NAMES:
        answers_no(cluster.workers[name], "failed")
    await cluster.servers[CANARY].die()
    assert {(await each.error()).status for each in told} == {503}
    assert not cluster.gateway.lineup.trials.trying
    assert cluster.gateway.lineup.totals().errors == len(told)


async def test_what_it_does_not_answer_goes_to_the_version_that_answers_by_then(cluster: Cluster) -> None:
    await start(cluster)
    told = await under_way(cluster)
    await switch(cluster, "3")
    await cluster.servers[CANARY].die()
    assert {json.loads(await each.output())[1] for each in told} == {"3"}
    assert not cluster.gateway.lineup.trials.trying
