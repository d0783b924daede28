"""Rolling windows: quantiles near the true ones, and seconds that are forgotten in time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_site.lib.window import LatencyWindow, RateWindow, bucket_quantiles_ms, quantiles_ms, summed

DURATIONS = st.lists(st.floats(50e-6, 100.0), min_size=1, max_size=300)


@settings(max_examples=100, deadline=None)
@given(DURATIONS, st.sampled_from([0.0, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_ten_percent_above_the_true_one(durations: list[float], quantile: float) -> None:
    window = LatencyWindow()
    for duration_s in durations:
        window.add(duration_s)
    (found,) = window.quantiles_ms(quantile)
    assert found is not None
    true = float(np.quantile(durations, quantile, method="inverted_cdf")) * 1000
    rounding = 0.001
    assert true - rounding <= found <= true * 1.1 + rounding


def test_a_real_looking_load_agrees_with_numpy() -> None:
    durations = np.random.default_rng(0).lognormal(np.log(0.003), 0.8, 20_000)
    window = LatencyWindow()
    for index, duration_s in enumerate(durations):
        window.add(float(duration_s))
        if index % 1000 == 0:
            window.roll()
    quantiles = [0.5, 0.9, 0.95, 0.99]
    assert window.quantiles_ms(*quantiles) == pytest.approx(list(np.quantile(durations, quantiles) * 1000), rel=0.1)


def test_nothing_counted_has_no_quantiles() -> None:
    assert LatencyWindow().quantiles_ms(0.5, 0.99) == [None, None]


def test_what_is_older_than_the_window_is_forgotten() -> None:
    window = LatencyWindow(seconds=3)
    window.add(1.0)
    for _ in range(3):
        window.roll()
    assert window.quantiles_ms(0.5) != [None]
    window.roll()
    assert window.quantiles_ms(0.5) == [None]
    assert window.count == 1  # the counter only grows


@pytest.mark.parametrize("duration_s", [0.0, -1.0, 1e-9, 1e6])
def test_durations_beyond_the_buckets_are_counted_in_the_nearest(duration_s: float) -> None:
    window = LatencyWindow()
    window.add(duration_s)
    (found,) = window.quantiles_ms(0.5)
    assert found is not None
    assert found == pytest.approx(0.001 if duration_s < 1 else 1.1**199 / 1000, rel=0.01)


def test_a_rate_is_the_growth_over_the_window() -> None:
    window = RateWindow(seconds=5)
    assert window.per_second() == 0.0
    for second in range(1, 4):
        window.roll(second * 10)
    assert window.per_second() == 10.0
    for _ in range(5):
        window.roll(30)
    assert window.per_second() == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_a_rate_is_the_mean_of_the_last_five_seconds(events: list[int]) -> None:
    window, total = RateWindow(seconds=5), 0
    for count in events:
        total += count
        window.roll(total)
    assert window.per_second() == pytest.approx(sum(events[-5:]) / min(5, len(events)))


def test_quantiles_of_several_windows_are_those_of_all_they_have_counted() -> None:
    quick, slow = LatencyWindow(), LatencyWindow()
    for _ in range(99):
        quick.add(0.001)
    slow.roll()
    slow.add(0.1)
    p50, p99, p100 = quantiles_ms([quick, slow], 0.5, 0.99, 1.0)
    assert (p50, p99) == (quick.quantiles_ms(0.5)[0], quick.quantiles_ms(0.5)[0])
    assert p100 == slow.quantiles_ms(1.0)[0]
    assert quantiles_ms([], 0.5) == [None]


def test_the_second_that_has_ended_is_seen_by_itself_and_seconds_add_up() -> None:
    window = LatencyWindow()
    assert sum(window.ended) == 0
    window.add(0.001)
    window.roll()
    first = window.ended
    window.add(0.1)
    window.add(0.1)
    assert sum(window.ended) == 1
    window.roll()
    assert (sum(first), sum(window.ended), sum(summed([first, window.ended]))) == (1, 2, 3)
    assert bucket_quantiles_ms([first], 0.99) == pytest.approx([1.0], rel=0.1)
    assert bucket_quantiles_ms([first, window.ended], 0.3, 0.99) == pytest.approx([1.0, 100.0], rel=0.1)
    assert bucket_quantiles_ms([], 0.5) == [None]
