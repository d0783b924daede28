"""What an operator's action would change: the workers and models as they are now, for sentences about its effect."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from xxhash import xxh3_64_intdigest

from gateway_app.core.breaker import State
from gateway_app.core.table import Table
from gateway_app.models import ModelRecord, Tuning, Worker
from inference_site.lifecycle import NotRunning

# A table of more points takes longer to make than a page may: shares are told by the weights then.
MOST_POINTS = 100_000


@dataclass(frozen=True, slots=True)
class WorkerNow:
    """A worker's row, and what the gateway knows of it; None: no gateway was asked."""

    row: Worker
    connected: bool | None = None
    states: tuple[str, ...] = ()  # of its breakers
    in_flight: int | None = None
    cached: int | None = None

    @property
    def takes(self) -> bool:
        """Whether it would be sent another worker's keys."""
        row = self.row
        if not row.enabled or row.draining or row.isolated:
            return False
        if self.connected is None and not self.states:
            return True
        return self.connected is not False and State.CLOSED in self.states

    @property
    def may_answer(self) -> bool:
        """Whether it would be asked if no other one were left: a draining one is, an isolated one is not."""
        return self.row.enabled and not self.row.isolated and self.connected is not False


@dataclass(frozen=True, slots=True)
class ModelNow:
    """A model as the gateway knows it."""

    versions: tuple[str, ...] = ()  # that are served
    workers: tuple[str, ...] = ()  # that have it
    default: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """All of it at one moment. `told` is off where no gateway was asked: then it is what the database says."""

    told: bool
    workers: Mapping[str, WorkerNow]
    models: Mapping[str, ModelNow]
    records: Mapping[str, bool]  # by name, whether a model with settings is to be loaded
    hot_entries: int | None
    tuning: Tuning
    then: frozenset[str] | None = None  # the workers on the ring after a change of several; None: of one

    @property
    def enabled(self) -> frozenset[str]:
        """The workers on the ring."""
        return frozenset(name for name, worker in self.workers.items() if worker.row.enabled)

    def changed(self, name: str, values: Mapping[str, Any]) -> Situation:
        """As it would be with other values in a worker's row; with none, with its breakers open."""
        worker = self.workers[name]
        row = copy(worker.row)
        for field, value in values.items():
            setattr(row, field, value)
        states = worker.states if values else (State.OPEN,)
        return replace(self, workers={**self.workers, name: replace(worker, row=row, states=states)})

    def table(self, members: frozenset[str]) -> Table | None:
        """Of the keys, with these workers; None if it would take too long to make."""
        weights = tuple(sorted((name, self.workers[name].row.weight) for name in members))
        if sum(weight for _, weight in weights) * self.tuning.virtual_nodes > MOST_POINTS:
            return None
        cap = self.tuning.share_cap_percent
        return _table(weights, self.tuning.virtual_nodes, 1 + cap / 100 if cap else 0.0)

    def share(self, name: str, members: frozenset[str] | None = None) -> float:
        """The part of all keys that a worker owns, or would own with these members."""
        members = self.enabled if members is None else members
        if name not in members:
            return 0.0
        table = self.table(members)
        if table is not None:
            return table.shares()[name]
        return float(self.workers[name].row.weight / sum(self.workers[each].row.weight for each in members))


@lru_cache(maxsize=4)
def _table(weights: tuple[tuple[str, float], ...], virtual_nodes: int, cap: float) -> Table:
    return Table(dict(weights), virtual_nodes, xxh3_64_intdigest, cap)


def situation(stats: Mapping[str, Any] | None = None) -> Situation:
    """As the database has it now, and as a gateway's /stats says; without those, as the running gateway of this process
    says, if there is one. For any thread but the loop's."""
    stats = stats if stats is not None else _own_stats()
    said = {each["name"]: each for each in stats["workers"]} if stats else {}
    states: dict[str, list[str]] = {}
    for each in stats["circuit_breakers"] if stats else ():
        states.setdefault(each["name"], []).append(each["state"])
    return Situation(
        told=stats is not None,
        workers={row.name: _worker(row, said.get(row.name), states.get(row.name, [])) for row in Worker.objects.all()},
        models=_models(stats["models"]) if stats else {},
        records=dict(ModelRecord.objects.values_list("name", "loaded")),
        hot_entries=stats["gateway"]["hot_entries"] if stats else None,
        tuning=Tuning.objects.filter(pk=Tuning.ONLY).first() or Tuning(),
    )


def _own_stats() -> dict[str, Any] | None:
    from gateway_app.figures.stats import gateway_stats  # what it builds on belongs to a running gateway

    try:
        return gateway_stats()
    except (NotRunning, TimeoutError):
        return None


def _worker(row: Worker, said: Mapping[str, Any] | None, states: list[str]) -> WorkerNow:
    if said is None:
        return WorkerNow(row)
    cached = (said["node"] or {}).get("cache_size")
    return WorkerNow(row, said["connected"], tuple(states), said["in_flight"], cached)


def _models(rows: list[dict[str, Any]]) -> dict[str, ModelNow]:
    found: dict[str, ModelNow] = {}
    for name in {row["name"] for row in rows}:
        mine = [row for row in rows if row["name"] == name]
        found[name] = ModelNow(
            versions=tuple(row["version"] for row in mine if row["state"] == "READY"),
            workers=tuple(
                sorted({each["name"] for row in mine for each in row["workers"] if each["state"] == "READY"})
            ),
            default=any(row["default"] for row in mine),
        )
    return found
