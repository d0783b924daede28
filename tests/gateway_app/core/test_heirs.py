"""Who gets a worker's keys: as the router would send them, and all of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from gateway_app.core.heirs import heirs
from gateway_app.core.table import SLOTS, Table


def table(names, cap=1.02):
    return Table(dict.fromkeys(names, 1.0), 50, xxh3_64_intdigest, cap)


@given(
    st.integers(2, 6),
    st.sets(st.integers(0, 5)),
)
@settings(max_examples=5, deadline=None)
def test_the_parts_are_what_the_next_in_line_would_be_asked(count, away):
    names = [f"worker_{number}" for number in range(count)]
    here = table(names)
    out = {f"worker_{number}" for number in away} | {"worker_0"}
    expected = dict.fromkeys(names, 0)
    nobody = 0
    for slot in range(SLOTS):
        owners = here.owners(slot << 48)
        if owners[0] == "worker_0":
            heir = next((name for name in owners if name not in out), None)
            if heir is None:
                nobody += 1
            else:
                expected[heir] += 1
    found = heirs(here, here, "worker_0", away={f"worker_{number}" for number in away})
    assert found == {name: number / SLOTS for name, number in expected.items() if number}
    assert list(found.values()) == sorted(found.values(), reverse=True)
    if not nobody:
        assert sum(found.values()) == pytest.approx(here.shares()["worker_0"])


def test_a_worker_that_leaves_the_table_leaves_its_keys_to_the_new_one():
    names = ["a", "b", "c"]
    before, after = table(names), table(names[1:])
    found = heirs(before, after, "a", away=set())
    own = [slot for slot in range(SLOTS) if before.owners(slot << 48)[0] == "a"]
    for name in ("b", "c"):
        assert found[name] == sum(after.owners(slot << 48)[0] == name for slot in own) / SLOTS


def test_with_nobody_left_nobody_gets_them():
    assert heirs(table(["a"]), table(["a"]), "a", away=set()) == {}
    assert heirs(table("ab"), table("ab"), "a", away={"b"}) == {}
    assert heirs(table("ab"), table("b"), "a", away={"b"}) == {}
