"""What is served by whom, by what workers say: each rule by example, and all together in any order of events."""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random

import pytest

from gateway_app.catalog import Catalog
from inference_site.lib.catalog import ModelInfo, Models, ModelSettings, State

A, B, C = "worker_1", "worker_2", "worker_3"


def ready(number: int, version: str = "1", digest: str = "d1", *, name: str = "m", current: bool = True) -> ModelInfo:
    return ModelInfo(number=number, name=name, version=version, state=State.READY, digest=digest, current=current)


def loading(version: str, name: str = "m") -> ModelInfo:
    return ModelInfo(number=0, name=name, version=version, state=State.LOADING)


def broken(version: str, reason: str = "no ONNX file", name: str = "m") -> ModelInfo:
    return ModelInfo(number=0, name=name, version=version, state=State.UNAVAILABLE, reason=reason)


def say(catalog: Catalog, worker: str, *models: ModelInfo, default: str = "m") -> None:
    catalog.announce(worker, Models(revision=1, default=default, models=models))


def numbers(catalog: Catalog, version: str = "1", name: str = "m") -> dict[str, int]:
    serving = catalog.serving.get((name, version))
    return dict(serving.numbers) if serving is not None else {}


def three(*models: ModelInfo) -> Catalog:
    """A catalog of three workers that all have the same."""
    catalog = Catalog()
    for worker in (A, B, C):
        say(catalog, worker, *(models or (ready(1),)))
    return catalog


def test_before_anybody_has_spoken_nothing_is_served():
    catalog = Catalog()
    assert (catalog.serving, catalog.newest, catalog.default) == ({}, {}, "")
    assert catalog.known() == []


def test_what_the_first_worker_has_is_served_at_once_and_others_join():
    catalog = Catalog()
    say(catalog, A, ready(7))
    assert numbers(catalog) == {A: 7}
    assert (catalog.newest, catalog.default) == ({"m": "1"}, "m")
    say(catalog, B, loading("1"))
    assert numbers(catalog) == {A: 7}
    say(catalog, B, ready(2))
    assert numbers(catalog) == {A: 7, B: 2}


def test_a_new_version_answers_once_all_have_it_and_the_old_one_until_then():
    catalog = three()
    for worker in (A, B):
        say(catalog, worker, ready(1), loading("2"))
        say(catalog, worker, ready(1, current=False), ready(2, "2", "d2"))
        assert catalog.newest["m"] == "1"
        assert numbers(catalog) == {A: 1, B: 1, C: 1}
    assert numbers(catalog, "2") == {A: 2, B: 2}  # for who asks for this version
    say(catalog, C, ready(1, current=False), ready(5, "2", "d2"))
    assert catalog.newest["m"] == "2"
    assert numbers(catalog, "2") == {A: 2, B: 2, C: 5}
    assert ("m", "1") not in catalog.serving


def test_another_file_of_the_same_version_answers_once_all_have_it():
    catalog = three()
    for worker in (A, B):
        say(catalog, worker, ready(1, current=False), ready(2, digest="d2"))
        assert numbers(catalog) == {A: 1, B: 1, C: 1}
    say(catalog, C, ready(1, current=False), ready(2, digest="d2"))
    assert numbers(catalog) == {A: 2, B: 2, C: 2}
    assert set(catalog.serving["m", "1"].digests.values()) == {"d2"}


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_worker_that_cannot_load_it_keeps_the_old_one_everywhere(version: str):
    catalog = three()
    for worker in (A, C):
        say(catalog, worker, ready(1, current=False), ready(2, version, "d2"))
    say(catalog, B, ready(1), broken(version))
    assert catalog.newest["m"] == "1"
    assert numbers(catalog) == {A: 1, B: 1, C: 1}
    assert catalog.reasons("m") == f"{B}: no ONNX file"
    catalog.lost(B)  # without it all have the new one
    assert catalog.newest["m"] == version
    assert numbers(catalog, version) == {A: 2, C: 2}
    say(catalog, B, ready(3), broken(version))  # it is no reason to go back, and answers nothing of a version it lacks
    assert catalog.newest["m"] == version
    assert numbers(catalog, version) == ({A: 2, C: 2} if version == "2" else {A: 2, B: 3, C: 2})


