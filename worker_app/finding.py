"""Which of a worker's models is asked, and what is said where there is none of that name and version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference_site.lib.catalog import State
from inference_site.lib.errors import ApiError

if TYPE_CHECKING:
    from worker_app.model import Model
    from worker_app.node import Node


def find(node: Node, name: str | None, version: str | None) -> Model:
    """What exchange.Plane.find says."""
    name = name if name is not None else _default(node)
    found = [model for model in node.models.values() if model.name == name and model.current]
    for model in sorted(found, key=lambda model: (int(model.version), model.number), reverse=True):
        if version is None or model.version == version:
            return model
    raise _missing(node, name, version, [model.version for model in found])


def _default(node: Node) -> str:
    """The name of the model of a plain /infer. Raises ApiError if none is meant."""
    if node.default:
        return node.default
    if node.names:
        message = (
            f'several models are here: {", ".join(node.names)}; name one in "model", or set the default model '
            "in the admin"
        )
        raise ApiError(400, "model_required", message)
    place = node.loader.repository.place
    raise ApiError(503, "model_not_ready", f"this worker serves no model yet: {place} holds none")


def _missing(node: Node, name: str, version: str | None, there: list[str]) -> ApiError:
    loader = node.loader
    infos = [info for info in loader.infos() if info.name == name and version in (None, info.version)]
    if any(info.state is State.LOADING for info in infos):
        return ApiError(503, "model_not_ready", f"the model {name!r} is being loaded; try again soon", retry_after_s=1)
    if loader.unloaded(name):
        return ApiError(404, "unknown_model", f"the model {name!r} is unloaded; load it to have it served")
    if there:
        message = f"the model {name!r} has no version {version!r}; it is served in: {', '.join(sorted(there))}"
        return ApiError(404, "unknown_version", message)
    if infos and name in loader.names:
        reason = "; ".join(info.reason for info in infos)
        return ApiError(503, "model_not_ready", f"the model {name!r} can't be loaded: {reason}")
    served = sorted({model.name for model in node.models.values() if model.current})
    return ApiError(404, "unknown_model", f"there is no model {name!r}; this worker serves: {', '.join(served)}")
