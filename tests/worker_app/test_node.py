"""Several models in one process: each answers for itself, and they come and go without anybody losing an answer."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from inference_site.lib.catalog import ModelInfo, ModelSettings, State
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.worker_app.asker import Asker
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_node
from tests.worker_app.file_engine import Shelf, answer
from worker_app import node as node_module
from worker_app.engine import Engine, ModelError
from worker_app.lastsettings import LastSettings
from worker_app.node import Node
from worker_app.repository import Repository, Source
from worker_app.stats import node_health, node_stats


class FakeStream:
    """A gateway's connection that keeps what it is told."""

    def __init__(self, *, bulk: bool = False, uses: frozenset[int] | None = None) -> None:
        self.bulk = bulk
        self.uses = uses
        self.told: list[str] = []

    def say_draining(self) -> None:
        self.told.append("draining")

    def say_models(self) -> None:
        self.told.append("models")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def wish(revision: int, **models: ModelSettings) -> NodeSettings:
    return NodeSettings(revision=revision, models=models)


def state_of(node: Node, name: str) -> list[tuple[str, State, bool]]:
    return [(info.version, info.state, info.current) for info in node.infos() if info.name == name]


async def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)


async def settled(node: Node) -> None:
    await until(lambda: not any(info.state is State.LOADING for info in node.infos()))


async def ask(node: Node, values: object, name: str | None = None, version: str | None = None) -> bytes:
    kind, _, _, payload = await Asker(node.find(name, version)).answer(values)
    assert kind is Tell.RESULT
    return payload


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


async def test_the_newest_version_is_loaded_unless_others_are_wanted(start: Start, shelf: Shelf) -> None:
    for version in ("1", "2", "10"):
        shelf.put("a", version, f"v{version}")
    node = start(shelf.node())
    assert state_of(node, "a") == [("10", State.READY, True)]
    node.configure(wish(1, a=ModelSettings(versions=("1", "2"))))
    await settled(node)
    assert [info.version for info in node.infos() if info.current] == ["1", "2"]
    assert await ask(node, [1, 2], "a") == answer("v2", 1, 2)
    assert await ask(node, [1, 2], "a", "1") == answer("v1", 1, 2)
    with pytest.raises(ApiError, match=r"has no version '10'; it is served in: 1, 2") as refused:
        node.find("a", "10")
    assert refused.value.status == 404


async def test_a_new_version_is_loaded_beside_the_old_under_load_and_then_takes_its_place(
    start: Start, shelf: Shelf
) -> None:
    shelf.put("a", "1", "old")
    node = start(shelf.node())
    answers: list[tuple[bool, bytes]] = []
    swapped = stop = False

    async def client(number: int) -> None:
        while not stop:
            before = swapped
            answers.append((before, await ask(node, [number, len(answers) % 3])))
            await asyncio.sleep(0)

    clients = [asyncio.create_task(client(number)) for number in range(20)]
    await until(lambda: len(answers) > 200)
    shelf.put("a", "2", "new")
    shelf.open.clear()
    node.configure(wish(1, a=ModelSettings(order=1)))
    assert ("2", State.LOADING, True) in state_of(node, "a")
    count = len(answers)
    await until(lambda: len(answers) > count + 200)  # the old one goes on
    shelf.open.set()
    await settled(node)
    swapped = True
    count = len(answers)
    await until(lambda: len(answers) > count + 200)
    stop = True
    await asyncio.gather(*clients)
    words = {(after, orjson.loads(payload)[0]) for after, payload in answers}
    assert words <= {(False, "old"), (False, "new"), (True, "new")}
    assert {(False, "old"), (True, "new")} <= words
    await until(lambda: len(node.models) == 1)
    assert state_of(node, "a") == [("2", State.READY, True)]


async def test_a_changed_file_is_loaded_when_it_is_ordered_and_not_before(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "one")
    node = start(shelf.node())
    assert await ask(node, [1, 2]) == answer("one", 1, 2)
    shelf.put("a", "1", "another")
    node.configure(NodeSettings(revision=1))
    assert shelf.loaded == ["one"]
    node.configure(wish(2, a=ModelSettings(order=1)))
    await settled(node)
    assert shelf.loaded == ["one", "another"]
    assert await ask(node, [1, 2]) == answer("another", 1, 2)
    node.configure(wish(3, a=ModelSettings(order=2)))  # nothing has changed since
    await settled(node)
    assert shelf.loaded == ["one", "another"]


