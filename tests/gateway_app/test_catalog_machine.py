"""A catalogue of workers that load, fail, restart and leave in any order."""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random

import pytest

from gateway_app.catalog import Catalog
from inference_site.lib.catalog import ModelInfo
from tests.gateway_app.announced import A, B, C, broken, loading, ready, say


class SimulatedWorker:
    """A worker as it loads, fails and unloads; what it says goes to the catalog when it says it."""

    def __init__(self, catalog: Catalog, name: str) -> None:
        self.catalog = catalog
        self.name = name
        self.models: dict[int, ModelInfo] = {}
        self.number = 0
        self.wanted = ("1", "d1")
        self.failed: ModelInfo | None = None
        self.step(fails=False)

    @property
    def settled(self) -> bool:
        return self.failed is not None or any(
            (info.version, info.digest) == self.wanted and info.current for info in self.models.values()
        )

    def order(self, version: str, digest: str) -> None:
        self.wanted, self.failed = (version, digest), None
        self.tell()

    def step(self, *, fails: bool) -> None:
        """What is wanted has been loaded, or could not be."""
        if self.settled:
            return
        version, digest = self.wanted
        if fails:
            self.failed = broken(version)
        else:
            self.number += 1
            for number, info in self.models.items():
                self.models[number] = ready(number, info.version, info.digest, current=False)
            self.models[self.number] = ready(self.number, version, digest)
        self.tell()

    def uses(self, numbers: set[int]) -> None:
        """The gateway says what it uses: the rest goes, if it is not current."""
        kept = {number: info for number, info in self.models.items() if info.current or number in numbers}
        if kept != self.models:
            self.models = kept
            self.tell()

    def tell(self) -> None:
        others = [self.failed] if self.failed else [] if self.settled else [loading(self.wanted[0])]
        say(self.catalog, self.name, *self.models.values(), *others)


def check(catalog: Catalog, workers: list[SimulatedWorker]) -> None:
    """Nobody is asked for what it does not have, and all are asked for the same."""
    assert set(catalog.newest) == {"m"}
    serving = catalog.serving["m", catalog.newest["m"]]
    assert set(serving.numbers) == {worker.name for worker in workers}
    assert len(set(serving.digests.values())) == 1
    for each in catalog.serving.values():
        for worker in workers:
            if worker.name in each.numbers:
                info = worker.models[each.numbers[worker.name]]
                assert (info.version, info.digest) == (each.info.version, each.digests[worker.name])


@pytest.mark.parametrize("seed", range(150))
def test_loading_while_serving_in_any_order(seed: int):
    dice, catalog = Random(seed), Catalog()
    workers = [SimulatedWorker(catalog, name) for name in (A, B, C)]
    history = [("1", "d1")]
    answering = [("1", "d1")]
    for _ in range(120):
        worker = dice.choice(workers)
        match dice.choice(["order", "step", "step", "step", "fail", "uses"]):
            case "order" if all(each.settled for each in workers):
                newest = int(history[-1][0])
                history.append((str(newest + dice.randint(0, 1)), f"d{len(history) + 1}"))
                for each in dice.sample(workers, 3):
                    each.order(*history[-1])
                    check(catalog, workers)
            case "step":
                worker.step(fails=False)
            case "fail":
                worker.step(fails=True)
            case "uses":
                worker.uses(
                    {each.numbers[worker.name] for each in catalog.serving.values() if worker.name in each.numbers}
                )
        check(catalog, workers)
        serving = catalog.serving["m", catalog.newest["m"]]
        answering.append((serving.info.version, serving.info.digest))
    ages = [history.index(each) for each in answering]
    assert ages == sorted(ages), "an older one has answered after a newer one"
    for worker in workers:
        worker.order(history[-1][0], history[-1][1])
    for worker in workers:
        worker.step(fails=False)
    check(catalog, workers)
    assert catalog.newest["m"] == history[-1][0]
    assert catalog.serving["m", history[-1][0]].info.digest == history[-1][1]
    for worker in workers:
        worker.uses({each.numbers[worker.name] for each in catalog.serving.values() if worker.name in each.numbers})
        assert len(worker.models) == 1


class ThoroughCatalog(Catalog):
    """Settles every model each time, whatever was said."""

    def _settle(self, names: Collection[str] | None = None) -> None:
        super()._settle()


@pytest.mark.parametrize("seed", range(40))
def test_settling_what_has_changed_settles_all(seed: int):
    dice, quick, thorough = Random(seed), Catalog(), ThoroughCatalog()
    said: dict[str, tuple[ModelInfo, ...]] = {}
    for _ in range(80):
        worker, what = dice.choice((A, B, C)), dice.choice(("new", "new", "new", "again", "lost", "leaves", "gone"))
        if what == "new":
            kinds = (ready, ready, loading, broken)
            names = dice.sample(("m", "n", "o"), dice.randint(0, 3))
            infos = (_any(dice, dice.choice(kinds), name, number) for number, name in enumerate(names, 1))
            said[worker] = tuple(infos)
        for catalog in (quick, thorough):
            match what:
                case "new" | "again":
                    say(catalog, worker, *said.get(worker, ()))
                case "lost":
                    catalog.lost(worker)
                case "leaves":
                    catalog.leaves(worker)
                case "gone":
                    catalog.gone(worker, 1)
        assert (quick.serving, quick.newest, quick.default) == (thorough.serving, thorough.newest, thorough.default)


def _any(dice: Random, kind: Callable[..., ModelInfo], name: str, number: int) -> ModelInfo:
    version, digest = dice.choice("123"), dice.choice(("d1", "d2"))
    if kind is ready:
        return ready(number, version, digest, name=name, current=dice.random() < 0.7)
    return kind(version, name=name)
