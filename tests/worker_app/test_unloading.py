"""What is unloaded: not while anybody uses it, with nothing left of it but its counts."""

from __future__ import annotations

import gc
import weakref

import pytest

from inference_site.lib.catalog import ModelSettings
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from tests.support.waiting import until
from tests.worker_app.asker import Asker
from tests.worker_app.conftest import Start
from tests.worker_app.file_engine import Shelf, answer
from tests.worker_app.nodes import FakeStream, ask, settled, wish
from worker_app import node as node_module
from worker_app.engine import Engine
from worker_app.stats import node_stats


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
    monkeypatch.setattr(node_module, "LINGER_S", 3600.0)
    shelf.put("a", "1", "old")
    node = start(shelf.node())
    stream = FakeStream(uses=frozenset((1,)))
    node.joined(stream)
    shelf.put("a", "2", "new")
    node.configure(wish(1, a=ModelSettings(order=1)))
    await settled(node)
    node.left(stream)
    assert 1 in node.models
    node.joined(stream)
    monkeypatch.setattr(node_module, "LINGER_S", 0.1)
    node.left(stream)
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


def is_gone(engine: weakref.ref[Engine]) -> bool:
    """Once its consumers have ended."""
    gc.collect()
    return engine() is None


async def test_nothing_holds_an_engine_that_is_unloaded(start: Start, shelf: Shelf) -> None:
    shelf.put("a", "1", "old")
    node = start(shelf.node())
    await ask(node, [1, 2])
    engine = weakref.ref(node.models[1].engine)
    shelf.put("a", "2", "new")
    node.configure(wish(1, a=ModelSettings(order=1)))
    await settled(node)
    await until(lambda: 1 not in node.models)
    await until(lambda: is_gone(engine))


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
    await until(lambda: is_gone(engines[0]))
    assert engines[1]() is not None


async def test_the_memory_of_an_unloaded_model_goes_to_the_others(start: Start, shelf: Shelf) -> None:
    for name in ("a", "b"):
        shelf.put(name, "1", name)
    node = start(shelf.node(cache_bytes=1000))
    node.configure(NodeSettings(revision=1, cache_bytes=1000, models={"b": ModelSettings(loaded=False)}))
    await until(lambda: len(node.models) == 1)
    assert node.find("a", None).results.max_bytes == 1000