def test_several_versions_are_served_beside_each_other_and_the_highest_that_all_have_answers():
    catalog = three(ready(1, "9"), ready(2, "10"))
    assert catalog.newest["m"] == "10"
    assert set(catalog.serving) == {("m", "9"), ("m", "10")}
    say(catalog, A, ready(1, "9"), ready(2, "10"), ready(3, "11"))
    assert catalog.newest["m"] == "10"
    assert numbers(catalog, "11") == {A: 3}


def test_an_older_version_answers_when_an_operator_wants_it():
    catalog = three(ready(1, "2"))
    for worker in (A, B, C):
        assert catalog.newest["m"] == "2"
        say(catalog, worker, ready(1, "2", current=False), ready(2, "1", "d0"))
    assert catalog.newest["m"] == "1"
    assert set(catalog.serving) == {("m", "1")}


def test_workers_restarted_one_by_one_with_another_file_serve_what_they_have():
    catalog = three()
    catalog.lost(A)
    assert numbers(catalog) == {B: 1, C: 1}
    say(catalog, A, ready(1, digest="d2"))
    assert numbers(catalog) == {A: 1, B: 1, C: 1}
    assert dict(catalog.serving["m", "1"].digests) == {A: "d2", B: "d1", C: "d1"}
    for worker in (B, C):
        catalog.lost(worker)
        say(catalog, worker, ready(1, digest="d2"))
    assert set(catalog.serving["m", "1"].digests.values()) == {"d2"}
    assert catalog.serving["m", "1"].info.digest == "d2"


def test_workers_restarted_one_by_one_with_another_version_switch_when_most_have_it():
    catalog = three()
    seen = []
    for worker in (A, B, C):
        catalog.lost(worker)
        say(catalog, worker, ready(1, "2", "d2"))
        seen.append(catalog.newest["m"])
    assert seen == ["1", "2", "2"]
    assert numbers(catalog, "2") == {A: 1, B: 1, C: 1}
    assert ("m", "1") not in catalog.serving


def test_who_is_about_to_stop_is_not_waited_for_and_answers_as_long_as_it_is_there():
    catalog = three()
    for worker in (A, B):
        say(catalog, worker, ready(1, current=False), ready(2, digest="d2"))
    catalog.leaves(C)
    assert numbers(catalog) == {A: 2, B: 2, C: 1}
    say(catalog, C, ready(1), ready(9, name="other"))
    assert numbers(catalog) == {A: 2, B: 2, C: 1}  # it leaves still
    catalog.lost(C)
    say(catalog, C, ready(1, digest="d2"))
    assert numbers(catalog) == {A: 2, B: 2, C: 1}


def test_who_was_started_before_a_version_was_there_does_not_bring_the_older_one_back():
    catalog = Catalog()
    say(catalog, A, ready(1, "6", "d6"))
    catalog.leaves(A)
    say(catalog, B, ready(1, "5", "d5"), loading("6"))
    assert catalog.newest["m"] == "6"
    assert numbers(catalog, "6") == {A: 1}  # which answers as long as it is there
    catalog.lost(A)
    assert catalog.newest["m"] == "6"
    assert numbers(catalog, "6") == {}  # rather nothing than the older one
    say(catalog, B, ready(1, "5", "d5", current=False), ready(2, "6", "d6"))
    assert numbers(catalog, "6") == {B: 2}
    catalog.lost(B)
    say(catalog, B, ready(1, "5", "d5"), broken("6"))  # nobody has it, nobody loads it
    assert catalog.newest["m"] == "5"
    assert numbers(catalog, "5") == {B: 1}


