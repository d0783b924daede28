"""The table of owners: even shares, few moves, the same in every process, whatever the order of its members."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from gateway_app.core.table import SLOTS, Table
from tests.support.processes import ROOT


def table(weights: dict[str, float], virtual_nodes: int = 150, cap: float = 1.02) -> Table:
    return Table(weights, virtual_nodes, xxh3_64_intdigest, cap)


def equal(count: int, prefix: str = "worker_") -> dict[str, float]:
    return {f"{prefix}{number}": 1.0 for number in range(1, count + 1)}


def firsts(found: Table) -> list[str]:
    """The owner of each slot."""
    return [found.owners(slot << 48)[0] for slot in range(SLOTS)]


@pytest.mark.parametrize("count", [3, 10, 100])
def test_shares_of_equal_workers_are_even(count: int):
    found = table(equal(count))
    assert max(found.shares().values()) * count <= 1.025
    assert sum(found.shares().values()) == pytest.approx(1)


@pytest.mark.parametrize("count", [2, 10, 100])
def test_a_join_and_a_leave_move_little_more_than_they_must(count: int):
    before = firsts(table(equal(count)))
    joined = firsts(table({**equal(count), "new": 1.0}))
    moved = sum(old != new for old, new in zip(before, joined, strict=True))
    assert moved <= 1.2 * SLOTS / (count + 1)
    left = equal(count)
    del left["worker_2"]
    after = firsts(table(left))
    owned = before.count("worker_2")
    assert sum(old != new for old, new in zip(before, after, strict=True)) <= 1.2 * owned
    assert "worker_2" not in after


def test_weights_are_shares():
    shares = table({"a": 1.0, "b": 2.0, "c": 0.5}).shares()
    for name, weight in (("a", 1.0), ("b", 2.0), ("c", 0.5)):
        assert shares[name] <= 1.02 * weight / 3.5 + 1 / SLOTS
        assert shares[name] >= 0.93 * weight / 3.5


def test_without_a_cap_the_ring_decides_and_virtual_nodes_even_it_out():
    def worst(virtual_nodes: int) -> float:
        return max(table(equal(10), virtual_nodes, cap=0).shares().values()) * 10

    assert worst(1) > 1.08
    assert worst(200) < 1.05


def test_without_a_cap_nobody_is_bounded_however_light():
    light = table({"heavy": 100.0, "light": 0.01}, virtual_nodes=1, cap=0).shares()["light"]
    assert light > 0.001  # a point has one of 101 places on the ring, whatever the weight entitles it to


def test_virtual_nodes_spread_the_keys_of_a_lost_worker():
    def heirs(virtual_nodes: int) -> float:
        """The largest part of worker_1's slots that goes to one other worker."""
        found = table(equal(5), virtual_nodes)
        seconds = [order[1] for slot in range(SLOTS) if (order := found.owners(slot << 48))[0] == "worker_1"]
        return max(seconds.count(name) for name in found.nodes) / len(seconds)

    assert heirs(1) > heirs(150)
    assert heirs(150) < 0.33


@settings(max_examples=8, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), st.floats(0.1, 5), max_size=6), st.randoms())
def test_every_member_is_in_every_order_once_and_order_of_members_is_nothing(weights: dict[str, float], random):
    names = list(weights)
    random.shuffle(names)
    one, other = table(weights, 20), table({name: weights[name] for name in names}, 20)
    for key in (random.getrandbits(64) for _ in range(200)):
        assert one.owners(key) == other.owners(key)
        assert sorted(one.owners(key)) == sorted(weights)


def test_another_process_finds_the_same_owners():
    program = (
        "from gateway_app.core.table import Table; from xxhash import xxh3_64_intdigest as h\n"
        "t = Table({f'worker_{i}': 1.0 for i in range(1, 8)}, 150, h)\n"
        "print([t.owners(h(b'%d' % i)) for i in range(500)])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    mine = table(equal(7))
    assert result.stdout.strip() == str([mine.owners(xxh3_64_intdigest(b"%d" % i)) for i in range(500)])


def test_who_owns_what_belongs_to_the_contract():
    # Another assignment would move nearly every key at an upgrade, and gateways of two releases would disagree.
    found = table({"a": 1.0, "b": 2.0, "c": 0.5, "d": 1.0})
    assert xxh3_64_intdigest("".join(firsts(found)).encode()) == 10716614531808029692


def test_nobody_and_one():
    assert table({}).owners(5) == ()
    assert table({}).shares() == {}
    assert table({"a": 1.0}).owners(2**64 - 1) == ("a",)
    assert table({"a": 1.0}).shares() == {"a": 1.0}