async def test_a_broken_file_leaves_the_old_version_serving_and_says_why(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "good")
    node = start(shelf.node())
    shelf.put("a", "2", "broken: half of it is missing")
    node.configure(wish(1, a=ModelSettings(order=1)))
    await settled(node)
    assert await ask(node, [1, 2]) == answer("good", 1, 2)
    (failed,) = (info for info in node.infos() if info.state is State.UNAVAILABLE)
    assert (failed.number, failed.name, failed.version) == (0, "a", "2")
    assert "half of it is missing" in failed.reason
    node.configure(wish(2, a=ModelSettings(order=1)))
    await settled(node)
    assert shelf.loaded == ["good", "broken: half of it is missing"]  # it is not tried again unasked
    shelf.put("a", "2", "mended")
    node.configure(wish(3, a=ModelSettings(order=2)))
    await settled(node)
    assert await ask(node, [1, 2]) == answer("mended", 1, 2)
    assert [info.state for info in node.infos() if info.current] == [State.READY]


async def test_a_broken_file_of_the_same_version_too(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "good")
    node = start(shelf.node())
    shelf.put("a", "1", "broken")
    node.configure(wish(1, a=ModelSettings(order=1)))
    await settled(node)
    assert await ask(node, [1, 2]) == answer("good", 1, 2)
    shelf.put("a", "1", "good")
    node.configure(wish(2, a=ModelSettings(order=2)))
    await settled(node)
    assert await ask(node, [1, 2]) == answer("good", 1, 2)
    assert not any(info.state is State.UNAVAILABLE for info in node.infos())


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


async def test_an_old_number_stays_as_long_as_a_gateway_uses_it(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "old")
    node = start(shelf.node())
    (number,) = node.models
    silent, user, bulk = FakeStream(), FakeStream(uses=frozenset((number,))), FakeStream(bulk=True)
    for stream in (silent, user, bulk):
        node.joined(stream)
    shelf.put("a", "2", "new")
    node.configure(wish(1, a=ModelSettings(order=1)))
    await settled(node)
    old = node.models[number]
    assert not old.current
    assert await Asker(old).answer([1, 2]) == (Tell.RESULT, Cache.MISS, 200, answer("old", 1, 2))
    user.uses = frozenset((2,))
    node.collect()
    assert number in node.models  # one has not said yet what it uses
    silent.uses = frozenset((2,))
    node.collect()
    assert set(node.models) == {2}
    assert user.told[-1] == "models"
    asker = Asker(old)
    asker.ask([1, 2], "late")
    assert asker.answers["late"][0] is Tell.GONE


async def test_an_old_number_is_not_taken_from_who_waits_for_it(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "old")
    node = shelf.node()
    (number,) = node.models
    asker = Asker(node)
    asker.ask([1, 2], "early")
    shelf.put("a", "2", "new")
    node.configure(wish(1, a=ModelSettings(order=1)))
    assert not node.models[number].current
    start(node)
    await asker.everything()
    assert asker.answers["early"][3] == answer("old", 1, 2)
    await until(lambda: number not in node.models)


async def test_a_gateway_that_only_connects_anew_finds_the_old_number(
    start: Start, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "LINGER_S", 0.2)
    shelf.put("a", "1", "old")
    node = start(shelf.node())
    stream = FakeStream(uses=frozenset((1,)))
    node.joined(stream)
    shelf.put("a", "2", "new")
    node.configure(wish(1, a=ModelSettings(order=1)))
    await settled(node)
    node.left(stream)
    assert 1 in node.models
    await until(lambda: 1 not in node.models)


async def test_what_was_done_before_an_unload_still_counts(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "old")
    node = start(shelf.node())
    for _ in range(3):
        await ask(node, [1, 2])
    shelf.put("a", "2", "new")
    node.configure(wish(1, a=ModelSettings(order=1)))
    await settled(node)
    await ask(node, [1, 2])
    stats = node_stats(node)
    assert (stats["total_requests"], stats["cache_hits"]) == (4, 2)
    assert stats["batch_processor"]["total_batches"] == 2
    assert stats["batch_sizes"] == [{"size": 1, "full": 0, "timeout": 0, "free": 2}]
    assert [model["total_requests"] for model in stats["models"]] == [1]


