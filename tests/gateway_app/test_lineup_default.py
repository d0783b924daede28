"""Which model answers a plain request, and what is said where none does."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway_app.adoption import Adoption
from gateway_app.figures.modelstats import model_rows
from inference_site.lib.catalog import ModelInfo, ModelSettings
from inference_site.lib.catalog import State as ModelState
from inference_site.lib.errors import ApiError
from inference_site.lib.nodesettings import NodeSettings
from tests.gateway_app.lineup import NAMES, Cluster, Told, plain
from tests.gateway_app.scripted import ready
from tests.support.waiting import until


async def test_who_knows_no_model_yet_says_why(cluster: Cluster) -> None:
    told = Told()
    cluster.gateway.find(None, None).ask(b"[1]", told)
    assert (await told.error()).code == "no_workers"
    for worker in cluster.workers.values():
        worker.models = ()
    await cluster.start()
    with pytest.raises(ApiError, match="the workers have no model ready") as refusal:
        cluster.gateway.find(None, None)
    assert (refusal.value.status, refusal.value.code) == (503, "model_not_ready")


async def test_what_is_not_served_is_told_apart(cluster: Cluster) -> None:
    slow = ModelInfo(number=0, name="slow", version="1", state=ModelState.LOADING)
    bad = ModelInfo(number=0, name="bad", version="1", state=ModelState.UNAVAILABLE, reason="it is truncated")
    await cluster.start(ready(1), slow, bad)
    cluster.configure(models={"off": ModelSettings(loaded=False)})

    def refusal(name: str, version: str | None = None) -> tuple[int, str]:
        with pytest.raises(ApiError) as found:
            cluster.gateway.find(name, version)
        assert name in found.value.message
        return found.value.status, found.value.code

    assert refusal("slow") == refusal("bad") == (503, "model_not_ready")
    assert refusal("off") == refusal("nothing") == (404, "unknown_model")
    assert refusal("echo", "7") == (404, "unknown_version")
    with pytest.raises(ApiError, match="it is truncated"):
        cluster.gateway.find("bad", None)
    answers: list[tuple[int, dict[str, Any]]] = []
    body = b'{"request_id":"r","input_data":[1],"model":"nothing"}'
    cluster.gateway.infer(body, lambda status, head, answer: answers.append((status, json.loads(answer))))
    assert [(status, body["code"], body["request_id"]) for status, body in answers] == [(404, "unknown_model", "r")]


async def test_a_plain_request_asks_the_only_model_whatever_else_comes_and_never_another_one(cluster: Cluster) -> None:
    for worker in cluster.workers.values():
        worker.default = ""
    await cluster.start(ready(1, "main"))
    assert await cluster.answer() == ["main", "1", "0"]
    for name in NAMES:
        await cluster.tell(name, ready(2, "another"), ready(1, "main"))
    assert await cluster.answer() == ["main", "1", "0"]
    cluster.configure(models={"main": ModelSettings(loaded=False)})
    ((status, body),) = plain(cluster)
    assert (status, body["code"], "'main' is unloaded" in body["error"]) == (404, "unknown_model", True)
    for name in NAMES:
        await cluster.tell(name, ready(2, "another"))
    cluster.configure(models={})
    ((status, body),) = plain(cluster)
    assert (status, "'main', which is set as the model of /infer" in body["error"]) == (404, True)


async def test_with_several_models_and_none_set_a_plain_request_must_name_one(cluster: Cluster) -> None:
    for worker in cluster.workers.values():
        worker.default = ""
    await cluster.start(ready(1, "b"), ready(2, "a"))
    ((status, body),) = plain(cluster)
    assert (status, body["code"], body["request_id"]) == (400, "model_required", "r")
    assert body["error"].startswith('several models are here: a, b; name one in "model", or set')
    assert await cluster.answer(name="b") == ["b", "1", "0"]
    assert not any(row["default"] for row in model_rows(cluster.gateway))
    cluster.configure(node=NodeSettings(default_model="a"))
    assert await cluster.answer() == ["a", "1", "0"]


async def test_the_only_model_is_recorded_as_the_one_of_plain_requests(cluster: Cluster) -> None:
    for worker in cluster.workers.values():
        worker.default = ""
    recorded: list[str] = []
    cluster.gateway._adoption = Adoption(time.monotonic, recorded.append)
    cluster.gateway.spawn(cluster.gateway._tick_each_second())
    await cluster.start(ready(1, "main"))
    await until(lambda: recorded == ["main"])


async def test_a_model_of_no_name_is_none(cluster: Cluster) -> None:
    await cluster.start(ready(1), ready(2, "other"))
    ((status, body),) = plain(cluster, b'{"request_id":"r","input_data":[1],"model":""}')
    assert (status, body["code"]) == (400, "invalid_model")
