"""What a change does under the load that there has been: to breakers, and to batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway_app.core.breaker import BreakerConfig
from gateway_app.core.forecast import BatchForecast, batches
from gateway_app.core.replay import Replay, replay
from gateway_app.previewing.present import ModelOnWorker, Present

Payload = Mapping[str, Any]

BREAKER_FIELDS = ("failure_threshold", "success_threshold", "open_seconds", "error_rate_percent")
BATCH_FIELDS = ("batch_size", "batch_wait_ms", "batch_eager")
# More rows than these are summed up: a page is to be read, and each row takes some computing.
ROWS = 30


@dataclass(frozen=True, slots=True)
class BreakerPreview:
    """One worker's breaker for one model, told the last hour again: with the settings of now, and with the new ones."""

    worker: str
    model: str
    before: Replay
    after: Replay

    @property
    def covered_min(self) -> float:
        """Minutes that the record covers."""
        return self.after.covered_s / 60

    @property
    def is_blind(self) -> bool:
        """Whether the breaker would have been closed for over a second while the real one was open."""
        return self.after.blind_s > 1


@dataclass(frozen=True, slots=True)
class BatchPreview:
    """One model on the worker that computes the most of it, at the mean rate of the last minute and at its highest."""

    model: str
    worker: str
    rate: float
    peak: float
    before: BatchForecast
    after: BatchForecast
    peak_before: BatchForecast
    peak_after: BatchForecast


@dataclass(frozen=True, slots=True)
class _Settings:
    size: int
    wait_s: float
    eager: bool
    sessions: int


def changes_breakers(before: Payload, after: Payload) -> bool:
    return any(before["tuning"][name] != after["tuning"][name] for name in BREAKER_FIELDS)


def preview_breakers(before: Payload, after: Payload, present: Present) -> tuple[list[BreakerPreview], int]:
    """Those breakers that either way would have opened, and how many records would not have opened any."""
    configs = _breaker_config(before["tuning"]), _breaker_config(after["tuning"])
    found: list[BreakerPreview] = []
    quiet = 0
    for (worker, model, version), record in sorted(present.records.items()):
        if len(found) == ROWS:
            break
        old, new = (replay(record, config) for config in configs)
        if old.opens or new.opens or new.blind_s:
            found.append(BreakerPreview(worker, f"{model} version {version}", old, new))
        else:
            quiet += 1
    return found, quiet


def preview_batches(
    before: Payload, after: Payload, present: Present, growth: Mapping[str, float]
) -> list[BatchPreview]:
    """Of each model that has been computed of late. `growth`: by worker, how many times its keys of now it gets."""
    busiest: dict[tuple[str, str], tuple[float, ModelOnWorker]] = {}
    for each in present.models:
        # Of whoever gets more than before what it will have, else what it has.
        rate = _mean(each.arrivals) * max(1.0, growth.get(each.worker, 1.0))
        if rate and rate > busiest.get((each.name, each.version), (0.0, each))[0]:
            busiest[each.name, each.version] = rate, each
    found = []
    for _, (_, model) in sorted(busiest.items())[:ROWS]:
        times = growth.get(model.worker, 1.0)
        old, new = _settings(model, before, before), _settings(model, before, after)
        if old == new and times == 1.0:
            continue
        mean, peak = _mean(model.arrivals), max(model.arrivals)
        found.append(
            BatchPreview(
                model=model.label,
                worker=model.worker,
                rate=mean,
                peak=peak,
                before=_forecast(model, mean, old),
                after=_forecast(model, mean * times, new),
                peak_before=_forecast(model, peak, old),
                peak_after=_forecast(model, peak * times, new),
            )
        )
    return found


def _breaker_config(tuning: Mapping[str, Any]) -> BreakerConfig:
    return BreakerConfig(
        failure_threshold=tuning["failure_threshold"],
        success_threshold=tuning["success_threshold"],
        open_s=tuning["open_seconds"],
        error_ratio=tuning["error_rate_percent"] / 100,
    )


def _settings(model: ModelOnWorker, now: Payload, payload: Payload) -> _Settings:
    """What a worker would be told of a model. What its model.json says stands, unless operators say it otherwise."""
    values = dict(_batch_values(model, payload))
    known = dict(_batch_values(model, now))
    size, wait_s = values["batch_size"], values["batch_wait_ms"] / 1000
    own = _row(payload, model.name)
    if own.get("batch_size") is None and known["batch_size"] != model.max_size:
        size = model.max_size
    if (
        own.get("batch_wait_ms") is None
        and not known["batch_eager"]
        and abs(known["batch_wait_ms"] / 1000 - model.wait_s) > 1e-6
    ):
        wait_s = model.wait_s
    if own.get("batches") is False:
        size = 1
    return _Settings(size, wait_s, values["batch_eager"], own.get("sessions") or model.sessions)


def _batch_values(model: ModelOnWorker, payload: Payload) -> Iterator[tuple[str, Any]]:
    tuning = dict(payload["tuning"])
    for canary in payload.get("canary", ()):
        if canary["worker"] == model.worker:
            tuning |= canary["tuning"]
    own = _row(payload, model.name)
    for name in BATCH_FIELDS:
        yield name, tuning[name] if own.get(name) is None else own[name]


def _row(payload: Payload, name: str) -> Mapping[str, Any]:
    return next((row for row in payload.get("models", ()) if row["name"] == name), {})


def _forecast(model: ModelOnWorker, rate: float, settings: _Settings) -> BatchForecast:
    return batches(rate, model.fixed_s, model.each_s, settings.sessions, settings.size, settings.wait_s, settings.eager)


def _mean(rates: tuple[float, ...]) -> float:
    return sum(rates) / len(rates) if rates else 0.0