async def test_the_statistics_of_a_version_go_on_when_it_is_loaded_anew(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "old")
    node = start(shelf.node())
    stream = FakeStream(uses=frozenset((1,)))
    node.joined(stream)
    for _ in range(3):
        await ask(node, [1, 2])
    shelf.put("a", "1", "new")
    node.configure(wish(1, a=ModelSettings(order=1)))
    await settled(node)

    def counts() -> list[tuple[int, int, int]]:
        found = [model["statistics"] for model in node_stats(node)["models"]]
        return [(each["success"], each["cache_hits"], each["inferences"]) for each in found]

    assert counts() == [(3, 2, 1)] * 2  # the old one is in use yet
    await ask(node, [1, 2])
    stream.uses = frozenset((2,))
    node.collect()
    assert counts() == [(4, 2, 2)]
    assert node.statistics("a", "1").success == 4
    assert node.statistics("a", "2").success == 0


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


async def test_what_is_wanted_and_not_there_is_told(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "a")
    node = start(shelf.node())
    node.configure(wish(1, nobody=ModelSettings(order=1), a=ModelSettings(versions=("1", "8"))))
    await settled(node)
    reasons = {(info.name, info.version): info.reason for info in node.infos() if info.state is State.UNAVAILABLE}
    assert reasons["a", "8"] == "a has no version 8; there are: 1"
    assert str(shelf.folder / "nobody" / "1" / "model.onnx") in reasons["nobody", ""]
    assert await ask(node, [1, 2], "a") == answer("a", 1, 2)


async def test_a_version_that_is_listed_later_is_looked_for_and_no_other_file_is(start: Start, shelf: Shelf) -> None:
    shelf.put("m", "1", "one")
    node = start(shelf.node())
    node.configure(wish(1, m=ModelSettings(versions=("1",))))
    shelf.put("m", "1", "changed")
    shelf.put("m", "2", "broken")
    node.configure(wish(2, m=ModelSettings(versions=("1", "2"))))
    await settled(node)
    assert state_of(node, "m") == [("1", State.READY, True), ("2", State.UNAVAILABLE, True)]
    shelf.put("m", "2", "two")
    node.configure(wish(3, m=ModelSettings(versions=("1",))))
    node.configure(wish(4, m=ModelSettings(versions=("1", "2"))))
    await settled(node)
    assert await ask(node, [5, 6], "m", "2") == answer("two", 5, 6)
    assert await ask(node, [5, 6], "m", "1") == answer("one", 5, 6)  # nobody has ordered to look at it
    node.configure(wish(5, m=ModelSettings(versions=("1",))))
    with pytest.raises(ApiError, match="no version '2'"):
        node.find("m", "2")


async def test_only_the_last_of_many_orders_counts(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "first")
    node = start(shelf.node())
    shelf.open.clear()
    for number in range(2, 8):
        shelf.put("a", str(number), f"v{number}")
        node.configure(wish(number, a=ModelSettings(order=number)))
        await asyncio.sleep(0)
    shelf.open.set()
    await settled(node)
    assert await ask(node, [1, 2]) == answer("v7", 1, 2)
    assert len(shelf.loaded) <= 3
    await until(lambda: len(node.models) == 1)


async def test_an_order_back_and_forth_leaves_one_instance(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "one")
    node = start(shelf.node())
    node.joined(FakeStream())  # which keeps every number
    for number, word in enumerate(("two", "one", "two"), start=1):
        shelf.put("a", "1", word)
        node.configure(wish(number, a=ModelSettings(order=number)))
        await settled(node)
        assert await ask(node, [1, 2]) == answer(word, 1, 2)
        assert sum(model.current for model in node.models.values()) == 1


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


async def test_nothing_holds_an_engine_that_is_unloaded(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "old")
    node = start(shelf.node())
    await ask(node, [1, 2])
    engine = weakref.ref(node.models[1].engine)
    shelf.put("a", "2", "new")
    node.configure(wish(1, a=ModelSettings(order=1)))
    await settled(node)
    await until(lambda: 1 not in node.models)
    for _ in range(20):  # its consumers end
        await asyncio.sleep(0)
    gc.collect()
    assert engine() is None


async def test_an_engine_loaded_while_serving_is_let_go_too(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "old")
    node = start(shelf.node())
    engines = []
    for number in (2, 3):
        shelf.put("a", str(number), f"v{number}")
        node.configure(wish(number, a=ModelSettings(order=number)))
        await settled(node)
        engines.append(weakref.ref(node.find("a", None).engine))
    await until(lambda: len(node.models) == 1)
    for _ in range(20):
        await asyncio.sleep(0)
    gc.collect()
    assert [engine() is None for engine in engines] == [True, False]


