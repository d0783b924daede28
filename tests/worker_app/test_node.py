"""Several models in one process: each answers for itself, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from inference_site.lib.catalog import ModelInfo, ModelSettings, State
from inference_site.lib.errors import ApiError
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_node
from tests.worker_app.file_engine import Shelf, answer
from tests.worker_app.nodes import FakeStream, ask, settled, state_of, wish
from worker_app import node as node_module
from worker_app.engine import ModelError
from worker_app.node import Node
from worker_app.repository import Repository
from worker_app.stats import node_health, node_stats


async def test_models_side_by_side_answer_for_themselves(start: Start, shelf: Shelf) -> None:
    for name in ("b", "a", "c"):
        shelf.put(name, "1", f"word of {name}")
    node = start(shelf.node())
    for _ in range(2):
        for name in ("a", "b", "c"):
            assert await ask(node, [1, 2], name) == answer(f"word of {name}", 1, 2)
    with pytest.raises(ApiError, match="several models are here: a, b, c; name one") as refused:
        node.find(None, None)
    assert (refused.value.status, refused.value.code) == (400, "model_required")
    await ask(node, [1, 2], "a")
    node.configure(NodeSettings(revision=1, default_model="c"))
    assert await ask(node, [1, 2]) == answer("word of c", 1, 2)
    stats = node_stats(node)
    assert (stats["total_requests"], stats["cache_hits"], stats["model"]) == (8, 5, "c")
    assert [(model["name"], model["total_requests"]) for model in stats["models"]] == [("a", 3), ("b", 2), ("c", 3)]
    assert len({model.number for model in node.models.values()}) == 3


async def test_an_unloaded_model_is_not_found_and_comes_back_when_it_is_loaded(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "first")
    shelf.put("b", "1", "second")
    node = start(shelf.node())
    node.configure(wish(1, a=ModelSettings(loaded=False)))
    with pytest.raises(ApiError, match="'a' is unloaded; load it") as refused:
        node.find("a", None)
    assert refused.value.status == 404
    assert await ask(node, [1, 2], "b") == answer("second", 1, 2)
    assert [(info.number, info.state, info.reason) for info in node.infos() if info.name == "a"] == [
        (0, State.UNAVAILABLE, "unloaded")
    ]
    assert len(node.models) == 1
    node.configure(wish(2, a=ModelSettings(loaded=True, order=1)))
    await settled(node)
    assert await ask(node, [1, 2], "a") == answer("first", 1, 2)


async def test_settings_of_a_model_are_in_force_at_once_and_only_some_need_a_new_engine(
    start: Start, shelf: Shelf
) -> None:
    shelf.put("a", "1", "a")
    shelf.put("b", "1", "b")
    node = start(shelf.node())
    record = Record(batch_size=3, cache_entries=7, batch_wait_ms=2.5, deadline_ms=400)
    settings = wish(1, a=ModelSettings(record=record))
    node.configure(settings)
    model = node.find("a", None)
    assert (model.batcher.max_size, model.results.max_entries, model.batcher.wait_s) == (3, 7, 0.0025)
    assert (model.info.max_batch_size, model.info.deadline_ms) == (3, 400)
    assert node.find("b", None).batcher.max_size == 32
    assert shelf.loaded == ["a", "b"]
    for more in (Record(sessions=2), Record(output="output"), Record(pad_with_zeros=True)):
        count = len(shelf.loaded)
        node.configure(wish(2, a=ModelSettings(record=more)))
        await settled(node)
        assert shelf.loaded[count:] == ["a"]
    node.configure(wish(3, a=ModelSettings(record=Record(pad_with_zeros=True, cached=False))))
    assert not node.find("a", None).info.cached


async def test_the_memory_of_the_cache_is_divided_among_the_models(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "a")
    node = start(shelf.node(cache_bytes=1000))
    assert node.find("a", None).results.max_bytes == 1000
    shelf.put("b", "1", "b")
    node.configure(NodeSettings(revision=1, cache_bytes=1000, models={"b": ModelSettings(order=1)}))
    await settled(node)
    assert [node.find(name, None).results.max_bytes for name in "ab"] == [500, 500]


def test_an_empty_repository_serves_nothing_and_says_so(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    node = shelf.node()
    assert "serves nothing until a model is loaded" in caplog.text
    with pytest.raises(ApiError, match="serves no model yet") as refused:
        node.find(None, None)
    assert refused.value.status == 503
    health = node_health(node)
    assert (health["model"], health["models"], health["ready"]) == ({}, [], True)
    node.close()


def test_one_broken_model_does_not_keep_the_others_from_starting(shelf: Shelf) -> None:
    shelf.put("a", "1", "broken")
    shelf.put("b", "1", "good")
    node = shelf.node()
    assert state_of(node, "b") == [("1", State.READY, True)]
    with pytest.raises(ApiError, match=r"'a' can't be loaded: .*it is broken") as refused:
        node.find("a", None)
    assert refused.value.status == 503
    with pytest.raises(ApiError, match="there is no model 'c'; this worker serves: b") as refused:
        node.find("c", None)
    assert refused.value.status == 404
    node.close()


def test_nothing_but_broken_models_is_no_start(shelf: Shelf) -> None:
    shelf.put("a", "1", "broken")
    with pytest.raises(ModelError, match="can't be loaded: it is broken"):
        shelf.node()


def test_draining_is_told_to_every_gateway() -> None:
    node = echo_node()
    streams = FakeStream(), FakeStream()
    node.gateways |= set(streams)
    node.drain()
    assert [stream.told for stream in streams] == [["draining"], ["draining"]]
    assert node_health(node)["ready"] is False
    node.close()


def test_settings_and_every_model_show_in_the_health() -> None:
    node = echo_node(EchoEngine(), EchoEngine(name="other"))
    node.configure(NodeSettings(revision=7, cache_entries=5, default_model="echo"))
    health = node_health(node)
    assert health["settings"]["cache_entries"] == 5
    assert health["cache_capacity"] == 10
    assert health["model"] == {"name": "echo"}
    assert [(model["name"], model["state"], model["default"]) for model in health["models"]] == [
        ("echo", "READY", True),
        ("other", "READY", False),
    ]
    assert {"inputs", "digest", "queue", "statistics", "provider"} <= set(health["models"][0])
    assert orjson.dumps(health)
    node.close()


def test_the_health_says_of_each_model_why_it_is_not_on_a_gpu() -> None:
    engines = [EchoEngine(name=name) for name in "abc"]
    for engine, reason in zip(engines, ("", "no cuDNN", "no driver"), strict=True):
        engine.fallback_reason = reason
    node = echo_node(*engines)
    health = node_health(node)
    assert [model["fallback_reason"] for model in health["models"]] == ["", "no cuDNN", "no driver"]
    assert (health["model"], health["fallback_reason"]) == ({}, "no cuDNN")  # no model is the default
    node.configure(NodeSettings(revision=1, default_model="a"))
    assert node_health(node)["fallback_reason"] == ""
    assert "fallback_reason" not in orjson.dumps(node_stats(node)).decode()  # which is pushed
    node.close()


def test_no_number_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "_MOST_NUMBERS", 2)
    node = echo_node(EchoEngine(), EchoEngine(name="b"))
    with pytest.raises(ModelError, match="restart it"):
        node.add(EchoEngine(name="c"))  # type: ignore[arg-type]
    node.close()


def test_an_info_can_be_told_and_read() -> None:
    node = echo_node()
    (info,) = node.catalog(3).models
    assert isinstance(info, ModelInfo)
    assert (info.number, info.name, info.version, info.output, info.batches) == (1, "echo", "1", "output", True)
    assert node.default == "echo"
    assert node.catalog(3).default == ""  # it is not given by a file
    node.close()


async def test_the_model_of_a_plain_infer_never_changes_by_itself(start: Start, shelf: Shelf) -> None:
    shelf.put("main", "1", "main")
    node = start(shelf.node())
    assert await ask(node, [1, 2]) == answer("main", 1, 2)  # the only one
    node.configure(wish(1, main=ModelSettings(loaded=False, order=1)))
    with pytest.raises(ApiError, match="'main' is unloaded"):
        node.find(None, None)
    shelf.put("aaa", "1", "another")
    node.configure(wish(2, main=ModelSettings(order=2), aaa=ModelSettings(order=1)))
    await settled(node)
    with pytest.raises(ApiError) as refused:
        node.find(None, None)
    assert refused.value.code == "model_required"
    node.configure(NodeSettings(revision=3, default_model="main", models={"main": ModelSettings(loaded=False)}))
    with pytest.raises(ApiError, match="'main' is unloaded"):  # and not the other one
        node.find(None, None)
    node.configure(NodeSettings(revision=4, default_model="nobody"))
    with pytest.raises(ApiError) as refused:
        node.find(None, None)
    assert refused.value.code == "unknown_model"


def test_who_serves_nothing_says_why(shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shelf.put("a", "1", "one")
    shelf.node(models={"a": ModelSettings(loaded=False)})
    assert "serves nothing until a model is loaded: a: unloaded" in caplog.text
    caplog.clear()
    Node("worker_1", Repository(folder=tmp_path / "empty"), shelf.make).load()
    assert f"{tmp_path / 'empty'} holds none" in caplog.text


async def test_the_model_of_a_plain_infer_is_that_of_the_file(start: Start, shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("aaa", "1", "another")
    file = tmp_path / "given.onnx"
    file.write_text("given")
    node = Node("worker_1", Repository(file, shelf.folder), shelf.make)
    node.load()
    start(node)
    assert await ask(node, [1, 2]) == answer("given", 1, 2)
    assert node.catalog(1).default == "given"
    node.configure(wish(1, given=ModelSettings(loaded=False, order=1)))
    assert node.catalog(1).default == "given"
    with pytest.raises(ApiError, match="'given' is unloaded"):
        node.find(None, None)
