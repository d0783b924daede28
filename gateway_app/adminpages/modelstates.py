"""What the workers of this gateway say of their models now, for pages of the admin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference_site.lifecycle import NotRunning


@dataclass(frozen=True, slots=True)
class ModelState:
    """What some workers say of one version alike."""

    name: str
    version: str
    state: str
    reason: str
    workers: tuple[str, ...]


def model_states() -> list[ModelState]:
    """By name and version, those that most workers say first; nothing where no gateway runs, as under a test server.

    For any thread but the loop's.
    """
    found = []
    for model in _rows():
        said: dict[tuple[str, str], list[str]] = {}
        for worker in model["workers"]:
            said.setdefault((worker["state"], worker["reason"]), []).append(worker["name"])
        for (state, reason), workers in sorted(said.items(), key=lambda each: -len(each[1])):
            found.append(ModelState(model["name"], model["version"], state, reason, tuple(workers)))
    return found


def answering_versions() -> dict[str, str]:
    """By name, the version that answers whoever names none; nothing where no gateway runs. For any thread but the
    loop's."""
    return {model["name"]: model["version"] for model in _rows() if model["newest"]}


def _rows() -> list[dict[str, Any]]:
    from gateway_app.figures.stats import gateway_stats  # what it builds on belongs to a running gateway

    try:
        rows: list[dict[str, Any]] = gateway_stats()["models"]
    except (NotRunning, TimeoutError):
        return []
    return rows
