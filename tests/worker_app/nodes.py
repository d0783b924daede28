"""Asking a node of several models, and waiting for it."""

from __future__ import annotations

from inference_site.lib.catalog import ModelSettings, State
from inference_site.lib.frames import Tell
from inference_site.lib.nodesettings import NodeSettings
from tests.support.waiting import until
from tests.worker_app.asker import Asker
from worker_app.node import Node


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


def wish(revision: int, **models: ModelSettings) -> NodeSettings:
    """Settings of that revision, of these models."""
    return NodeSettings(revision=revision, models=models)


def state_of(node: Node, name: str) -> list[tuple[str, State, bool]]:
    """What is told of a model: version, state, and whether it is current."""
    return [(info.version, info.state, info.current) for info in node.infos() if info.name == name]


async def settled(node: Node) -> None:
    """Nothing is loading any more."""
    await until(lambda: not any(info.state is State.LOADING for info in node.infos()))


async def ask(node: Node, values: object, name: str | None = None, version: str | None = None) -> bytes:
    """A model's answer."""
    kind, _, _, payload = await Asker(node.find(name, version)).answer(values)
    assert kind is Tell.RESULT
    return payload
