"""A version that one worker tries: who gets it, and what is said of it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway_app.ringviews import where
from inference_site.lib.catalog import ModelSettings
from inference_site.lib.nodesettings import NodeSettings
from inference_site.v2.askers import InferAsker
from tests.gateway_app.canaries.trying import BOTH, CANARY, TRIAL, answers_no, inputs_of, start, versions
from tests.gateway_app.lineup import NAMES, Cluster, Told, plain
from tests.support.waiting import until


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


@pytest.mark.parametrize(
    "settings",
    [{}, {"echo": ModelSettings(versions=("1", "2"))}, {"echo": ModelSettings(loaded=False, versions=("1",))}],
)
def test_what_all_are_told_to_load_is_not_tried(settings: dict[str, ModelSettings]) -> None:
    assert not TRIAL.tries(settings)
    node = NodeSettings(models=settings)
    assert TRIAL.over(node) == node
