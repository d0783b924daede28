"""What the gateway of this process knows now: what previews are computed from, and guards compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway_app.core.outcomes import Record
from gateway_app.core.vigil import Figures
from inference_site.lib.catalog import ModelInfo
from inference_site.lifecycle import NotRunning

if TYPE_CHECKING:
    from gateway_app.gateway import Gateway

# Over so many seconds the figures of now are taken.
RECENT_S = 30
ARRIVALS_S = 60


@dataclass(frozen=True, slots=True)
class ModelOnWorker:
    """One version of a model as a worker has measured it. A batch of n takes `fixed_s` + n * `each_s`.

    `arrivals` has the requests that it computed in each of the last seconds. `max_size` (rows per batch) and `wait_s`
    are as they are in force; that is 0 if a batch starts when the model is free.
    """

    worker: str
    name: str
    version: str
    fixed_s: float
    each_s: float
    sessions: int
    max_size: int
    wait_s: float
    arrivals: tuple[float, ...]

    @property
    def label(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True, slots=True)
class Present:
    """All of it at one moment."""

    figures: Figures
    models: tuple[ModelOnWorker, ...] = ()
    records: Mapping[tuple[str, str, str], Record] = field(default_factory=dict)  # by worker, model and version
    cached: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # by worker: results, and their bytes
    hot_entries: int = 0


def present() -> Present | None:
    """None where no gateway runs in this process, or it does not answer. For any thread but the loop's."""
    from gateway_app.stats import on_loop  # what it builds on belongs to a running gateway

    try:
        return on_loop(_present)
    except (NotRunning, TimeoutError):
        return None


def figures_of(recent: Mapping[str, Any]) -> Figures:
    """As the gateway's history says them."""
    return Figures(recent["requests"], recent["errors"], recent["p99_ms"])


def _present(gateway: Gateway) -> Present:
    infos = {(info.name, info.version): info for info in gateway.lineup.catalog.known()}
    reports = {name: link.stats for name, link in gateway.links.items() if link.stats is not None}
    return Present(
        figures=figures_of(gateway.history.recent(RECENT_S)),
        models=tuple(
            _model(gateway, worker, model, infos[key])
            for worker, report in reports.items()
            for model in report["models"]
            if (key := (model["name"], model["version"])) in infos
        ),
        records={
            (worker, *key): record
            for worker in gateway.links
            for key, record in gateway.outcomes.records(worker).items()
        },
        cached={worker: (report["cache_size"], report["cache_bytes"]) for worker, report in reports.items()},
        hot_entries=gateway.lineup.totals().hot_entries,
    )


def _model(gateway: Gateway, worker: str, said: Mapping[str, Any], info: ModelInfo) -> ModelOnWorker:
    return ModelOnWorker(
        worker=worker,
        name=info.name,
        version=info.version,
        fixed_s=said["fixed_ms"] / 1000,
        each_s=said["each_ms"] / 1000,
        sessions=said["sessions"],
        max_size=max(1, info.max_batch_size),
        wait_s=info.max_wait_us / 1e6,
        arrivals=tuple(gateway.history.arrivals(worker, ARRIVALS_S, (info.name, info.version))),
    )
