"""A worker starts with the settings that it had, and what fits no settings answers nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_site.lib.catalog import ModelSettings, State
from inference_site.lib.errors import ApiError
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.worker_app.conftest import Start
from tests.worker_app.file_engine import Shelf, answer
from tests.worker_app.nodes import ask, settled, state_of, wish
from worker_app.lastsettings import LastSettings
from worker_app.node import Node
from worker_app.repository import Repository


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
