"""What workers say of their models, and what is served of it."""

from __future__ import annotations

from gateway_app.catalog import Catalog
from inference_site.lib.catalog import ModelSettings, State
from tests.gateway_app.announced import A, B, C, broken, loading, numbers, ready, say, three


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
