"""Versions come and go while others serve: what is loaded, when, and what becomes of what can't be."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from inference_site.lib.catalog import ModelSettings, State
from inference_site.lib.errors import ApiError
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.support.waiting import until
from tests.worker_app.conftest import Start
from tests.worker_app.file_engine import Shelf, answer
from tests.worker_app.nodes import FakeStream, ask, settled, state_of, wish
from worker_app import node as node_module
from worker_app.engine import Engine, ModelError
from worker_app.repository import Source


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
