"""What a version of a model has done since it was loaded: in its workers, and in the gateway's own cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from gateway_app.links import WorkerLink
from gateway_app.served import ServedModel
from inference_site.lib.catalog import Statistics

logger = logging.getLogger(__name__)


def statistics_of(model: ServedModel, links: Mapping[str, WorkerLink]) -> Statistics:
    """The sum. Who was answered by the gateway's hot cache is a cache hit; who joined another one waited for it."""
    inference = model.inference
    hits = inference.hot.hits
    found = Statistics(
        success=hits + inference.joined_answers,
        success_ns=int((inference.hot_s + inference.joined_s) * 1e9),
        cache_hits=hits,
        cache_hit_ns=int(inference.hot_s * 1e9),
    )
    for name, route in model.router.routes.items():
        link = links.get(name)
        said = link.stats_of(route).get("statistics") if link is not None else None
        if said is not None:
            try:
                found.add(msgspec.convert(said, Statistics, strict=False))
            except msgspec.ValidationError as error:
                logger.warning("%s sends statistics that can't be read: %s", name, error)
    return found
