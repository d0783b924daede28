"""Who answers what while one worker tries a version: over workers that fail, fall silent, die and come back."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway_app.canaries.trial import Trial
from gateway_app.core.breaker import BreakerConfig
from gateway_app.core.breaker import State as Breaker
from gateway_app.ringviews import where
from inference_site.lib import frames
from inference_site.lib.asks import key_of, seed_of
from inference_site.lib.catalog import ModelInfo, ModelSettings, State
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Tell
from inference_site.lib.nodesettings import NodeSettings
from inference_site.v2.askers import InferAsker
from tests.gateway_app.lineup import NAMES, POLICY, Cluster, Told, plain
from tests.gateway_app.scripted import ScriptedWorker, Server, ready
from tests.support.waiting import until

CANARY = "worker_2"
TRIAL = Trial(CANARY, {}, "echo", "2")
ONE, BOTH = ready(1), (ready(1), ready(2, version="2", digest="new"))


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    # No worker is silent unless a test says so, however busy the machine is.
    policy = replace(POLICY, breaker=BreakerConfig(failure_threshold=3), silence_s=0.0)
    made.snapshot = replace(made.snapshot, policy=policy)
    yield made
    await made.end()


async def start(cluster: Cluster, *, trying: bool = True) -> None:
    """All have version 1, and the canary's worker has version 2 too."""
    await cluster.start(ready(1))
    settings = {"echo": ModelSettings(versions=("1",))}
    cluster.configure(models=settings, canary=TRIAL if trying else None)
    if trying:
        await cluster.tell(CANARY, *BOTH)


def inputs_of(cluster: Cluster, count: int = 60) -> tuple[list[bytes], list[bytes]]:
    """Inputs whose keys the canary's worker owns, and others."""
    found: tuple[list[bytes], list[bytes]] = [], []
    for number in range(100_000):
        text = b"[%d]" % number
        owner = cluster.gateway.table.owners(key_of(text, seed_of("echo", "1")))[0]
        part = found[owner != CANARY]
        if len(part) < count:
            part.append(text)
        if len(found[0]) == len(found[1]) == count:
            return found
    raise AssertionError("the canary's worker owns next to nothing")


async def versions(cluster: Cluster, texts: list[bytes], **which: Any) -> set[str]:
    return {(await cluster.answer(text, **which))[1] for text in texts}


async def test_it_answers_its_own_keys_alone_and_whoever_names_a_version_gets_that(cluster: Cluster) -> None:
    await start(cluster)
    own, others = inputs_of(cluster)
    for _ in range(4):  # the last ones from the gateway's own cache
        assert await versions(cluster, own) == {"2"}
        assert await versions(cluster, others) == {"1"}
    for texts in (own, others):
        assert await versions(cluster, texts, name="echo", version="1") == {"1"}
        assert await versions(cluster, texts, name="echo", version="2") == {"2"}
        assert await versions(cluster, texts[:3], name="echo") <= {"1", "2"}
    assert cluster.gateway.lineup.catalog.newest == {"echo": "1"}
    assert cluster.gateway.find("echo", None).info.version == "1"
    counts = cluster.gateway.lineup.trials.counts
    assert counts.asked == counts.answered and not counts.passed_on


async def test_without_one_the_model_itself_is_asked(cluster: Cluster) -> None:
    await start(cluster, trying=False)
    lineup = cluster.gateway.lineup
    assert lineup.plain is lineup.default is lineup.served["echo", "1"] is lineup.find("echo", None)
    await start_trying(cluster)
    assert lineup.plain is not lineup.default is lineup.served["echo", "1"]
    cluster.configure(canary=None)
    assert lineup.plain is lineup.served["echo", "1"]


async def start_trying(cluster: Cluster) -> None:
    cluster.configure(canary=TRIAL)
    await cluster.tell(CANARY, *BOTH)


async def test_a_v2_answer_names_the_version_that_gave_it(cluster: Cluster) -> None:
    await start(cluster)
    own, others = inputs_of(cluster, 3)
    cluster.workers[CANARY].output = lambda number, payload: b"\2\0\0\0[]"
    for name in NAMES:
        cluster.workers[name].output = lambda number, payload: b"\2\0\0\0[]"
    for texts, version in ((own, "2"), (others, "1")):
        for text in texts:
            assert await v2_version(cluster, text) == version


