"""The configuration as the data plane sees it: one immutable value per revision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeVar

from django.core.exceptions import ValidationError

from gateway_app.canaries.trial import Trial
from gateway_app.core.breaker import BreakerConfig
from gateway_app.core.policy import Policy
from gateway_app.models import Canary, ModelRecord, Tuning, Worker
from inference_site.lib.nodesettings import NodeSettings

M = TypeVar("M", Worker, ModelRecord, Tuning, Canary)


@dataclass(frozen=True, slots=True)
class WorkerEntry:
    """One configured worker. `named` is off while only its address is known."""

    name: str
    host: str
    port: int
    weight: float = 1.0
    enabled: bool = True
    draining: bool = False
    named: bool = True
    isolated: bool = False
    order: str = ""  # "trip" or "reset", to be carried out once when its number changes
    order_number: int = 0

    @property
    def address(self) -> str:
        """host:port, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything an operator has set, enabled workers or not, ordered by name; revision 0 is the defaults."""

    revision: int = 0
    workers: tuple[WorkerEntry, ...] = ()
    virtual_nodes: int = 150
    policy: Policy = field(default_factory=Policy)
    node: NodeSettings = field(default_factory=NodeSettings)
    share_cap_percent: float = 2.0
    hot_cache: bool = True
    canary: Trial | None = None

    def node_for(self, worker: str) -> NodeSettings:
        """What this worker is told: as all others, but for what it alone tries out."""
        canary = self.canary
        return self.node if canary is None or canary.worker != worker else canary.over(self.node)


class InvalidConfig(ValueError):
    """A revision that must not come into force; the message says which value is wrong."""


def parse(revision: int, payload: object) -> Snapshot:
    """The snapshot of a stored payload; raises InvalidConfig. What an older version did not know gets its default.

    Payloads are checked again although forms did so already: rows are also edited by hand, and by other versions.
    """
    if not isinstance(payload, Mapping):
        raise InvalidConfig(f"revision {revision} is {type(payload).__name__}, not an object with workers and tuning")
    tuning = _checked(Tuning, payload.get("tuning", {}), "tuning")
    workers = _checked_rows(Worker, payload, "worker")
    records = _checked_rows(ModelRecord, payload, "model")
    canaries = _checked_rows(Canary, payload, "canary", key="canary")
    if len(canaries) > 1:
        raise InvalidConfig(f"canary has {len(canaries)} rows; one at a time is tried")
    entries = tuple(
        WorkerEntry(**{field: getattr(worker, field) for field in Worker.PAYLOAD})
        for worker in sorted(workers, key=lambda worker: worker.name)
    )
    for what, values in (
        ("workers have the name", [entry.name for entry in entries]),
        ("workers have the address", [entry.address for entry in entries]),
        ("models have the name", [row.name for row in records]),
    ):
        value, times = Counter(values).most_common(1)[0] if values else ("", 0)
        if times > 1:
            raise InvalidConfig(f"{times} {what} {value}")
    return Snapshot(
        revision=revision,
        workers=entries,
        virtual_nodes=tuning.virtual_nodes,
        share_cap_percent=tuning.share_cap_percent,
        hot_cache=tuning.hot_cache,
        policy=Policy(
            breaker=BreakerConfig(
                failure_threshold=tuning.failure_threshold,
                success_threshold=tuning.success_threshold,
                open_s=tuning.open_seconds,
                error_ratio=tuning.error_rate_percent / 100,
            ),
            timeout_s=tuning.request_timeout_ms / 1000,
            load_factor=tuning.load_factor,
            load_floor=tuning.load_floor,
            retry_ratio=tuning.retry_percent / 100,
            hedging=tuning.hedging,
            slow_factor=tuning.slow_factor,
            silence_s=tuning.silence_ms / 1000,
            slow_start_s=tuning.slow_start_seconds,
            check_s=tuning.check_seconds,
            hand_off=tuning.hand_off,
        ),
        node=NodeSettings(
            revision=revision,
            cache_entries=tuning.cache_entries,
            cache_bytes=tuning.cache_mib * 2**20,
            batch_size=tuning.batch_size,
            batch_wait_ms=tuning.batch_wait_ms,
            batch_eager=tuning.batch_eager,
            queue_ms=float(tuning.queue_ms),
            default_model=tuning.default_model,
            models={row.name: row.settings for row in records},
        ),
        canary=next((Trial(row.worker, row.tuning, row.model, row.version) for row in canaries), None),
    )


def _checked_rows(model: type[M], payload: Mapping[str, Any], what: str, key: str = "") -> list[M]:
    rows = payload.get(key or f"{what}s", [])
    if not isinstance(rows, list):
        raise InvalidConfig(f"{key or what + 's'} is {rows!r}, not a list")
    return [_checked(model, row, f"{what} {position}") for position, row in enumerate(rows, start=1)]


def _checked(model: type[M], values: Any, where: str) -> M:
    """The row with these values, by the same rules as in the admin's forms."""
    if not isinstance(values, Mapping):
        raise InvalidConfig(f"{where} is {values!r}, not an object")
    unknown = sorted(set(values) - set(model.PAYLOAD))
    if unknown:
        raise InvalidConfig(f"{where} has {unknown[0]!r}, which this version does not know")
    row = model(**values)
    try:
        row.clean_fields()
        row.clean()
    except ValidationError as exc:
        name, sentences = next(iter(exc.message_dict.items()))
        raise InvalidConfig(f"{where}, {name}: {sentences[0]}") from None
    for name in model.PAYLOAD:
        value = getattr(row, name)
        if isinstance(value, float) and not isfinite(value):  # passes every comparison, so also the validators
            raise InvalidConfig(f"{where}, {name}: {value} is no finite number")
    return row
