"""A preview of the ring against what each key's owner really is, before and after."""

from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from gateway_app.core.preview import Away, ring_change
from gateway_app.core.table import SLOTS, Table

NAMES = ("a", "b", "c", "d", "e")


def table(weights: dict[str, float], virtual_nodes: int = 20, cap: float = 1.02) -> Table:
    return Table(weights, virtual_nodes, xxh3_64_intdigest, cap)


def answering(found: Table, away: Away) -> list[str | None]:
    """Who gets each slot, as a router finds it: in the order of its owners."""
    out: Collection[str] = {*away.draining, *away.isolated}
    if all(name in out for name in found.nodes):
        out = away.isolated
    orders = (found.owners(slot << 48) for slot in range(SLOTS))
    return [next((name for name in order if name not in out), None) for order in orders]


MEMBERS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.5, 1.0, 3.0]), max_size=5)
NAMED = st.sets(st.sampled_from(NAMES), max_size=3)
SIDES = st.tuples(MEMBERS, st.builds(Away, draining=NAMED, isolated=NAMED))


@settings(max_examples=8, deadline=None)
@given(before=SIDES, after=SIDES, cap=st.sampled_from([0.0, 1.02]))
def test_it_says_what_each_key_will_find(
    before: tuple[dict[str, float], Away], after: tuple[dict[str, float], Away], cap: float
):
    old, new = table(before[0]), table(after[0], cap=cap)
    found = ring_change(old, new, before[1], after[1])
    was, will = answering(old, before[1]), answering(new, after[1])
    names = sorted({*before[0], *after[0]})
    assert found.shares_before == {name: was.count(name) / SLOTS for name in names}
    assert found.shares_after == {name: will.count(name) / SLOTS for name in names}
    assert found.moved == sum(one != other for one, other in zip(was, will, strict=True)) / SLOTS


def test_nothing_moves_where_nothing_changes():
    same = table({"a": 1.0, "b": 1.0})
    found = ring_change(same, same)
    assert found.moved == 0.0
    assert found.shares_before == found.shares_after == same.shares()


def test_a_worker_that_is_added_takes_its_share_and_little_else_moves():
    before = table({f"worker_{n}": 1.0 for n in range(1, 4)}, 150)
    after = table({f"worker_{n}": 1.0 for n in range(1, 5)}, 150)
    found = ring_change(before, after)
    assert found.shares_before["worker_4"] == 0.0
    assert found.shares_after["worker_4"] == pytest.approx(0.25, abs=0.006)
    assert found.shares_after["worker_4"] <= found.moved <= 1.2 * found.shares_after["worker_4"]


def test_a_worker_under_another_name_has_other_keys():
    found = ring_change(table({"a": 1.0, "b": 1.0}, 150), table({"a": 1.0, "c": 1.0}, 150))
    assert (found.shares_before["c"], found.shares_after["b"]) == (0.0, 0.0)
    assert found.moved >= found.shares_before["b"]


@pytest.mark.parametrize("nobody", [Away(isolated=("a", "b")), Away(draining=("a",), isolated=("a", "b"))])
def test_where_nobody_is_left_nobody_gets_anything(nobody: Away):
    full = table({"a": 1.0, "b": 1.0})
    found = ring_change(full, full, Away(), nobody)
    assert (found.shares_after, found.moved) == ({"a": 0.0, "b": 0.0}, 1.0)


def test_the_last_ones_answer_though_they_are_drained():
    full = table({"a": 1.0, "b": 1.0})
    found = ring_change(full, full, Away(), Away(draining=("a", "b")))
    assert (found.shares_after, found.moved) == (full.shares(), 0.0)


def test_a_first_worker_takes_everything():
    assert ring_change(table({}), table({"a": 1.0})).moved == 1.0
    assert ring_change(table({}), table({})).moved == 0.0
