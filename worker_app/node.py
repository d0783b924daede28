"""A worker's process: the models that are loaded, who may ask them, and the gateways that do."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Any, Protocol

import msgspec

from inference_site.lib.catalog import ModelInfo, Models, State, Statistics
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from worker_app.consumers import run_batches
from worker_app.engine import Engine, ModelError
from worker_app.finding import find
from worker_app.lastrun import LastRun
from worker_app.lastsettings import LastSettings
from worker_app.loader import Loader, Make, Want, settle
from worker_app.model import Model
from worker_app.past import Past
from worker_app.repository import Repository

logger = logging.getLogger(__name__)

_encode = msgspec.json.encode
# What no gateway uses any more is kept for so long after the last one has left: it may only be connecting anew.
LINGER_S = 10.0
_MOST_NUMBERS = 0xFFFF


class GatewayStream(Protocol):
    """One of the connections of a gateway."""

    bulk: bool
    uses: frozenset[int] | None  # the numbers of the models that it asks; None: it has not said so yet

    def say_draining(self) -> None: ...

    def say_models(self) -> None: ...


class Node:
    """Holds the models by their numbers. Not safe for concurrent access."""

    def __init__(
        self,
        node_id: str,
        repository: Repository | None = None,
        make: Make | None = None,
        *,
        settings: NodeSettings | None = None,
        last_run: LastRun | None = None,
        last_settings: LastSettings | None = None,
    ) -> None:
        """make: loads a model of the repository. Nothing is loaded before `load`."""
        self.node_id = node_id
        self._last_settings = last_settings or LastSettings()
        self._holds_back: bool | None = None  # None: no gateway has brought settings yet
        self.settings = settings or self._last_settings.found or NodeSettings()
        self.last_run = last_run or LastRun()
        self.instance = secrets.token_hex(8)
        self.started_at = time.monotonic()
        self.draining = False
        self.gateways: set[GatewayStream] = set()
        self.models: dict[int, Model] = {}
        self.past = Past()
        self.news = asyncio.Event()  # set, and another in its place, whenever something about the models has changed
        repository = repository or Repository()
        self.loader = Loader(
            repository, make or _no_engine, add=self._add_wanted, changed=self._changed, loaded=self._loaded
        )
        self._found: dict[tuple[str | None, str | None], Model] = {}
        self._next_number = 1
        self._tasks: dict[int, list[asyncio.Task[None]]] | None = None  # by number; None: not started
        self._left_at: float | None = None  # when the last gateway did

    @property
    def in_flight(self) -> int:
        """Samples that wait or run."""
        return sum(model.in_flight for model in self.models.values())

    @property
    def default(self) -> str:
        """The name of the model of a plain /infer, whether it can be asked or not; "" if none is meant.

        It never changes by itself: it is the one that the settings name, that of MODEL_PATH, or the only one.
        """
        names = self.names
        return self.settings.default_model or self.loader.given or (names[0] if len(names) == 1 else "")

    @property
    def names(self) -> list[str]:
        """The models that are on disk, or loaded."""
        return sorted({*self.loader.names, *(model.name for model in self.models.values() if model.current)})

    def load(self) -> None:
        """Loads what is on disk, before there is a loop. Raises ModelError if that leaves nothing to serve."""
        self.loader.plan(self.settings)
        self.loader.load_now()
        # What a gateway has once ordered it may order otherwise, and then the process must be there.
        failed = [info for info in self.loader.infos() if info.state is State.UNAVAILABLE]
        if not self.models and failed and not any(info.name in self.settings.models for info in failed):
            raise ModelError("\n".join(info.reason for info in failed))
        if not self.models:
            why = "; ".join(f"{info.name}: {info.reason}" for info in self.loader.infos())
            why = why or f"{self.loader.repository.place} holds none"
            logger.warning("this worker serves nothing until a model is loaded: %s", why)

    def watch(self, last_run: LastRun) -> None:
        """Notes there what runs that may end this process."""
        self.last_run = last_run
        for model in self.models.values():
            model.last_run = last_run

    def start(self) -> None:
        """Runs the batches of all models from now on."""
        self._tasks = {}
        for model in self.models.values():
            self._run(model)

    def add(self, engine: Engine, record: Record | None = None) -> Model:
        """Takes in a loaded engine under a number of its own; `record` as its operator wants it. Raises ModelError."""
        if self._next_number > _MOST_NUMBERS:
            raise ModelError(f"this process has loaded {_MOST_NUMBERS} models; restart it to load more")
        model = Model(engine, number=self._next_number, settings=self.settings, record=record, last_run=self.last_run)
        model.when_changed = self._changed
        self._next_number += 1
        self.models[model.number] = model
        self._share_out()
        if self._tasks is not None:
            self._run(model)
        self._found.clear()
        return model

    def find(self, name: str | None, version: str | None) -> Model:
        """What exchange.Plane.find says."""
        model = self._found.get((name, version))
        if model is None:
            model = self._found[name, version] = find(self, name, version)
        return model

    def infos(self) -> list[ModelInfo]:
        """Every version that is loaded, loading or could not be loaded, by name and version."""
        infos = [*(model.info for model in self.models.values()), *self.loader.infos()]
        return sorted(infos, key=lambda info: (info.name, int(info.version or 0), info.number))

    def statistics(self, name: str, version: str) -> Statistics:
        """What a version has done in this process, however often it was loaded: so no count ever goes down."""
        found = self.past.statistics(name, version)
        for model in self.models.values():
            if (model.name, model.version) == (name, version):
                found.add(model.statistics)
        return found

    def catalog(self, revision: int) -> Models:
        """The payload of MODELS for a gateway whose last settings were of this revision."""
        return Models(revision=revision, default=self.loader.given, models=tuple(self.infos()))

    def configure(self, settings: NodeSettings) -> None:
        """Takes new settings, in force from the next request and the next batch on; loads what they want."""
        self.settings = settings
        try:
            self.loader.plan(settings)
        except Exception:  # whatever is on disk: what serves goes on, and so do the gateways' connections
            logger.exception("what to load by revision %d could not be found out", settings.revision)
        if self._holds_back:
            self._hold_back()
        self._changed()
        if self._tasks is not None:
            self.loader.start()
        else:
            self.loader.load_now()
        logger.info("settings of revision %d are in force: %s", settings.revision, _encode(settings).decode())

    def follow(self, settings: NodeSettings) -> None:
        """Takes a gateway's settings; they are kept for the next start.

        At a process's first ones, what it has loaded by others and would answer otherwise is not found while what is
        wanted is being loaded.
        """
        self._holds_back = self._holds_back is None
        try:
            self.configure(settings)
        finally:
            self._holds_back = False

    def joined(self, gateway: GatewayStream) -> None:
        """A gateway has connected, and proved what it is."""
        self.gateways.add(gateway)

    def left(self, gateway: GatewayStream) -> None:
        """A gateway's connection has ended."""
        self.gateways.discard(gateway)
        if not self.gateways:
            self._left_at = time.monotonic()
        self.collect()

    def collect(self) -> None:
        """Unloads what is not current, not used by any gateway, and idle."""
        old = [model for model in self.models.values() if not model.current and not model.held]
        if not old:
            return
        if not self.gateways and self._left_at is not None:
            left_s = self._left_at + LINGER_S - time.monotonic()
            if left_s > 0:
                asyncio.get_running_loop().call_later(left_s, self.collect)
                return
        streams = [stream for stream in self.gateways if not stream.bulk]
        for model in old:
            used = any(stream.uses is None or model.number in stream.uses for stream in streams)
            if not used and not model.in_flight:
                self._unload(model)

    def drain(self) -> None:
        """Tells the gateways that this process is about to stop; it goes on answering."""
        self.draining = True
        for gateway in tuple(self.gateways):
            gateway.say_draining()

    def close(self) -> None:
        """Ends everything at once."""
        self.loader.close()
        for tasks in (self._tasks or {}).values():
            for task in tasks:
                task.cancel()
        for model in self.models.values():
            model.close()

    def _add_wanted(self, engine: Engine, want: Want) -> None:
        model = self.add(engine, want.record)
        model.made_of = want.made_of

    def _loaded(self) -> dict[tuple[str, str], tuple[Any, ...]]:
        return {(model.name, model.version): model.made_of for model in self.models.values()}

    def _changed(self) -> None:
        """Something about the models is not as it was: what is current follows, and whoever must know is told."""
        for name in {model.name for model in self.models.values()}:
            models = [model for model in self.models.values() if model.name == name]
            loader = self.loader
            settle(models, loader.wanted, unloaded=loader.unloaded(name), pending=loader.is_pending(name))
        if self._holds_back is not None and not self.loader.pending:
            self._last_settings.keep_but(self.settings, self.loader.failed)
        for model in self.models.values():
            model.when_idle = None if model.current else self.collect
        self._share_out()
        self._found.clear()
        self.news.set()
        self.news = asyncio.Event()
        for gateway in tuple(self.gateways):
            gateway.say_models()
        self.collect()

    def _hold_back(self) -> None:
        for model in self.models.values():
            want = self.loader.wanted.get((model.name, model.version))
            fits = want is not None and want.answers_as(model.engine.record)
            model.held = not fits and self.loader.is_pending(model.name)

    def _share_out(self) -> None:
        """Gives each model its settings, and its part of the cache's memory."""
        share = len({model.name for model in self.models.values()})
        for model in self.models.values():
            want = self.loader.wanted.get((model.name, model.version))
            record = want.record if want is not None and want.made_of == model.made_of else model.record
            model.configure(self.settings, record, share)

    def _run(self, model: Model) -> None:
        assert self._tasks is not None
        loop = asyncio.get_running_loop()
        self._tasks[model.number] = [
            loop.create_task(run_batches(model, slot), name=f"batches of {model.name} {model.version}")
            for slot in range(model.engine.sessions)
        ]

    def _unload(self, model: Model) -> None:
        logger.info("%s %s (number %d) is unloaded: nobody uses it any more", model.name, model.version, model.number)
        del self.models[model.number]
        model.close()
        for task in (self._tasks or {}).pop(model.number, ()):
            task.cancel()
        self.past.add(model)
        self._share_out()
        self._found.clear()
        for gateway in tuple(self.gateways):
            gateway.say_models()


def _no_engine(*_: object) -> Engine:
    raise ModelError("this worker has no way to load a model")
