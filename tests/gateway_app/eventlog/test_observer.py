"""What a gateway sees of its workers and models becomes events, each once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway_app.catalog import UNLOADED, Catalog
from gateway_app.eventlog.events import EventLog
from gateway_app.eventlog.observer import Observer
from gateway_app.streams.links import WorkerLink
from inference_site.lib.catalog import ModelInfo, Models, ModelSettings, State


class Scene:
    """A catalog and an observer that follow the same workers."""

    def __init__(self) -> None:
        self.log = EventLog()
        self.observer = Observer(self.log)
        self.catalog = Catalog()
        self._seen = 0

    def link(self, name: str) -> WorkerLink:
        return cast(WorkerLink, SimpleNamespace(name=name, address=f"{name}:1", last_error="the connection was lost"))

    def says(self, name: str, *models: ModelInfo) -> None:
        found = Models(revision=1, default="", models=models)
        self.observer.announced(self.link(name), found)
        self.catalog.announce(name, found)
        self.observer.followed(self.catalog)

    def loses(self, name: str) -> None:
        self.observer.lost(self.link(name))
        self.catalog.lost(name)
        self.observer.followed(self.catalog)

    def leaves(self, name: str) -> None:
        self.observer.leaves(self.link(name))
        self.catalog.leaves(name)
        self.observer.followed(self.catalog)

    def new(self) -> list[str]:
        """What has come since the last look."""
        events = list(self.log.recent)[self._seen :]
        self._seen = len(self.log.recent)
        return [f"{e.kind} {e.worker or e.model} {e.before}>{e.after}: {e.reason}" for e in events]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def ready(version: str = "1", number: int = 1, **more: Any) -> ModelInfo:
    return ModelInfo(number=number, name="digits", version=version, state=State.READY, digest=version, **more)


def failed(reason: str, version: str = "2") -> ModelInfo:
    return ModelInfo(number=0, name="digits", version=version, state=State.UNAVAILABLE, reason=reason)


def test_a_worker_comes_goes_and_comes_back(scene: Scene) -> None:
    scene.says("worker_1", ready())
    assert scene.new() == [
        "worker worker_1 >connected: at worker_1:1",
        "model digits >READY: digits 1 is served",
    ]
    scene.says("worker_1", ready())
    scene.says("worker_2", ready())
    assert scene.new() == ["worker worker_2 >connected: at worker_2:1"]
    scene.leaves("worker_2")
    scene.loses("worker_2")
    scene.loses("worker_2")
    assert scene.new() == [
        "worker worker_2 connected>draining: its process is about to stop",
        "worker worker_2 connected>lost: the connection was lost",
    ]
    scene.loses("worker_1")
    assert scene.new() == [
        "worker worker_1 connected>lost: the connection was lost",
        "model digits >UNAVAILABLE: digits 1: no worker that has it is connected",
    ]
    scene.says("worker_1", ready())
    assert scene.new() == [
        "worker worker_1 lost>connected: at worker_1:1",
        "model digits >READY: digits 1 is served",
    ]


def test_a_version_takes_the_place_of_another_and_is_unloaded(scene: Scene) -> None:
    scene.says("worker_1", ready())
    scene.new()
    scene.says("worker_1", ready(current=False), ready("2", 2))
    assert scene.new() == [
        "model digits >unloaded: digits 1 is not served any more",
        "model digits >READY: digits 2 is served",
        "model digits >READY: digits answers with version 2, until now 1",
    ]
    scene.catalog.configure({"digits": ModelSettings(loaded=False)}, "")
    scene.observer.followed(scene.catalog)
    assert scene.new() == ["model digits >unloaded: digits 2 is not served any more"]


def test_a_failure_is_told_once_however_many_workers_have_it(scene: Scene) -> None:
    scene.says("worker_1", ready())
    scene.says("worker_2", ready())
    scene.new()
    for _ in range(2):
        for name in ("worker_1", "worker_2"):
            scene.says(name, ready(), failed("the file is cut off"))
    assert scene.new() == ["model worker_1 >UNAVAILABLE: digits 2 could not be loaded by worker_1: the file is cut off"]
    scene.says("worker_1", ready())
    scene.says("worker_2", ready(), failed(UNLOADED))
    assert scene.new() == []
    scene.says("worker_2", ready(), failed("no memory"))
    (told,) = scene.new()
    assert told.endswith("digits 2 could not be loaded by worker_2: no memory")


def test_what_was_not_found_has_no_version(scene: Scene) -> None:
    scene.says("worker_1", failed("there is no model 'digits'", version=""))
    assert scene.new()[-1].endswith("UNAVAILABLE: digits could not be loaded by worker_1: there is no model 'digits'")


def test_what_a_gateway_ends_itself_is_no_event_but_what_operators_end_is(scene: Scene) -> None:
    scene.says("worker_1", ready())
    scene.says("worker_2", ready())
    scene.new()
    scene.observer.removed("worker_1")
    scene.observer.removed("worker_1")
    assert scene.new() == ["worker worker_1 connected>lost: it was disabled, removed or moved"]
    scene.observer.close()
    scene.loses("worker_2")
    assert scene.new() == []


def test_a_worker_that_gets_its_name_stays_connected(scene: Scene) -> None:
    scene.says("h-1", ready())
    scene.observer.renamed("h-1", "worker_1")
    scene.catalog.rename("h-1", "worker_1")
    scene.new()
    scene.says("worker_1", ready())
    assert scene.new() == []
    scene.loses("worker_1")
    assert scene.new()[0] == "worker worker_1 connected>lost: the connection was lost"