def test_who_was_started_before_a_file_was_changed_answers_only_when_it_has_loaded_it():
    catalog = three(ready(1, digest="d2"))
    catalog.lost(C)
    say(catalog, C, ready(1, digest="d1"), loading("1"))
    assert numbers(catalog) == {A: 1, B: 1}
    catalog.leaves(A)
    catalog.lost(B)
    assert numbers(catalog) == {A: 1}
    catalog.lost(A)
    assert numbers(catalog) == {}
    assert catalog.serving["m", "1"].info.digest == "d2"
    say(catalog, C, ready(1, digest="d1", current=False), ready(2, digest="d2"))
    assert numbers(catalog) == {C: 2}
    catalog.lost(C)
    say(catalog, C, ready(1, digest="d1"), broken("1"))
    assert numbers(catalog) == {C: 1}


def test_an_older_version_that_an_operator_wants_waits_for_all_workers_too():
    catalog = three(ready(1, "2", "d2"))
    for worker in (A, B):
        say(catalog, worker, ready(1, "2", "d2", current=False), ready(2))
    say(catalog, C, ready(1, "2", "d2"), broken("1"))
    assert catalog.newest["m"] == "2"
    assert numbers(catalog, "2") == {A: 1, B: 1, C: 1}


def test_a_model_that_is_not_to_be_loaded_is_not_served_from_then_on():
    catalog = three()
    catalog.configure({"m": ModelSettings(loaded=False)}, "")
    assert catalog.serving == {}
    for worker in (A, B, C):
        say(catalog, worker, ready(1, current=False))
    assert [(info.version, info.state) for info in catalog.known()] == [("1", State.UNAVAILABLE)]
    catalog.configure({"m": ModelSettings(loaded=True, order=2)}, "")
    assert catalog.serving == {}  # what they have is on its way out
    say(catalog, A, ready(1, current=False), ready(2))
    assert numbers(catalog) == {A: 2, B: 1, C: 1}  # the others have the same file yet
    say(catalog, B, ready(1, current=False), ready(2))
    say(catalog, C, broken("1", "unloaded"))
    assert numbers(catalog) == {A: 2, B: 2}


def test_what_nobody_has_ever_loaded_is_known_by_its_state():
    catalog = three(ready(1), loading("1", "slow"), broken("3", "truncated", "bad"))
    catalog.configure({"off": ModelSettings(loaded=False)}, "")
    found = [(info.name, info.version, info.state, info.reason) for info in catalog.known()]
    assert found == [
        ("bad", "3", State.UNAVAILABLE, "truncated"),
        ("m", "1", State.READY, ""),
        ("off", "", State.UNAVAILABLE, "unloaded"),
        ("slow", "1", State.LOADING, ""),
    ]
    assert catalog.reasons() == f"{A}, {B}, {C}: slow: is loading it; {A}, {B}, {C}: bad: truncated"


def test_when_all_are_away_it_is_known_still_and_forgotten_with_the_last_of_them():
    catalog = three()
    for worker in (A, B, C):
        catalog.lost(worker)
    assert numbers(catalog) == {}
    assert set(catalog.serving) == {("m", "1")}
    (info,) = catalog.known()
    assert (info.state, info.reason) == (State.UNAVAILABLE, "no worker that has it is connected")
    for worker in (A, B, C):
        catalog.forget(worker)
    assert (catalog.serving, catalog.newest) == ({}, {})


def test_a_version_that_only_an_absent_worker_has_is_not_unknown():
    catalog = three()
    say(catalog, C, ready(1), ready(2, "2", "d2"))
    catalog.lost(C)
    assert numbers(catalog, "2") == {}
    assert ("m", "2") in catalog.serving
    say(catalog, C, ready(1))
    assert ("m", "2") not in catalog.serving


def test_a_number_that_is_gone_is_not_asked_again():
    catalog = three(ready(1, digest="d0", current=False), ready(2))
    catalog.gone(A, 2)
    assert numbers(catalog) == {B: 2, C: 2}
    say(catalog, A, ready(4))
    assert numbers(catalog) == {A: 4, B: 2, C: 2}


def test_a_worker_may_turn_out_to_have_another_name():
    catalog = three()
    catalog.rename(A, "z")
    assert numbers(catalog) == {"z": 1, B: 1, C: 1}


