"""What the gateway of this process knows now: what previews are computed from, and guards compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway_app.core.outcomes import Record
from gateway_app.core.vigil import Figures
from gateway_app.figures.history import History
from gateway_app.figures.seconds import Second
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


def present(with_records: bool = False) -> Present | None:
    """None where no gateway runs in this process, or it does not answer. For any thread but the loop's.

    On the loop is only taken what changes there: with many workers and models the rest takes longer than requests may
    be held up. `with_records`: for replays, one worker's after the other.
    """
    from gateway_app.figures.stats import on_loop  # what it builds on belongs to a running gateway

    def records_of(worker: str) -> dict[tuple[str, str, str], Record]:
        return on_loop(
            lambda gateway: {(worker, *key): record for key, record in gateway.outcomes.records(worker).items()}
        )

    try:
        figures, reports, infos, seconds, hot_entries = on_loop(_taken)
        records = [records_of(worker) for worker in reports] if with_records else []
    except (NotRunning, TimeoutError):
        return None
    history = History()  # a copy, to which nothing is added while it is read
    history.seconds.extend(seconds)
    return Present(
        figures=figures,
        models=tuple(
            _model(worker, model, infos[key], history)
            for worker, report in reports.items()
            for model in report["models"]
            if (key := (model["name"], model["version"])) in infos
        ),
        records={key: record for each in records for key, record in each.items()},
        cached={worker: (report["cache_size"], report["cache_bytes"]) for worker, report in reports.items()},
        hot_entries=hot_entries,
    )


def figures_of(recent: Mapping[str, Any]) -> Figures:
    """As the gateway's history says them."""
    return Figures(recent["requests"], recent["errors"], recent["p99_ms"])


_Taken = tuple[Figures, dict[str, Mapping[str, Any]], dict[tuple[str, str], ModelInfo], list[Second], int]


def _taken(gateway: Gateway) -> _Taken:
    return (
        figures_of(gateway.history.recent(RECENT_S)),
        {name: link.stats for name, link in gateway.links.items() if link.stats is not None},
        {(info.name, info.version): info for info in gateway.lineup.catalog.known()},
        gateway.history.last(ARRIVALS_S),
        gateway.lineup.totals().hot_entries,
    )


def _model(worker: str, said: Mapping[str, Any], info: ModelInfo, history: History) -> ModelOnWorker:
    return ModelOnWorker(
        worker=worker,
        name=info.name,
        version=info.version,
        fixed_s=said["fixed_ms"] / 1000,
        each_s=said["each_ms"] / 1000,
        sessions=said["sessions"],
        max_size=max(1, info.max_batch_size),
        wait_s=info.max_wait_us / 1e6,
        arrivals=tuple(history.arrivals(worker, ARRIVALS_S, (info.name, info.version))),
    )
