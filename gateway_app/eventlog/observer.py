"""What a gateway sees happen to its workers and models, as events."""

from __future__ import annotations

from gateway_app.catalog import UNLOADED, Catalog, Key
from gateway_app.eventlog.events import EventLog
from gateway_app.models import Event
from gateway_app.streams.links import WorkerLink
from inference_site.lib.catalog import Models, State


class Observer:
    """Is told of each step, and tells the event log what is new about it. Not safe for concurrent access."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._closed = False
        self._there: set[str] = set()  # workers that are connected
        self._before: set[str] = set()  # those that have been
        self._serving: dict[Key, bool] = {}
        self._newest: dict[str, str] = {}
        self._failures: dict[str, set[tuple[str, str, str]]] = {}  # by worker: name, version and reason

    def close(self) -> None:
        """The gateway stops: what happens to its connections from now on is its own doing."""
        self._closed = True

    def announced(self, link: WorkerLink, models: Models) -> None:
        """A worker has said what it has."""
        name = link.name
        if name not in self._there:
            self._there.add(name)
            self._worker(name, "lost" if name in self._before else "", "connected", f"at {link.address}")
            self._before.add(name)
        said = {
            (info.name, info.version, info.reason)
            for info in models.models
            if info.state is State.UNAVAILABLE and info.reason != UNLOADED
        }
        known = set().union(*self._failures.values())
        for model, version, reason in sorted(said - known):
            which = _called((model, version))
            self._events.add(
                Event.Kind.MODEL,
                f"{which} could not be loaded by {name}: {reason or 'it gave no reason'}",
                worker=name,
                model=model,
                after=State.UNAVAILABLE,
            )
        self._failures[name] = said

    def leaves(self, link: WorkerLink) -> None:
        """A worker is about to stop."""
        if link.name in self._there:
            self._worker(link.name, "connected", "draining", "its process is about to stop")

    def lost(self, link: WorkerLink) -> None:
        """A connection has ended."""
        if link.name in self._there:
            self._there.discard(link.name)
            self._worker(link.name, "connected", "lost", link.last_error or "the connection was closed")
        self._failures.pop(link.name, None)

    def removed(self, name: str) -> None:
        """A worker is not to be connected any more."""
        if name in self._there:
            self._there.discard(name)
            self._worker(name, "connected", "lost", "it was disabled, removed or moved")
        self._failures.pop(name, None)

    def renamed(self, before: str, after: str) -> None:
        """A worker turns out to have another name."""
        if before in self._there:
            self._there.remove(before)
            self._there.add(after)
        if before in self._failures:
            self._failures[after] = self._failures.pop(before)

    def followed(self, catalog: Catalog) -> None:
        """Something about what is served may have changed."""
        serving = {key: bool(found.numbers) for key, found in catalog.serving.items()}
        if serving == self._serving and catalog.newest == self._newest:
            return
        before, self._serving = self._serving, serving
        newest, self._newest = self._newest, dict(catalog.newest)
        for key in sorted({*before, *serving}):
            was, now = before.get(key, False), serving.get(key, False)
            if was == now:
                continue
            if now:
                self._model(key, "READY", f"{_called(key)} is served")
            elif key in serving:
                self._model(key, "UNAVAILABLE", f"{_called(key)}: no worker that has it is connected")
            else:
                self._model(key, "unloaded", f"{_called(key)} is not served any more")
        for name, version in sorted(self._newest.items()):
            if newest.get(name, version) != version:
                self._model(
                    (name, version), "READY", f"{name} answers with version {version}, until now {newest[name]}"
                )

    def _model(self, key: Key, after: str, reason: str) -> None:
        if not self._closed:
            self._events.add(Event.Kind.MODEL, reason, model=key[0], after=after)

    def _worker(self, name: str, before: str, after: str, reason: str) -> None:
        if not self._closed:
            self._events.add(Event.Kind.WORKER, reason, worker=name, before=before, after=after)


def _called(key: Key) -> str:
    return " ".join(filter(None, key))  # what was not found has no version