def test_the_default_is_the_operators_else_what_most_workers_say():
    catalog = Catalog()
    both = (ready(1), ready(2, name="other"))
    say(catalog, A, *both, default="other")
    say(catalog, B, *both)
    assert catalog.default == "other"
    say(catalog, C, *both)
    assert catalog.default == "m"
    catalog.configure({}, "other")
    assert catalog.default == "other"
    catalog.configure({}, "missing")
    assert catalog.default == "missing"  # and nothing else in its place


def test_the_only_model_is_the_default_for_good():
    catalog, a = Catalog(), ready(1, name="m")
    say(catalog, A, a, default="")
    assert (catalog.default, catalog.only) == ("m", "m")
    aaa = ready(2, name="aaa")
    say(catalog, A, a, aaa, default="")
    say(catalog, B, aaa, default="")
    assert catalog.default == "m"
    for gone in (broken("1", "unloaded"), loading("1"), ready(1, current=False)):
        say(catalog, A, gone, aaa, default="")
        assert catalog.default == "m"
    say(catalog, A, aaa, default="")
    catalog.lost(A)
    assert (catalog.default, catalog.only) == ("m", "m")
    catalog.configure({}, "m")  # it has been recorded
    assert (catalog.default, catalog.only) == ("m", "")
    catalog.configure({}, "")
    assert (catalog.default, catalog.only) == ("aaa", "aaa")


def test_of_several_none_is_the_default_unless_somebody_has_named_it():
    catalog = Catalog()
    several = (ready(1), broken("1", name="b"))
    say(catalog, A, *several, default="")
    assert (catalog.default, catalog.only, catalog.names()) == ("", "", ["b", "m"])
    say(catalog, A, ready(1), broken("", name="typo"), default="")
    assert catalog.default == "m"  # what nobody has found is none


def test_the_model_of_a_file_is_the_default_though_it_is_unloaded_or_its_workers_are_away():
    catalog = Catalog()
    say(catalog, A, broken("1", "unloaded"), ready(2, name="other"))
    assert (catalog.default, catalog.only) == ("m", "")
    say(catalog, B, ready(2, name="other"), default="")
    catalog.lost(A)
    assert catalog.default == "m"
    say(catalog, A, ready(1, name="n"), default="n")  # its operator has given it another file
    assert catalog.default == "n"


def test_no_other_model_answers_for_a_default_that_is_being_loaded():
    catalog = three(loading("1"), ready(2, name="other"))
    assert (catalog.default, set(catalog.newest)) == ("m", {"other"})


@pytest.mark.parametrize("knows", [True, False], ids=["the same gateway", "a new gateway"])
def test_a_version_that_an_operator_has_left_does_not_answer_while_the_wanted_one_is_loading(knows: bool):
    """All workers have ended, and begin with what is newest on disk."""
    catalog = three() if knows else Catalog()
    catalog.configure({"m": ModelSettings(versions=("1",))}, "")
    for worker in (A, B, C):
        catalog.lost(worker)
    for worker in (A, B, C):
        say(catalog, worker, ready(1, "2", "d2"), loading("1"))
        assert (catalog.newest.get("m"), numbers(catalog)) == ("1" if knows else None, {})
    say(catalog, A, ready(1, "2", "d2", current=False), ready(2))
    assert (catalog.newest, numbers(catalog)) == ({"m": "1"}, {A: 2})
    for worker in (B, C):
        say(catalog, worker, ready(1, "2", "d2"), broken("1"))
    assert catalog.newest == {"m": "1"}
    catalog.forget(A)
    assert catalog.newest == {"m": "2"}  # nobody can load it: better that than nothing


def test_what_serves_while_an_operator_goes_back_to_another_version_serves_on_until_that_is_loaded():
    catalog = three(ready(1, "2", "d2"))
    catalog.configure({"m": ModelSettings(versions=("1",))}, "")
    for worker in (A, B, C):
        assert catalog.newest == {"m": "2"}
        say(catalog, worker, ready(1, "2", "d2"), loading("1"))
    for worker in (A, B, C):
        assert catalog.newest == {"m": "2"}
        say(catalog, worker, ready(1, "2", "d2", current=False), ready(2))
    assert (catalog.newest, numbers(catalog)) == ({"m": "1"}, {A: 2, B: 2, C: 2})


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