async def v2_version(cluster: Cluster, text: bytes) -> str:
    """Which version answered, as an answer of V2 says."""
    answers: list[Any] = []
    served = cluster.gateway.find("echo", None)
    served.ask(text, InferAsker(lambda status, head, body: answers.append(json.loads(body)), served.info, None))
    await until(lambda: answers)
    version: str = answers[0]["model_version"]
    return version


async def test_plain_requests_take_part(cluster: Cluster) -> None:
    await start(cluster)
    own, others = inputs_of(cluster, 5)
    for texts, version in ((own, "2"), (others, "1")):
        for text in texts:
            status, body = await plain_answer(cluster, text)
            assert (status, body["output_data"][1]) == (200, version)


async def plain_answer(cluster: Cluster, text: bytes) -> tuple[int, dict[str, Any]]:
    answers = plain(cluster, b'{"request_id":"r","input_data":' + text + b"}")
    await until(lambda: answers)
    return answers[0]


NO: dict[str, Callable[[int], bytes]] = {
    "refused": lambda ident: frames.tell(Tell.REFUSED, ident, b'{"error":"4 values are expected","code":"x"}', 422),
    "failed": lambda ident: frames.tell(Tell.FAILED, ident, b"out of memory", 503),
    "full": lambda ident: frames.tell(Tell.BUSY, ident, b"", 503, 0, 20_000_000),
    "too late": lambda ident: frames.tell(Tell.EXPIRED, ident, b"", 504),
    "gone": lambda ident: frames.tell(Tell.GONE, ident, b"", 404),
}


def answers_no(worker: ScriptedWorker, kind: str) -> None:
    """To the new version alone."""
    worker.instead = lambda number, ident: NO[kind](ident) if number == 2 else None


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


async def test_where_an_input_would_go_is_told_as_it_then_goes(cluster: Cluster) -> None:
    await start(cluster)
    own, others = inputs_of(cluster, 10)
    for text in (*own, *others):
        told = where(cluster.gateway, text, "echo")
        assert told["version"] == ("2" if text in own else "1")
        assert told["owner"] == told["now"] and told["why"].startswith("owner")
        assert (told["owner"] == CANARY) is (text in own)
        assert (await cluster.answer(text))[1] == told["version"]
        told_by = cluster.ask(text)
        await told_by.output()
        assert f"x-node: {told['now']}".encode() in told_by.headers


async def test_it_is_explained_once_by_who_answered(cluster: Cluster) -> None:
    await start(cluster)
    own, others = inputs_of(cluster, 2)
    trace = await explained(cluster, own[0])
    assert (trace["version"], trace["owner"], trace["why"]) == ("2", CANARY, "owner")
    assert (await explained(cluster, others[0]))["version"] == "1"
    answers_no(cluster.workers[CANARY], "failed")
    trace = await explained(cluster, own[1])
    assert (trace["version"], trace["status"]) == ("1", 200)
    assert sum(trace["parts_ms"].values()) == pytest.approx(trace["total_ms"], rel=0.05)
    failed = [each for each in cluster.gateway.traces.recent() if each["status"] == 503]
    assert [each["version"] for each in failed] == ["2"]  # what had been tried before is kept too


async def explained(cluster: Cluster, text: bytes) -> dict[str, Any]:
    """What the answer says of itself."""
    told = Told()
    cluster.gateway.find("echo", None).ask(text, told, None, time.monotonic())
    await told.output()
    (line,) = [each for each in told.headers.splitlines() if each.lower().startswith(b"x-explain: ")]
    trace: dict[str, Any] = json.loads(line[len(b"x-explain: ") :])
    return trace


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
    assert found["parts_ms"]["waiting"] >= 20
    assert tried["took_ms"] == pytest.approx(found["parts_ms"]["waiting"], abs=0.5)
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


@pytest.mark.parametrize(
    "settings",
    [{}, {"echo": ModelSettings(versions=("1", "2"))}, {"echo": ModelSettings(loaded=False, versions=("1",))}],
)
def test_what_all_are_told_to_load_is_not_tried(settings: dict[str, ModelSettings]) -> None:
    assert not TRIAL.tries(settings)
    node = NodeSettings(models=settings)
    assert TRIAL.over(node) == node


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
