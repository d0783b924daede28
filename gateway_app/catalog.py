"""Which model each worker has under which number, and which versions are served. Pure: what workers say goes in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from gateway_app import election
from gateway_app.election import Serving
from inference_site.lib.catalog import ModelInfo, Models, ModelSettings, State

Key = tuple[str, str]  # name and version
UNLOADED = "unloaded"  # the reason of what its operator does not want


@dataclass(slots=True)
class _Worker:
    """What a worker has said last, and how much of it holds."""

    models: Models
    connected: bool = True
    leaving: bool = False
    gone: set[int] = field(default_factory=set)  # numbers that it does not know any more
    said: dict[str, list[ModelInfo]] = field(default_factory=dict)  # by name

    def __post_init__(self) -> None:
        for info in self.models.models:
            self.said.setdefault(info.name, []).append(info)

    def ready(self, name: str) -> list[ModelInfo]:
        """What it can be asked of a model."""
        return [
            info
            for info in self.said.get(name, ())
            if info.state is State.READY and info.number and info.number not in self.gone
        ]

    def loading(self, name: str) -> set[str]:
        """The versions of a model that it loads."""
        return {info.version for info in self.said.get(name, ()) if info.state is State.LOADING}


class Catalog:
    """Follows what workers say of their models. After each change, `serving` is what is served by which of them.

    A version is served once a worker has loaded it. The one that answers for its model (`newest`) changes only when all
    workers that have the model have the new one: so none of them answers with what others do not have yet. The same
    goes for another file of the same version. A worker that could not load it keeps it from all. Not safe for
    concurrent access.
    """

    def __init__(self) -> None:
        self.serving: dict[Key, Serving] = {}
        self.newest: dict[str, str] = {}  # by name, the version that answers
        self.default = ""  # the name of the model of a plain /infer
        self._workers: dict[str, _Worker] = {}
        self._settings: Mapping[str, ModelSettings] = {}
        self.only = ""  # the default because there was no other model: nobody has named one
        self._wanted_default = ""
        self._tried: Key | None = None

    def configure(self, settings: Mapping[str, ModelSettings], default: str, tried: Key | None = None) -> None:
        """What an operator wants: a model that is not to be loaded is not served from now on, and a version that one
        worker tries out is served, but never becomes the one that answers for its model."""
        self._settings, self._wanted_default, self._tried = settings, default, tried
        self._settle()

    def announce(self, worker: str, models: Models) -> None:
        """A connected worker says what it has."""
        before = self._workers.get(worker)
        now = _Worker(models, leaving=before is not None and before.connected and before.leaving)
        self._workers[worker] = now
        others = before.said if before is not None else {}
        names = {*others, *now.said}
        if before is not None and before.connected and not before.gone:  # what it says again changes nothing
            names = {name for name in names if others.get(name) != now.said.get(name)}
        self._settle(names)

    def leaves(self, worker: str) -> None:
        """A worker is about to stop: nobody waits for what it may load yet."""
        if worker in self._workers:
            self._workers[worker].leaving = True
            self._settle()

    def lost(self, worker: str) -> None:
        """A worker is not connected any more. What it has said is known, for it may come back."""
        if worker in self._workers:
            self._workers[worker].connected = self._workers[worker].leaving = False
            self._settle()

    def forget(self, worker: str) -> None:
        """A worker is no longer configured."""
        if self._workers.pop(worker, None) is not None:
            self._settle()

    def rename(self, before: str, after: str) -> None:
        """A worker turns out to have another name."""
        if before in self._workers:
            self._workers[after] = self._workers.pop(before)
            self._settle()

    def gone(self, worker: str, number: int) -> None:
        """A worker does not know this number any more, though it has not said so before."""
        if worker in self._workers:
            self._workers[worker].gone.add(number)
            self._settle()

    def said(self, name: str) -> dict[str, list[ModelInfo]]:
        """By connected worker, all that it says of a model."""
        return {worker: list(each.said.get(name, ())) for worker, each in self._connected().items()}

    def reasons(self, name: str | None = None, version: str | None = None, state: State | None = None) -> str:
        """Why a model, or any, is not served, in the workers' words; `state`: of what is in that one alone."""
        found: dict[str, list[str]] = {}
        for worker, each in sorted(self._connected().items()):
            for info in each.models.models:
                is_meant = name in (None, info.name) and version in (None, info.version)
                if is_meant and info.state is not State.READY and state in (None, info.state):
                    what = "is loading it" if info.state is State.LOADING else info.reason or "could not load it"
                    what = what if name is not None else f"{info.name}: {what}"
                    found.setdefault(what, []).append(worker)
        return "; ".join(f"{', '.join(workers)}: {what}" for what, workers in found.items())

    def names(self) -> list[str]:
        """Of the models that workers have found, loaded or not."""
        return sorted({info.name for info in self._all() if info.version})

    def is_unloaded(self, name: str) -> bool:
        """Whether an operator wants it so."""
        settings = self._settings.get(name)
        return settings is not None and not settings.loaded

    def known(self) -> list[ModelInfo]:
        """Every version of every model that anybody has spoken of, by name and version; numbers are 0."""
        found = {key: self._state_of(key) for key in {*self.serving, *(_key(info) for info in self._all())}}
        for info in self._all(connected=True):  # what serves though its newest file or settings do not
            said = found[key := _key(info)]
            if _has_failed(info) and said.state is State.READY and not said.reason:
                reason = not_in_force(self.reasons(*key, State.UNAVAILABLE))
                found[key] = msgspec.structs.replace(said, reason=reason)
        for name, settings in self._settings.items():
            if not settings.loaded and not any(key[0] == name for key in found):
                found[name, ""] = _unloaded(name, "")
        return [found[key] for key in sorted(found, key=lambda key: (key[0], election.version_order(key[1])))]

    def _state_of(self, key: Key) -> ModelInfo:
        serving = self.serving.get(key)
        if serving is not None and serving.numbers:
            return serving.info
        said = [info for info in self._all(connected=True) if _key(info) == key]
        for state in (State.LOADING, State.UNAVAILABLE):
            for info in said:
                if info.state is state:
                    return msgspec.structs.replace(info, number=0)
        if serving is not None:
            reason = "no worker that has it is connected"
            return msgspec.structs.replace(serving.info, state=State.UNAVAILABLE, reason=reason)
        return _unloaded(*key)

    def _all(self, *, connected: bool = False) -> Iterable[ModelInfo]:
        for each in self._workers.values():
            if each.connected or not connected:
                yield from each.models.models

    def _connected(self) -> dict[str, _Worker]:
        return {name: each for name, each in self._workers.items() if each.connected}

    def _settle(self, names: Collection[str] | None = None) -> None:
        """Decides what is served, by what was served until now and by what workers say now; `names`: of these models
        alone, for of no other has anything changed. With many workers and models that is what takes time."""
        known = sorted({info.name for info in self._all() if info.state is State.READY})
        connected = self._connected()
        newest = {name: version for name, version in self.newest.items() if names is not None and name not in names}
        serving = {key: found for key, found in self.serving.items() if names is not None and key[0] not in names}
        for name in known:
            if self.is_unloaded(name) or (names is not None and name not in names):
                continue
            offers = {worker: found for worker, each in connected.items() if (found := each.ready(name))}
            staying = {worker: found for worker, found in offers.items() if not connected[worker].leaving}
            loading = {worker: each.loading(name) for worker, each in connected.items()}
            present, awaited = self.newest.get(name), set().union(*loading.values())
            judges, others = staying or offers, offers
            wanted = self._settings[name].versions if name in self._settings else ()
            here = election.current(offers)
            if not awaited.union(here).isdisjoint(wanted):  # none that was not served takes its place
                judges, others = (election.only({*wanted, present}, each) for each in (judges, others))
            if self._tried is not None and self._tried[0] == name:
                judges, others = (election.without(self._tried[1], each) for each in (judges, others))
            version = election.winner(present, judges, others, awaited)
            if version is None:
                continue
            newest[name] = version
            for each in {version, *here, *self._awaited(name)}:
                before = self.serving.get((name, each))
                awaited = {worker for worker, versions in loading.items() if each in versions}
                found_serving = election.serving(each, before, staying or offers, offers, awaited)
                if found_serving is not None:
                    serving[name, each] = found_serving
        self.newest, self.serving = newest, serving
        self.default = self._find_default(connected)

    def _awaited(self, name: str) -> set[str]:
        """Served versions that a worker had when its connection was lost."""
        away = [each for each in self._workers.values() if not each.connected]
        versions = {info.version for each in away for info in each.ready(name) if info.current}
        return {version for version in versions if (name, version) in self.serving}

    def _find_default(self, connected: Mapping[str, _Worker]) -> str:
        """As an operator wants it; else the model of MODEL_PATH; else the only one that there is, and that for good:
        which model answers does not change because others come or go."""
        only, self.only = self.only, ""
        if self._wanted_default:
            return self._wanted_default
        said = _defaults(connected.values()) or _defaults(self._workers.values())
        if said:  # it may be loading yet: no other model answers in its place
            return min(said, key=lambda name: (-said[name], name != self.default, name))
        names = self.names()
        self.only = only or (names[0] if len(names) == 1 else "")
        return self.only


def not_in_force(why: str) -> str:
    """What is said of a version that serves, though its newest file or settings do not."""
    return f"the last change is not in force: {why}; what was loaded serves on"


def _defaults(workers: Iterable[_Worker]) -> Counter[str]:
    return Counter(each.models.default for each in workers if each.models.default)


def _has_failed(info: ModelInfo) -> bool:
    return info.state is State.UNAVAILABLE and info.reason != UNLOADED


def _key(info: ModelInfo) -> Key:
    return info.name, info.version


def _unloaded(name: str, version: str) -> ModelInfo:
    return ModelInfo(number=0, name=name, version=version, state=State.UNAVAILABLE, reason=UNLOADED)
