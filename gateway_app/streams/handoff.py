"""Cached results move along when their keys do: from a worker that leaves, and to one that comes back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from gateway_app.modelset import ModelSet
from gateway_app.served import ServedModel
from gateway_app.streams.links import WorkerLink
from inference_site.lib.frames import Ask
from inference_site.lib.handoff import SHARE_BYTES, Entry, decode, encode

logger = logging.getLogger(__name__)

# What a worker left is kept for its next process this long, and what others hand over is passed on as long.
REMEMBER_S = 60.0


@dataclass(slots=True)
class Legacy:
    """What a worker had in its cache when it left, as it sent it."""

    until: float
    chunks: list[bytes] = field(default_factory=list)
    size_bytes: int = 0


class HandOff:
    """Asks workers for their hottest results when keys move, and gives them to those who will be asked for them.

    Workers know nothing of each other or of the ring: a result says of which model it is and by which key it is routed,
    the gateway knows whose that is. Whoever does not have that very model ignores it.
    """

    def __init__(self, models: ModelSet, links: Mapping[str, WorkerLink], clock: Callable[[], float]) -> None:
        self._models = models
        self._links = links
        self._clock = clock
        self._legacies: dict[str, Legacy] = {}
        self._returned: dict[str, float] = {}  # until when results are passed on to who came back

    def leaving(self, link: WorkerLink) -> None:
        """A worker is about to stop, or is to be idle."""
        if link.policy.hand_off:
            self._legacies[link.name] = Legacy(self._clock() + REMEMBER_S)
            link.sharing = link.share()

    def returned(self, link: WorkerLink) -> None:
        """A worker is there again, with an empty cache."""
        if not link.policy.hand_off:
            return
        name = link.name
        legacy = self._legacies.pop(name, None)
        for chunk in legacy.chunks if legacy is not None else ():
            link.order(Ask.KEEP, chunk)
        self._returned[name] = self._clock() + REMEMBER_S
        for other in self._links.values():
            if other is not link:
                other.share()

    def take(self, link: WorkerLink, payload: bytes) -> None:
        """A worker hands over results."""
        try:
            entries = decode(payload)
        except msgspec.MsgspecError as error:
            logger.warning("%s handed over what can't be read: %s", link.name, error)
            return
        if not entries.entries:
            link.sharing = max(0, link.sharing - 1)
            return
        legacy = self._legacies.get(link.name)
        if legacy is not None and legacy.size_bytes + len(payload) <= SHARE_BYTES:
            legacy.chunks.append(payload)
            legacy.size_bytes += len(payload)
        model = self._models.served.get((entries.name, entries.version))
        if model is None:
            return
        heirs: dict[str, list[Entry]] = {}
        for entry in entries.entries:
            heir = self._heir(model, link.name, entry.routing)
            if heir is not None and (legacy is not None or heir in self._returned):
                heirs.setdefault(heir, []).append(entry)
        for name, found in heirs.items():
            self._links[name].order(Ask.KEEP, encode(msgspec.structs.replace(entries, entries=found)))

    def flush(self, worker: str) -> None:
        """A worker's results are not to be used any more: neither those it left, nor those that are on their way."""
        self._legacies.pop(worker, None)
        self._returned.clear()

    def forget(self) -> None:
        """Drops what has been kept for too long; to be called about once a second."""
        now = self._clock()
        self._legacies = {name: legacy for name, legacy in self._legacies.items() if now < legacy.until}
        self._returned = {name: until for name, until in self._returned.items() if now < until}

    def _heir(self, model: ServedModel, source: str, key: int) -> str | None:
        """Who is asked for this key now, if it is not the worker that has it."""
        for name in model.router.ring.owners(key):
            if model.router.routes[name].staying and name in self._links:
                return name if name != source else None
        return None
