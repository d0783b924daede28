"""What workers report of themselves, from one second to the next."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway_app.streams.links import WorkerLink

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # a model's name and version
# Requests computed, and the nanoseconds that these waited and took.
_Counts = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Reported:
    """What a worker has computed between two of its reports, for all gateways together."""

    computed: int  # requests
    queue_s: float  # summed over them
    compute_s: float
    rates: Mapping[Key, float]  # requests per second, of each model that has computed any


class Reports:
    """Remembers the last report of each worker. A model that is new in one, or whose counts have dropped as its worker
    was started anew, counts from there on."""

    def __init__(self) -> None:
        self._last: dict[WorkerLink, tuple[float, dict[Key, _Counts] | None]] = {}  # None: it could not be read

    def take(self, link: WorkerLink) -> Reported | None:
        """What is new since the last call; None if the worker has said nothing since, or for the first time."""
        if link.stats is None:
            return None
        last = self._last.get(link)
        if last is not None and last[0] == link.stats_at:
            return None
        now: dict[Key, _Counts] | None = None
        try:
            now = _counts(link.stats)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if last is None or last[1] is not None:  # said once
                logger.warning("%s sends numbers that can't be read: %s: %s", link.name, type(error).__name__, error)
        self._last[link] = link.stats_at, now
        if last is None or last[1] is None or now is None:
            return None
        return _difference(last[1], now, link.stats_at - last[0])

    def keep(self, links: Iterable[WorkerLink]) -> None:
        """Forgets all others."""
        if len(self._last) > len(kept := set(links)):
            self._last = {link: last for link, last in self._last.items() if link in kept}


def _counts(stats: Mapping[str, Any]) -> dict[Key, _Counts]:
    found = {}
    for model in stats["models"]:
        said = model["statistics"]
        compute_ns = said["compute_input_ns"] + said["compute_infer_ns"] + said["compute_output_ns"]
        found[str(model["name"]), str(model["version"])] = int(said["computed"]), int(said["queue_ns"]), int(compute_ns)
    return found


def _difference(before: Mapping[Key, _Counts], now: Mapping[Key, _Counts], took_s: float) -> Reported:
    computed = queue_ns = compute_ns = 0
    rates = {}
    for key, counts in now.items():
        old = before.get(key, counts)
        if counts[0] <= old[0]:
            continue
        count = counts[0] - old[0]
        computed += count
        queue_ns += max(0, counts[1] - old[1])
        compute_ns += max(0, counts[2] - old[2])
        rates[key] = count / max(took_s, 1e-3)
    return Reported(computed, queue_ns / 1e9, compute_ns / 1e9, rates)
