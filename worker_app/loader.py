"""Brings what is loaded in line with what is on disk and what the settings want: beside what serves, then in its place.

A new version, or a changed file, is loaded and warmed up in a thread of its own while the one before it goes on
serving; only when it is ready does that one stop being found. What can't be loaded changes nothing but what is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference_site.lib.catalog import ModelInfo, ModelSettings, State
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import ANSWERING, Record
from worker_app.engine import Engine, ModelError
from worker_app.repository import Repository, Source, newest

if TYPE_CHECKING:
    from worker_app.model import Model

logger = logging.getLogger(__name__)

UNLOADED = "unloaded"
# Members of a record that an engine is made with; the others can be changed while it serves.
_MAKING = (*ANSWERING, "batches", "sessions", "warm_up")
_DEFAULT = ModelSettings()

Key = tuple[str, str]  # name and version
Made = tuple[Any, ...]  # see Want
Make = Callable[[Source, Record], Engine]


@dataclass(frozen=True, slots=True)
class Want:
    """One version that is to be loaded, from what is on disk, with the record that its operator wants."""

    source: Source
    record: Record

    @property
    def made_of(self) -> Made:
        """What an engine of it is made of; equal ones need not be loaded again."""
        return self.source.path, self.source.state, *(getattr(self.record, name) for name in _MAKING)

    def answers_as(self, record: Record) -> bool:
        """Whether it is to answer as one made with that record does."""
        return all(getattr(self.record, name) == getattr(record, name) for name in ANSWERING)


class Loader:
    """Knows what is wanted, loads it one by one, and says what has become of it.

    `add` takes a new engine and what it was made of; `changed` is called whenever `infos` or what serves has changed;
    `loaded` says what serves by now, and what it was made of.
    """

    def __init__(
        self,
        repository: Repository,
        make: Make,
        *,
        add: Callable[[Engine, Want], None],
        changed: Callable[[], None],
        loaded: Callable[[], dict[Key, Made]],
    ) -> None:
        self.repository = repository
        self.wanted: dict[Key, Want] = {}
        self._make = make
        self._add = add
        self._changed = changed
        self._loaded = loaded
        self._known = repository.look()
        self._orders: dict[str, int] = {}
        self._settings = NodeSettings()
        self._pending: dict[Key, Want] = {}
        self._failed: dict[Key, tuple[Made, str]] = {}
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")

    @property
    def names(self) -> list[str]:
        """The models on disk."""
        return sorted(self._known)

    @property
    def given(self) -> str:
        """The name of the model that is given by its file; "" if none is."""
        file = self.repository.file
        for name, versions in self._known.items() if file is not None else ():
            if any(source.path == file for source in versions.values()):
                return name
        return ""

    @property
    def failed(self) -> set[str]:
        """The models of which some version could not be loaded."""
        return {name for name, _ in self._failed}

    @property
    def pending(self) -> bool:
        """Whether anything is still to be loaded."""
        return bool(self._pending)

    def unloaded(self, name: str) -> bool:
        """Whether the operator wants it not to be served."""
        return not self._settings.models.get(name, _DEFAULT).loaded

    def is_pending(self, name: str) -> bool:
        """Whether some version of it is still to be loaded."""
        return any(key[0] == name for key in self._pending)

    def reason(self, name: str) -> str:
        """Why it can't be loaded; "" if it can."""
        return "; ".join(info.reason for info in self.infos() if info.name == name and info.state is State.UNAVAILABLE)

    def plan(self, settings: NodeSettings) -> None:
        """Takes new settings."""
        before, self._settings = self._settings, settings
        self._look_again(settings)
        self._look_for_versions(before, settings)
        self._plan()

    def load_now(self) -> None:
        """Loads all that is pending, before there is a loop."""
        while self._pending:
            key, want = next(iter(self._pending.items()))
            self._end(key, want, *self._try(want))

    def start(self) -> None:
        """Loads all that is pending in the background."""
        if self._pending and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._load_all(), name="loader")

    def close(self) -> None:
        """Loads nothing more."""
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def infos(self) -> Iterator[ModelInfo]:
        """What is not loaded, or is to be replaced, and why."""
        for name, version in self._pending:
            yield ModelInfo(number=0, name=name, version=version, state=State.LOADING)
        for (name, version), (_, reason) in self._failed.items():
            yield _unavailable(name, version, reason)
        for name, wish in self._settings.models.items():
            versions = self._known.get(name, {})
            if not wish.loaded:
                if versions:
                    yield _unavailable(name, newest(versions) or "", UNLOADED)
            elif not versions:
                yield _unavailable(name, "", f"there is no model {name!r}; {self.repository.where(name)}")
            else:
                for version in wish.versions:
                    if version not in versions:
                        there = ", ".join(sorted(versions, key=int))
                        yield _unavailable(name, version, f"{name} has no version {version}; there are: {there}")

    def _look_again(self, settings: NodeSettings) -> None:
        """What a new order is for; its operator may have put something right, too."""
        # Who has no settings any more may get new ones, whose orders are counted from the beginning.
        self._orders = {name: order for name, order in self._orders.items() if name in settings.models}
        for name, wish in settings.models.items():
            if self._orders.get(name) != wish.order or name not in self._known:
                self._orders[name] = wish.order
                self._failed = {key: why for key, why in self._failed.items() if key[0] != name}
                if versions := self.repository.versions(name):
                    self._known[name] = versions
                else:
                    self._known.pop(name, None)

    def _look_for_versions(self, before: NodeSettings, settings: NodeSettings) -> None:
        """One that is wanted from now on may have come, or been put right, since the last order. Other versions
        stay as they are known: nobody has ordered to look at those."""
        loaded = self._loaded()
        for name, wish in settings.models.items():
            was = before.models.get(name, _DEFAULT).versions
            fresh = {version for version in wish.versions if version not in was and (name, version) not in loaded}
            if not fresh:
                continue
            known = {version: source for version, source in self._known.get(name, {}).items() if version not in fresh}
            found = self.repository.versions(name)
            known.update((version, found[version]) for version in fresh if version in found)
            if known:
                self._known[name] = known
            self._failed = {key: why for key, why in self._failed.items() if key[0] != name or key[1] not in fresh}

    def _plan(self) -> None:
        loaded = self._loaded()
        self.wanted = dict(self._wants(loaded))
        self._failed = {key: why for key, why in self._failed.items() if key in self.wanted and self._is_of_now(key)}
        self._pending = {
            key: want
            for key, want in self.wanted.items()
            if loaded.get(key) != want.made_of and not self._has_failed(key, want)
        }

    def _wants(self, loaded: dict[Key, Made]) -> Iterator[tuple[Key, Want]]:
        for name, versions in self._known.items():
            wish = self._settings.models.get(name, _DEFAULT)
            if not wish.loaded:
                continue
            wants = [
                ((name, version), Want(versions[version], wish.record.over(versions[version].record)))
                for version in wish.versions or sorted(versions, key=int, reverse=True)
                if version in versions
            ]
            yield from wants if wish.versions else self._newest(wants, loaded)

    def _newest(self, wants: list[tuple[Key, Want]], loaded: dict[Key, Made]) -> Iterator[tuple[Key, Want]]:
        """The newest; if that has failed, what serves, and if nothing does, the next one that can be loaded."""
        serves = any(name == wants[0][0][0] for name, _ in loaded)
        for place, (key, want) in enumerate(wants):
            if not place or not serves or key in loaded:
                yield key, want
                if not self._has_failed(key, want):
                    return

    def _is_of_now(self, key: Key) -> bool:
        """Whether a failure is one of what is wanted now."""
        return self._has_failed(key, self.wanted[key])

    def _has_failed(self, key: Key, want: Want) -> bool:
        return key in self._failed and self._failed[key][0] == want.made_of

    async def _load_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            key, want = next(iter(self._pending.items()))
            logger.info("loading %s %s from %s", *key, want.source.path)
            made = await loop.run_in_executor(self._thread, self._try, want)
            now = self._pending.get(key)
            if now is not None and now.made_of == want.made_of:  # else it is not wanted any more, or made otherwise
                self._end(key, now, *made)

    def _try(self, want: Want) -> tuple[Engine | None, str]:
        """The engine, or why there is none."""
        began = time.monotonic()
        try:
            if want.source.fault:
                raise ModelError(want.source.fault)
            engine = self._make(want.source, want.record)
        except ModelError as error:
            return None, str(error)
        except Exception as error:  # a bug of ours, or no memory: what serves goes on
            logger.exception("%s can't be loaded", want.source.path)
            return None, f"{want.source.path} can't be loaded: {type(error).__name__}: {error}"
        name, version = want.source.name, want.source.version
        logger.info("%s %s is loaded, in %.1f s", name, version, time.monotonic() - began)
        return engine, ""

    def _end(self, key: Key, want: Want, engine: Engine | None, reason: str) -> None:
        del self._pending[key]
        self._failed.pop(key, None)
        if engine is not None:
            try:
                self._add(engine, want)
            except Exception as error:  # what else is pending is not to wait for ever
                reason = f"{want.source.path} can't be served: {error}"
        if reason:
            logger.error("%s", reason)
            self._failed[key] = want.made_of, reason
            self._plan()  # an older one may have to do
        self._changed()


def settle(models: list[Model], wanted: dict[Key, Want], *, unloaded: bool, pending: bool) -> None:
    """Says which of one name's models, the latest loaded last, are current: what is wanted and ready, and until that is
    ready what was current before it. What is held back is current again if nothing better could be loaded."""
    ready: dict[str, Model] = {}
    for model in models:
        want = wanted.get((model.name, model.version))
        if want is not None and want.made_of == model.made_of:
            ready[model.version] = model
    for model in models:
        if model.held:
            model.held = pending
            model.current = not pending
        if unloaded:
            model.current = False
        elif model is ready.get(model.version):
            model.current = True
        elif model.version in ready or (ready and (model.name, model.version) not in wanted):
            model.current = False


def _unavailable(name: str, version: str, reason: str) -> ModelInfo:
    return ModelInfo(number=0, name=name, version=version, state=State.UNAVAILABLE, reason=reason)
