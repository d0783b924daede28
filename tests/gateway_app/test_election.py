"""Which version answers while workers load, restart and go, and by which file."""

from __future__ import annotations

import pytest

from gateway_app.catalog import Catalog
from inference_site.lib.catalog import ModelSettings
from tests.gateway_app.announced import A, B, C, broken, loading, numbers, ready, say, three


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
