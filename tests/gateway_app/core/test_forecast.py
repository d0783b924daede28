"""Forecasts of batches against what can be computed, and their own promises."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_app.core.forecast import BatchForecast, batches


@pytest.mark.parametrize("load", [0.1, 0.3, 0.5, 0.7, 0.8])
def test_one_at_a_time_is_the_queue_that_is_known(load: float):
    """M/D/1: Poisson arrivals, one duration, one server; the mean wait by Pollaczek and Khinchin."""
    took_s = 0.004
    found = batches(load / took_s, took_s, 0.0, size=1)
    mean_ms = 1000 * took_s * (1 + load / (2 * (1 - load)))
    assert found.mean_ms == pytest.approx(mean_ms, rel=0.1)
    assert found.utilisation == pytest.approx(load)
    assert (found.mean_size, found.saturates_at) == (1.0, 1 / took_s)


def test_idle_requests_take_what_a_batch_of_one_takes():
    found = batches(0.01, 0.002, 0.001)
    assert found.mean_size == 1.0
    assert found.p50_ms == found.p99_ms == pytest.approx(3.0)


def test_held_back_it_waits_for_its_time_or_until_it_is_full():
    alone = batches(1.0, 0.002, 0.0, wait_s=0.02, eager=False)
    assert alone.p50_ms == pytest.approx(22.0, abs=0.01)
    full = batches(100_000.0, 0.0002, 0.0, size=32, wait_s=0.02, eager=False)
    assert full.mean_size == pytest.approx(32, abs=0.2)
    assert full.p99_ms is not None and full.p99_ms < 2.0


def test_the_oldest_of_a_batch_waits_for_all_of_the_time_and_the_others_less():
    found = batches(500.0, 0.001, 0.0, size=1000, wait_s=0.02, eager=False)
    assert found.mean_size == pytest.approx(1 + 500 * 0.02, rel=0.05)
    assert found.mean_ms == pytest.approx(1 + 10 + 10 / 11, rel=0.05)  # the first 20 ms, the others 10 in the mean


def test_eager_batches_grow_until_they_keep_up():
    found = batches(8000.0, 0.001, 0.00005)
    # Always busy: a batch is what comes while the one before runs, n = 8000 (0.001 + 0.00005 n).
    assert found.mean_size == pytest.approx(8000 * 0.001 / (1 - 8000 * 0.00005), rel=0.03)
    assert found.utilisation == pytest.approx(1.0)
    assert not found.saturated


def test_more_sessions_wait_less():
    one, four = (batches(900.0, 0.001, 0.0, sessions=count, size=1) for count in (1, 4))
    assert one.mean_ms is not None and four.mean_ms is not None
    assert four.mean_ms == pytest.approx(1.0, abs=0.01)
    assert one.mean_ms > 4 * four.mean_ms
    assert four.utilisation == pytest.approx(one.utilisation / 4)


def test_more_than_the_engine_can_do_saturates_it():
    found = batches(12_400.0, 0.001, 0.00005)
    assert found.saturates_at == pytest.approx(32 / (0.001 + 32 * 0.00005))
    assert found == BatchForecast(32.0, None, None, None, None, 1.0, True, found.saturates_at)


def test_no_traffic_forecasts_nothing_but_the_limit():
    found = batches(0.0, 0.001, 0.00005)
    assert (found.mean_size, found.p95_ms, found.saturated) == (0.0, None, False)
    assert found.saturates_at > 0


def test_equal_arguments_give_equal_forecasts():
    assert batches(700.0, 0.001, 0.0001) == batches(700.0, 0.001, 0.0001)
    assert batches(700.0, 0.001, 0.0001) != batches(700.0, 0.001, 0.0001, seed=2)


@settings(max_examples=30, deadline=None)
@given(
    rate=st.floats(0.1, 20_000),
    fixed_s=st.floats(0, 0.05),
    each_s=st.floats(0, 0.01),
    sessions=st.integers(1, 4),
    size=st.integers(1, 64),
    wait_s=st.floats(0, 0.1),
    eager=st.booleans(),
)
def test_whatever_the_numbers_are_the_forecast_makes_sense(
    rate: float, fixed_s: float, each_s: float, sessions: int, size: int, wait_s: float, eager: bool
):
    found = batches(rate, fixed_s, each_s, sessions, size, wait_s, eager)
    assert found.saturated == (rate >= found.saturates_at)
    assert 1 <= found.mean_size <= size + 1e-9
    assert 0 <= found.utilisation <= 1
    if not found.saturated:
        times = [found.p50_ms, found.p95_ms, found.p99_ms, found.mean_ms]
        assert all(each is not None and math.isfinite(each) for each in times)
        assert 1000 * (fixed_s + each_s) <= (found.p50_ms or 0) + 1e-6
        assert (found.p50_ms or 0) <= (found.p95_ms or 0) <= (found.p99_ms or 0)
