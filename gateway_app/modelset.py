"""The models that a gateway serves: made and ended as its workers' catalog says, and found by their names."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from django.conf import settings

from gateway_app.canaries.canarymodel import CanaryModel
from gateway_app.canaries.trials import Trials
from gateway_app.catalog import Catalog, Key
from gateway_app.core.breaker import State
from gateway_app.core.call import Nobody, Owners, Route
from gateway_app.core.policy import Policy
from gateway_app.face import Face
from gateway_app.figures.statistics import Counted
from gateway_app.served import ServedModel, Totals
from gateway_app.streams.links import WorkerLink
from gateway_app.traces import TraceLog
from inference_site.lib.catalog import Statistics
from inference_site.lib.errors import ApiError

logger = logging.getLogger(__name__)

_NAMELESS = ("", "")
# By so much at most, an ask is longer than the body that it came in.
FORM_BYTES = 64


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for the routers of all models."""

    owners: Owners = field(default_factory=Nobody)
    draining: Collection[str] = ()
    isolated: Collection[str] = ()
    policy: Policy = field(default_factory=Policy)
    hot_cache: bool = True
    apart: str = ""  # the worker that tries settings of its own


class ModelSet:
    """Holds a `ServedModel` for each version in `catalog.serving`; call `follow` after each change of the catalog.

    Until a worker has said what it has, one model without a name stands in for the first: it knows the workers, and
    says why they can't be asked. A version that is not served any more ends what it has begun. Not safe for concurrent
    access.
    """

    def __init__(
        self,
        links: Mapping[str, WorkerLink],
        clock: Callable[[], float],
        on_breaker: Callable[[ServedModel, str, State, State, str], None],
        traces: TraceLog | None = None,
    ) -> None:
        self.catalog = Catalog()
        self.faces: dict[str, Face] = {}
        self.served: dict[Key, ServedModel] = {}
        self.ending: list[ServedModel] = []
        self._links = links
        self._clock = clock
        self._on_breaker = on_breaker
        self._traces = traces
        self._rules = Rules()
        self._ended = Totals()
        self._counted: defaultdict[Key, Counted] = defaultdict(Counted)
        self._found: dict[tuple[str | None, str | None], ServedModel | CanaryModel] = {}
        self.default: ServedModel | None = None  # the one of a plain /infer
        self.plain: ServedModel | CanaryModel | None = None  # the same, as it is to be asked
        self.trials = Trials()
        self._make(_NAMELESS)
        self._index()

    def __iter__(self) -> Iterator[ServedModel]:
        """All, also those that end."""
        yield from self.served.values()
        yield from self.ending

    @property
    def in_flight(self) -> int:
        """Calls that wait for an answer."""
        return sum(model.in_flight for model in self)

    def routes(self, worker: str) -> list[Route]:
        """Of all models, to this worker."""
        return [route for model in self if (route := model.router.routes.get(worker)) is not None]

    def totals(self) -> Totals:
        """What all models together have counted, also those that are gone."""
        totals = Totals()
        for each in (self._ended, *(model.totals() for model in self)):
            totals.add(each)
        return totals

    def label(self, model: ServedModel) -> str:
        """How people call it: by its version only if there are several."""
        several = sum(name == model.name for name, _ in self.served) > 1 or model in self.ending
        return f"{model.name}/{model.version}" if several else model.name

    def show(self, worker: str, node_id: str) -> None:
        """How a worker is called in answers."""
        self.faces[worker] = Face(node_id)

    def configure(self, rules: Rules) -> None:
        """Takes what an operator has changed."""
        self._rules = rules
        for model in self:
            self._rule(model)
        self._connect_routes()

    def rename(self, before: str, after: str) -> None:
        """A worker turns out to have another name."""
        for model in self:
            model.router.rename(before, after)
            model.inference.rename(before, after)
        self.show(after, after)
        self.catalog.rename(before, after)

    def find(self, name: str | None, version: str | None) -> ServedModel | CanaryModel:
        """As exchange.Plane says."""
        found = self._found.get((name, version))
        if found is None:
            raise self._missing(name, version)
        return found

    def statistics(self, name: str, version: str) -> Statistics:
        """As exchange.Plane says."""
        model = self.find(name, version)
        assert isinstance(model, ServedModel)  # for it was asked for by its version
        return self.counted(model).now(model, self._links)

    def counted(self, model: ServedModel) -> Counted:
        """What the version has done, however often it was served."""
        return self._counted[model.key]

    def flush(self, name: str) -> None:
        """An order for a model was given: what was kept of it before is not to be its answer."""
        for model in self.served.values():
            if model.name == name:
                model.inference.hot.flush()

    def follow(self) -> set[str]:
        """Serves what the catalog says. Names of the workers that are other processes than before."""
        serving = self.catalog.serving
        for key in [key for key in self.served if key not in serving and key != _NAMELESS]:
            logger.info("%s/%s is not served any more", *key)
            self.ending.append(self.served.pop(key))
        for key in serving:
            if key not in self.served:
                self._begin(key)
        if not self.served:
            self._make(_NAMELESS)
        self._connect_routes()
        returned: set[str] = set()
        most_bytes = self._most_bytes()
        for key, model in self.served.items():
            model.inference.most_bytes = most_bytes
            returned.update(model.assign(serving.get(key), self._links))
        self.end_idle()
        self._index()
        return returned

    def end_idle(self) -> None:
        """Lets go of those that have ended what they had begun; to be called now and then."""
        done = [model for model in self.ending if not model.in_flight]
        for model in done:
            self.ending.remove(model)
            totals = model.totals()
            totals.hot_entries = 0
            self._ended.add(totals)
            self._counted[model.key].ended(model)
            for route in model.router.routes.values():
                route.up = False
        if done:
            self._connect_routes()
        for link in self._links.values():
            link.use()

    def _most_bytes(self) -> int:
        """Of an ask that every worker takes: which of them gets it is not known before."""
        limits = [link.max_ask_bytes for link in self._links.values() if link.max_ask_bytes]
        return min([settings.MAX_BODY_BYTES, *limits]) + FORM_BYTES

    def _begin(self, key: Key) -> None:
        again = next((model for model in self.ending if model.key == key), None)
        if again is not None:
            self.ending.remove(again)
            self.served[key] = again
        elif _NAMELESS in self.served and key == self._first():
            model = self.served.pop(_NAMELESS)
            model.become(*key)
            self.served[key] = model
        else:
            self._make(key)
        logger.info("%s/%s is served", *key)

    def _first(self) -> Key:
        """Who takes the place of the nameless one."""
        catalog = self.catalog
        name = catalog.default if catalog.default in catalog.newest else min(catalog.newest)
        return name, catalog.newest[name]

    def _make(self, key: Key) -> None:
        model = self.served[key] = ServedModel(*key, self._clock, self.faces, self._on_breaker, self._traces)
        self._rule(model)

    def _rule(self, model: ServedModel) -> None:
        rules, router = self._rules, model.router
        router.configure(rules.owners, rules.draining, rules.policy, rules.apart)
        for name, route in router.routes.items():
            route.breaker.isolate(name in rules.isolated)
        model.inference.use_hot_cache(rules.hot_cache)

    def _connect_routes(self) -> None:
        for name, link in self._links.items():
            link.routes = tuple(self.routes(name))

    def _index(self) -> None:
        """Makes look-ups cheap."""
        found: dict[tuple[str | None, str | None], ServedModel | CanaryModel] = dict(self.served.items())
        newest = self.catalog.newest
        answering = self.trials.answering(self.served, newest)
        found.update(((name, None), model) for name, model in answering.items())
        default = self.catalog.default
        self.default = None
        if _NAMELESS in self.served:
            del found[_NAMELESS]
            if not any(link.ready for link in self._links.values()):
                found[None, None] = self.default = self.served[_NAMELESS]  # it says why
        elif default in answering:
            found[None, None], self.default = answering[default], self.served[default, newest[default]]
        self._found, self.plain = found, found.get((None, None))

    def _missing(self, name: str | None, version: str | None) -> ApiError:
        catalog = self.catalog
        plain, name = name is None, catalog.default if name is None else name
        if not any(link.ready for link in self._links.values()):
            return _not_ready(f"no worker is connected, so nothing is known of the model {name!r}")
        if plain and not name:
            if several := ", ".join(catalog.names()):
                how = 'name one in "model", or set the default model in the admin'
                return ApiError(400, "model_required", f"several models are here: {several}; {how}")
            reasons = catalog.reasons() or "they have found none; put one into MODEL_REPOSITORY"
            return _not_ready(f"the workers have no model ready: {reasons}")
        if catalog.is_unloaded(name):
            how = f"load it in the admin, or by POST v2/repository/models/{name}/load"
            return ApiError(404, "unknown_model", f"the model {name!r} is unloaded; {how}")
        reasons = catalog.reasons(name, version)
        said = catalog.said(name)
        named = [info.version for found in said.values() for info in found if info.version]  # else it was not found
        if named and (version is None or version in named):
            what = f"version {version} of the model {name!r}" if version else f"the model {name!r}"
            return _not_ready(f"{what} is not ready: {reasons or 'it is being unloaded'}")
        if name in catalog.newest:
            versions = ", ".join(sorted(each for served, each in self.served if served == name))
            message = f"the model {name!r} has no version {version!r} here; it has {versions}"
            return ApiError(404, "unknown_version", message)
        names = ", ".join(sorted(catalog.newest)) or "none is ready"
        what = f"{name!r}, which is set as the model of /infer" if plain else repr(name)
        return ApiError(404, "unknown_model", f"there is no model {what}; these are served: {names}")


def _not_ready(message: str) -> ApiError:
    return ApiError(503, "model_not_ready", f"{message}; try again later", retry_after_s=1)
