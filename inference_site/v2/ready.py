"""Which models can be asked, as HTTP and gRPC list them."""

from __future__ import annotations

from inference_site.exchange import Plane
from inference_site.lib.catalog import ModelInfo, State
from inference_site.lib.errors import ApiError


def ready_models(plane: Plane, name: str | None = None) -> list[ModelInfo]:
    """The versions of this model that can be asked; None: of all models."""
    return [each for each in plane.models() if name in (None, each.name) and _is_found(plane, each)]


def _is_found(plane: Plane, info: ModelInfo) -> bool:
    """What is ready in one place may not be served yet, because it is not so everywhere."""
    if info.state is not State.READY or not info.current:
        return False
    try:
        plane.find(info.name, info.version)
    except ApiError:
        return False
    return True
