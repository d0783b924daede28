"""The simulation: the same by its seed, nothing lost in it, and what it must find."""

import pytest
from xxhash import xxh3_64_intdigest

from bench.fleet import Costs, Events, Fleet
from bench.zipf import SYSTEMS, THIS, Result, simulate, table, zipf
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return {system.label: simulate(system, requests=16_000, per_s=10_000) for system in SYSTEMS}


def test_every_request_is_answered_and_is_one_of_four_things(results: dict[str, Result]) -> None:
    for each in results.values():
        assert each.errors == 0
        # What is computed for one may be answered just after the warm-up has ended, or after the end.
        assert each.gateway_hits + each.worker_hits + each.joined + each.computed == pytest.approx(1, abs=0.02)


def test_inputs_that_keep_their_worker_are_computed_less_often(results: dict[str, Result]) -> None:
    assert results["plain ring"].computed < 0.8 * results["round robin"].computed
    assert results["this system"].computed < 0.8 * results["round robin"].computed
    assert results["this system"].gateway_hits > 0.4
    assert results["this, no hot cache"].gateway_hits == 0
    assert results["this, no joining"].joined < results["this, no hot cache"].joined


def test_it_is_the_same_by_its_seed(results: dict[str, Result]) -> None:
    assert simulate(THIS, requests=16_000, per_s=10_000) == results["this system"]


def test_the_most_wanted_key_has_its_share() -> None:
    keys = [key for _, key in zipf(20_000, 1000)]
    most = max(map(keys.count, set(keys[:100])))
    assert most / len(keys) == pytest.approx(0.135, abs=0.02)


def test_the_table_has_a_row_for_each(results: dict[str, Result]) -> None:
    lines = table(list(results.values())).splitlines()
    assert len(lines) == 2 + len(SYSTEMS)
    assert len({line.count("|") for line in lines}) == 1


def test_events_come_in_order_and_time_stops_where_it_should() -> None:
    events = Events()
    seen: list[str] = []
    events.after(2, seen.append, "second")
    events.after(1, seen.append, "first")
    events.after(2, seen.append, "third")
    events.after(9, seen.append, "never")
    events.run(until_s=5)
    assert seen == ["first", "second", "third"]
    assert events.now() == 5


def test_a_lone_request_takes_what_its_parts_take() -> None:
    costs = Costs(hop_s=0.001, take_s=0.002, batch_s=0.1, sample_s=0.01)
    fleet = Fleet(Ring({"a": 1.0}, 10, xxh3_64_intdigest), Policy(), costs=costs)
    fleet.infer(1)
    fleet.events.run(1)
    fleet.infer(1)
    fleet.events.run(2)
    miss_s, hit_s = fleet.tally.latencies_s
    assert miss_s == pytest.approx(0.001 + 0.002 + 0.11 + 0.001)
    assert hit_s == pytest.approx(0.001 + 0.002 + 0.001)
    assert fleet.tally.outcomes == {"miss": 1, "hit": 1}
    assert fleet.router.in_flight == 0