async def test_a_model_that_cannot_be_added_has_failed_and_the_next_is_loaded(
    start: Start, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put("a", "1", "a")
    node = start(shelf.node())
    monkeypatch.setattr(node_module, "_MOST_NUMBERS", 1)
    for name in ("b", "c"):
        shelf.put(name, "1", name)
    node.configure(wish(1, b=ModelSettings(order=1), c=ModelSettings(order=1)))
    await settled(node)
    assert state_of(node, "b") == state_of(node, "c") == [("1", State.UNAVAILABLE, True)]
    assert await ask(node, [1, 2], "a") == answer("a", 1, 2)


async def test_settings_are_in_force_whatever_is_on_disk(
    start: Start, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put("a", "1", "a")
    node = start(shelf.node())

    def fails(name: str) -> None:
        raise RecursionError("what a disk may hold")

    monkeypatch.setattr(node.loader.repository, "versions", fails)
    node.configure(NodeSettings(revision=1, batch_size=5, models={"a": ModelSettings(order=1)}))
    assert node.find("a", None).batcher.max_size == 5
    assert await ask(node, [1, 2]) == answer("a", 1, 2)


async def test_the_memory_of_an_unloaded_model_goes_to_the_others(start: Start, shelf: Shelf) -> None:
    for name in ("a", "b"):
        shelf.put(name, "1", name)
    node = start(shelf.node(cache_bytes=1000))
    node.configure(NodeSettings(revision=1, cache_bytes=1000, models={"b": ModelSettings(loaded=False)}))
    await until(lambda: len(node.models) == 1)
    assert node.find("a", None).results.max_bytes == 1000


async def test_a_worker_starts_with_an_older_version_if_the_newest_is_broken(start: Start, shelf: Shelf) -> None:
    for version, word in (("1", "one"), ("2", "two"), ("3", "broken"), ("4", "broken too")):
        shelf.put("a", version, word)
    node = start(shelf.node())
    assert shelf.loaded == ["broken too", "broken", "two"]
    assert await ask(node, [1, 2]) == answer("two", 1, 2)
    states = {info.version: info.state for info in node.infos()}
    assert states == {"2": State.READY, "3": State.UNAVAILABLE, "4": State.UNAVAILABLE}
    node.configure(wish(1, a=ModelSettings(record=Record(batch_size=3))))
    await settled(node)
    assert node.find("a", None).batcher.max_size == 3
    shelf.put("a", "4", "mended")
    node.configure(wish(2, a=ModelSettings(order=1)))
    await settled(node)
    assert await ask(node, [1, 2]) == answer("mended", 1, 2)
    assert [(info.version, info.state) for info in node.infos() if info.current] == [("4", State.READY)]


async def test_a_broken_file_in_the_place_of_what_serves_loads_no_older_version(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "one")
    shelf.put("a", "2", "two")
    node = start(shelf.node())
    shelf.put("a", "2", "broken")
    node.configure(wish(1, a=ModelSettings(order=1)))
    await settled(node)
    assert shelf.loaded == ["two", "broken"]
    assert await ask(node, [1, 2]) == answer("two", 1, 2)


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


def kept_node(shelf: Shelf, path: Path) -> Node:
    """As build_node makes one: it keeps its settings there."""
    node = Node("worker_1", Repository(folder=shelf.folder), shelf.make, last_settings=LastSettings(path, "shelf"))
    node.load()
    return node


async def test_a_worker_starts_with_the_settings_that_it_had(start: Start, shelf: Shelf, tmp_path: Path) -> None:
    for version in ("1", "2"):
        shelf.put("a", version, f"v{version}")
        shelf.put("off", version, f"off {version}")
    node = start(kept_node(shelf, tmp_path / "kept"))
    rolled_back = wish(7, a=ModelSettings(versions=("1",), order=1), off=ModelSettings(loaded=False, order=1))
    node.follow(rolled_back)
    await settled(node)
    shelf.loaded.clear()
    again = start(kept_node(shelf, tmp_path / "kept"))
    assert shelf.loaded == ["v1"]  # and nothing that is not wanted
    assert again.settings == rolled_back
    again.follow(rolled_back)
    assert await ask(again, [1, 2], "a") == answer("v1", 1, 2)
    assert shelf.loaded == ["v1"]
    other = LastSettings(tmp_path / "kept", "another folder")
    assert other.found is None


async def test_what_does_not_fit_the_first_settings_answers_nothing(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "v1")
    shelf.put("a", "2", "v2")
    shelf.put("b", "1", "b as the file says")
    node = start(shelf.node())
    shelf.open.clear()
    node.follow(wish(1, a=ModelSettings(versions=("1",)), b=ModelSettings(record=Record(output="output"))))
    for name in ("a", "b"):
        with pytest.raises(ApiError) as refused:
            node.find(name, None)
        assert (refused.value.status, refused.value.code) == (503, "model_not_ready")
    shelf.open.set()
    await settled(node)
    assert await ask(node, [1, 2], "a") == answer("v1", 1, 2)
    assert node.find("b", None).engine.record.output == "output"
    shelf.open.clear()  # later on the old one serves until the new one is ready
    node.follow(wish(2, a=ModelSettings(versions=("2",)), b=ModelSettings(record=Record(output="output"))))
    assert await ask(node, [1, 2], "a") == answer("v1", 1, 2)
    shelf.open.set()
    await settled(node)
    assert await ask(node, [1, 2], "a") == answer("v2", 1, 2)


async def test_what_was_held_back_serves_if_nothing_better_can_be_loaded(
    start: Start, shelf: Shelf, tmp_path: Path
) -> None:
    shelf.put("a", "1", "v1")
    node = start(kept_node(shelf, tmp_path / "kept"))
    shelf.put("a", "2", "broken")
    node.follow(wish(1, a=ModelSettings(versions=("2",), order=1)))
    with pytest.raises(ApiError):
        node.find("a", None)
    await settled(node)
    assert await ask(node, [1, 2], "a") == answer("v1", 1, 2)
    assert state_of(node, "a") == [("1", State.READY, True), ("2", State.UNAVAILABLE, True)]
    assert kept_node(shelf, tmp_path / "kept").settings.models == {}  # what can't be loaded is not kept


async def test_an_order_without_a_gateway_holds_nothing_back(start: Start, shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("a", "1", "v1")
    node = start(kept_node(shelf, tmp_path / "kept"))
    shelf.put("a", "2", "v2")
    shelf.open.clear()
    node.configure(wish(0, a=ModelSettings(order=1)))
    assert await ask(node, [1, 2], "a") == answer("v1", 1, 2)
    shelf.open.set()
    await settled(node)
    assert await ask(node, [1, 2], "a") == answer("v2", 1, 2)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"of":"shelf"}', b"\xff", b'{"of":"shelf","settings":{"models":[]}}'])
def test_settings_that_cannot_be_read_are_passed_over(
    shelf: Shelf, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put("a", "1", "v1")
    (tmp_path / "kept").write_bytes(content)
    node = kept_node(shelf, tmp_path / "kept")
    assert node.settings == NodeSettings()
    assert "can't be used" in caplog.text
    node.close()


async def test_a_worker_whose_kept_settings_leave_nothing_starts(start: Start, shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("a", "1", "v1")
    node = start(kept_node(shelf, tmp_path / "kept"))
    node.follow(wish(1, a=ModelSettings(loaded=False, order=1)))
    again = kept_node(shelf, tmp_path / "kept")
    assert not again.models
    start(again).follow(wish(2, a=ModelSettings(order=2)))
    await settled(again)
    assert await ask(again, [1, 2], "a") == answer("v1", 1, 2)


async def test_a_reason_goes_with_the_settings_that_it_was_about(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "v1")
    node = start(shelf.node())
    make = node.loader._make

    def picky(source: Source, record: Record) -> Engine:
        if record.warm_up:
            raise ModelError("warm_up names the input 'zzz'")
        return make(source, record)

    node.loader._make = picky
    node.configure(wish(1, a=ModelSettings(record=Record(warm_up=({"zzz": (3, 4)},)))))
    await settled(node)
    assert sorted(info.reason for info in node.infos()) == ["", "warm_up names the input 'zzz'"]  # said at once
    assert await ask(node, [1, 2], "a") == answer("v1", 1, 2)
    node.configure(wish(2, a=ModelSettings()))
    assert [info.reason for info in node.infos()] == [""]


async def test_orders_are_counted_anew_once_the_settings_of_a_model_are_gone(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "v1")
    node = start(shelf.node())
    node.configure(wish(1, a=ModelSettings(order=1)))
    node.configure(wish(2))
    shelf.put("a", "2", "v2")
    node.configure(wish(3, a=ModelSettings(order=1)))
    await settled(node)
    assert await ask(node, [1, 2], "a") == answer("v2", 1, 2)
