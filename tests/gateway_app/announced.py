"""What workers say of their models, in few words."""

from __future__ import annotations

from gateway_app.catalog import Catalog
from inference_site.lib.catalog import ModelInfo, Models, State

A, B, C = "worker_1", "worker_2", "worker_3"


def ready(number: int, version: str = "1", digest: str = "d1", *, name: str = "m", current: bool = True) -> ModelInfo:
    return ModelInfo(number=number, name=name, version=version, state=State.READY, digest=digest, current=current)


def loading(version: str, name: str = "m") -> ModelInfo:
    return ModelInfo(number=0, name=name, version=version, state=State.LOADING)


def broken(version: str, reason: str = "no ONNX file", name: str = "m") -> ModelInfo:
    return ModelInfo(number=0, name=name, version=version, state=State.UNAVAILABLE, reason=reason)


def say(catalog: Catalog, worker: str, *models: ModelInfo, default: str = "m") -> None:
    catalog.announce(worker, Models(revision=1, default=default, models=models))


def numbers(catalog: Catalog, version: str = "1", name: str = "m") -> dict[str, int]:
    serving = catalog.serving.get((name, version))
    return dict(serving.numbers) if serving is not None else {}


def three(*models: ModelInfo) -> Catalog:
    """A catalog of three workers that all have the same."""
    catalog = Catalog()
    for worker in (A, B, C):
        say(catalog, worker, *(models or (ready(1),)))
    return catalog
