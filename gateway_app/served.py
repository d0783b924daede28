"""One version of a model as the gateway serves it: its router, its caches and its counts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import msgspec

from gateway_app.core.breaker import State as BreakerState
from gateway_app.core.router import Router
from gateway_app.election import Serving
from gateway_app.face import Face
from gateway_app.inference import Inference
from gateway_app.traces import TraceLog
from inference_site.exchange import Asker, Ticket
from inference_site.lib.asks import seed_of
from inference_site.lib.catalog import ModelInfo, State
from inference_site.lib.window import RateWindow

if TYPE_CHECKING:
    from gateway_app.streams.links import WorkerLink

# What its router counts, and is shown under the same name.
COUNTS = (
    "retries", "hedges", "hedge_wins", "budget_exhausted", "expired", "cancelled", "shed", "suspects_refused",
)  # fmt: skip


@dataclass(slots=True)
class Totals:
    """What the gateway has counted, of one model or of several."""

    requests: int = 0
    errors: int = 0
    client_errors: int = 0
    hot_hits: int = 0
    hot_entries: int = 0
    joined: int = 0
    spills: int = 0
    retries: int = 0
    hedges: int = 0
    hedge_wins: int = 0
    budget_exhausted: int = 0
    expired: int = 0
    cancelled: int = 0
    shed: int = 0
    suspects_refused: int = 0

    def add(self, other: Totals) -> None:
        """Adds another model's."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class ServedModel:
    """Answers asks of one version of a model; exchange.Served. All of it is its own: what happens to one model leaves
    the others alone."""

    info: ModelInfo

    def __init__(
        self,
        name: str,
        version: str,
        clock: Callable[[], float],
        faces: Mapping[str, Face],
        on_breaker: Callable[[ServedModel, str, BreakerState, BreakerState, str], None],
        traces: TraceLog | None = None,
    ) -> None:
        self.router = Router(clock, lambda *change: on_breaker(self, *change), lambda: random.uniform(0.8, 1.2))
        self.inference = Inference(self.router, clock, faces, traces=traces)
        self.rate = RateWindow()
        self.become(name, version)

    def become(self, name: str, version: str) -> None:
        """Takes a name, as long as nothing has been asked of it."""
        self.name = name
        self.version = version
        self.inference.seed = seed_of(name, version)
        self.inference.tracer.name, self.inference.tracer.version = name, version
        self.info = ModelInfo(number=0, name=name, version=version, state=State.UNAVAILABLE)

    def ask(
        self, payload: bytes, asker: Asker, timeout_ms: int | None = None, since: float | None = None, /
    ) -> Ticket | None:
        """As exchange.Served says."""
        return self.inference.ask(payload, asker, timeout_ms, since)

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.name, self.version

    @property
    def in_flight(self) -> int:
        """Calls that wait for an answer."""
        return self.router.in_flight

    def totals(self) -> Totals:
        """What has been counted until now."""
        inference, router = self.inference, self.router
        return Totals(
            inference.requests,
            inference.errors,
            inference.client_errors,
            inference.hot.hits,
            len(inference.hot),
            inference.joined,
            router.spills,
            *(getattr(router, name) for name in COUNTS),
        )

    def assign(self, serving: Serving | None, links: Mapping[str, WorkerLink]) -> list[str]:
        """Sends asks to these workers from now on, under their numbers. Those who are other processes than before."""
        numbers = serving.numbers if serving is not None else {}
        if serving is not None:
            self._describe(serving)
        routes = self.router.routes
        ready = {name: links[name] for name in routes if name in links and links[name].ready}
        return [name for name, link in ready.items() if link.serve(routes[name], numbers.get(name, 0))]

    def _describe(self, serving: Serving) -> None:
        info = serving.info
        self.info = info
        if not serving.numbers:
            reason = "no worker that has it is connected"
            self.info = msgspec.structs.replace(info, state=State.UNAVAILABLE, reason=reason)
        self.inference.deadline_s = info.deadline_ms / 1000 if info.deadline_ms else None
        if self.inference.keeps is not info.cached:
            self.inference.keep_results(info.cached)
        self.inference.serve(serving.digests)
