"""The ring: the same owners everywhere, few keys moved, shares that are true."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from gateway_app.core.ring import MAX_POINTS, Ring

KEYS_64 = st.integers(0, 2**64 - 1)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
WEIGHTS = st.dictionaries(NAMES, st.sampled_from([0.01, 0.5, 1.0, 2.0]), min_size=1, max_size=8)


def ring(weights: dict[str, float], virtual_nodes: int = 150) -> Ring:
    return Ring(weights, virtual_nodes, xxh3_64_intdigest)


def workers(count: int) -> dict[str, float]:
    return {f"worker_{i}": 1.0 for i in range(1, count + 1)}


def random_keys(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.getrandbits(64) for _ in range(count)]


def owners_of(found: Ring, keys: list[int]) -> list[str]:
    return [found.owners(key)[0] for key in keys]


@settings(max_examples=50, deadline=None)
@given(WEIGHTS, st.randoms(use_true_random=False), st.lists(KEYS_64, min_size=1, max_size=20))
def test_members_alone_decide_the_owners_not_the_order_they_came_in(
    weights: dict[str, float], rng: random.Random, keys: list[int]
) -> None:
    order = list(weights.items())
    rng.shuffle(order)
    one, other = ring(weights, 10), ring(dict(order), 10)
    assert one.nodes == other.nodes
    assert one.shares() == other.shares()
    for key in keys:
        assert one.owners(key) == other.owners(key)


@settings(max_examples=50, deadline=None)
@given(WEIGHTS, st.lists(KEYS_64, min_size=1, max_size=20))
def test_owners_hold_every_node_exactly_once(weights: dict[str, float], keys: list[int]) -> None:
    found = ring(weights, 10)
    for key in [*keys, 0, 2**64 - 1]:
        owners = found.owners(key)
        assert len(owners) == len(weights)
        assert set(owners) == set(weights)
        assert found.owners(key) == owners  # asked again


def test_another_process_with_another_hash_seed_finds_the_same_owners() -> None:
    program = (
        "import random; from xxhash import xxh3_64_intdigest; from gateway_app.core.ring import Ring\n"
        "found = Ring({f'worker_{i}': 1.0 for i in range(1, 8)}, 150, xxh3_64_intdigest)\n"
        "rng = random.Random(7)\n"
        "for _ in range(500): print(*found.owners(rng.getrandbits(64)))"
    )
    root = Path(__file__).parents[3]
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "4711")
    ]
    here = ring(workers(7))
    assert outputs[0] == outputs[1]
    assert outputs[0].splitlines() == [" ".join(here.owners(key)) for key in random_keys(500, seed=7)]


def test_where_a_point_is_belongs_to_the_contract() -> None:
    # Changing the points would move nearly every key at an upgrade, and gateways of two releases would disagree.
    found = ring({"a": 1.0, "b": 1.0}, 1)
    points = sorted((xxh3_64_intdigest(b"%b#0" % name.encode()), name) for name in ("a", "b"))
    (low, first), (high, second) = points
    assert found.owners(low - 1) == (first, second)
    assert found.owners((low + high) // 2) == (second, first)
    assert found.owners(high + 1) == (first, second)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 10])
def test_a_worker_that_joins_or_leaves_moves_its_own_keys_only_and_few_of_them(count: int) -> None:
    keys = random_keys(20_000)
    every = ring(workers(count))
    with_all = owners_of(every, keys)
    for leaver in workers(count):
        rest = {name: 1.0 for name in workers(count) if name != leaver}
        without = owners_of(ring(rest), keys)
        moved = [(before, after) for before, after in zip(with_all, without, strict=True) if before != after]
        assert {before for before, _ in moved} == {leaver}
        assert leaver not in {after for _, after in moved}
        assert len(moved) == with_all.count(leaver)
        assert len(moved) <= 1.2 / count * len(keys), f"{leaver} of {count}"


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, NAMES, st.lists(KEYS_64, min_size=50, max_size=50))
def test_a_join_moves_keys_to_the_newcomer_only_and_keeps_the_order_of_the_rest(
    weights: dict[str, float], newcomer: str, keys: list[int]
) -> None:
    weights.pop(newcomer, None)
    before, after = ring(weights, 20), ring({**weights, newcomer: 1.0}, 20)
    for key in keys:
        assert tuple(name for name in after.owners(key) if name != newcomer) == before.owners(key)


def test_a_lost_workers_keys_spread_over_all_others() -> None:
    keys = random_keys(20_000)
    every = ring(workers(5))
    heirs = [every.owners(key)[1] for key in keys if every.owners(key)[0] == "worker_3"]
    for name in workers(5):
        if name != "worker_3":
            assert heirs.count(name) > 0.12 * len(heirs)


def test_three_workers_share_100_000_random_keys_evenly() -> None:
    owned = owners_of(ring(workers(3)), random_keys(100_000))
    counts = [owned.count(name) for name in workers(3)]
    assert max(counts) / (sum(counts) / 3) <= 1.15


def test_a_heavier_worker_owns_more_in_proportion() -> None:
    shares = ring({"light": 1.0, "heavy": 3.0, "half": 0.5}, 600).shares()
    assert shares["heavy"] / shares["light"] == pytest.approx(3.0, rel=0.2)
    assert shares["half"] / shares["light"] == pytest.approx(0.5, rel=0.2)


def test_the_smallest_weight_still_owns_something() -> None:
    shares = ring({"tiny": 0.0001, "big": 1.0}, 10).shares()
    assert 0 < shares["tiny"] < shares["big"]


@settings(max_examples=50, deadline=None)
@given(WEIGHTS)
def test_shares_add_up_to_one_and_name_every_node(weights: dict[str, float]) -> None:
    shares = ring(weights, 10).shares()
    assert set(shares) == set(weights)
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-9)


def test_shares_are_what_sampled_keys_say() -> None:
    found = ring({"worker_1": 1.0, "worker_2": 2.0, "worker_3": 0.5})
    owned = owners_of(found, random_keys(50_000))
    for name, share in found.shares().items():
        assert owned.count(name) / len(owned) == pytest.approx(share, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, st.lists(KEYS_64, min_size=1, max_size=20))
def test_owners_are_met_in_the_order_of_the_points(weights: dict[str, float], keys: list[int]) -> None:
    found = ring(weights, 20)
    circle = sorted(
        (xxh3_64_intdigest(b"%b#%d" % (name.encode(), i)), name)
        for name, weight in weights.items()
        for i in range(max(1, round(20 * weight)))
    )
    for key in keys:
        ahead = [name for point, name in circle if point > key] + [name for point, name in circle if point <= key]
        assert found.owners(key) == tuple(dict.fromkeys(ahead))


def test_no_setting_makes_more_points_than_a_ring_may_have() -> None:
    few, many = ring({"a": 100.0, "b": 50.0}, 1000), ring({"a": 100.0, "b": 50.0}, 1_000_000)
    assert len(few.points) == 150_000
    assert MAX_POINTS / 2 < len(many.points) <= MAX_POINTS
    assert many.shares()["a"] == pytest.approx(2 / 3, abs=0.01)
    names = {f"worker_{i}": 0.001 for i in range(50)}
    assert ring(names, 1).nodes == tuple(sorted(names))  # one point each is never too much


def test_an_empty_ring_has_no_owners() -> None:
    found = ring({})
    assert found.owners(5) == ()
    assert found.shares() == {}
    assert found.nodes == ()


def test_one_node_owns_everything() -> None:
    found = ring({"only": 1.0}, 1)
    assert found.owners(0) == found.owners(2**64 - 1) == ("only",)
    assert found.shares() == {"only": 1.0}
