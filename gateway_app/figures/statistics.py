"""What a version of a model has done: in its workers' processes, and in the gateway's own cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from inference_site.lib.catalog import Statistics
from inference_site.lib.window import EMPTY, Buckets, summed

if TYPE_CHECKING:
    from gateway_app.served import ServedModel
    from gateway_app.streams.links import WorkerLink

logger = logging.getLogger(__name__)


class Counted:
    """Of one version of a model, since this gateway started. Nothing of it ever goes down: what processes have counted
    that ended stays, and so does what the gateway has counted while the version was served before."""

    def __init__(self) -> None:
        self._before = Statistics()  # of the gateway
        self._processes: dict[str, Statistics] = {}  # by instance, what each has said last
        self._faults = self._misses = 0  # that were told; faults: failed, but neither late nor by the engine
        self._latency: Buckets = EMPTY
        self._latency_s = 0.0

    def ended(self, model: ServedModel) -> None:
        """The version is not served any more. If it ever is again, it goes on from here."""
        self._before.add(_own(model))
        self._latency, self._latency_s = self.latency(model)

    def now(self, model: ServedModel, links: Mapping[str, WorkerLink]) -> Statistics:
        """The sum of all."""
        found = Statistics()
        for name, route in model.router.routes.items():
            if (link := links.get(name)) is not None and (said := link.stats_of(route).get("statistics")) is not None:
                try:
                    self._processes[route.instance] = msgspec.convert(said, Statistics, strict=False)
                except msgspec.ValidationError as error:
                    logger.warning("%s sends statistics that can't be read: %s", name, error)
        for each in (self._before, _own(model), *self._processes.values()):
            found.add(each)
        # Workers push their numbers, so they come later than what the gateway takes off them.
        others = found.fail_late + found.fail_engine
        self._faults = max(self._faults, found.fail - others)
        found.fail = others + self._faults
        found.cache_misses = self._misses = max(self._misses, found.cache_misses)
        return found

    def latency(self, model: ServedModel) -> tuple[Buckets, float]:
        """How long clients waited for answers, by this gateway: the counts of LatencyWindow, and seconds in all."""
        window = model.inference.latency
        return summed([self._latency, window.ever]), self._latency_s + window.total_s


def _own(model: ServedModel) -> Statistics:
    """The gateway's part. Who was answered by its hot cache is a cache hit; who joined another one waited for it.

    A request that a second worker was asked about, as the model failed on it at the first, is one: it failed at the
    first one only if it fails.
    """
    inference = model.inference
    hits, twice = inference.hot.hits, model.router.second_opinions
    return Statistics(
        success=hits + inference.joined_answers,
        success_ns=int((inference.hot_s + inference.joined_s) * 1e9),
        fail=-twice,
        cache_hits=hits,
        cache_hit_ns=int(inference.hot_s * 1e9),
        cache_misses=-twice if inference.keeps else 0,
    )
