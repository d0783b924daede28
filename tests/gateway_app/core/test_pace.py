"""Estimates of quantiles against the quantiles themselves."""

import random
from collections.abc import Callable

import pytest

from gateway_app.core.pace import ENOUGH, Pace

SHAPES: dict[str, Callable[[random.Random], float]] = {
    "even": lambda dice: dice.uniform(0.001, 0.003),
    "long tail": lambda dice: dice.lognormvariate(-6, 0.7),
    "seconds": lambda dice: dice.gauss(5, 0.5),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_it_comes_near_the_median_and_the_99th_percentile(shape: str):
    dice = random.Random(1)
    pace = Pace()
    durations = [SHAPES[shape](dice) for _ in range(20_000)]
    medians, p99s = [], []
    for duration in durations:
        pace.add(duration)
        medians.append(pace.median)
        p99s.append(pace.p99)
    durations.sort()
    assert sum(medians[2000:]) / 18_000 == pytest.approx(durations[10_000], rel=0.15)
    assert sum(p99s[2000:]) / 18_000 == pytest.approx(durations[19_800], rel=0.3)


def test_the_median_follows_a_change_within_some_fifty_answers():
    pace = Pace()
    for duration in [0.001] * 200 + [0.01] * 60:
        pace.add(duration)
    assert pace.median == pytest.approx(0.01, rel=0.1)
    for duration in [0.001] * 60:
        pace.add(duration)
    assert pace.median == pytest.approx(0.001, rel=0.1)


def test_a_few_durations_are_not_relied_on():
    pace = Pace()
    for number in range(ENOUGH):
        assert pace.known == (number >= ENOUGH)
        pace.add(0.5)
    assert pace.known


def test_a_first_answer_that_took_no_time_on_a_coarse_clock_is_no_end():
    pace = Pace()
    for duration in [0.0] + [0.01] * 300:
        pace.add(duration)
    assert pace.median == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("first", [0.1, 0.0001])
def test_an_odd_first_duration_is_forgotten_by_the_time_that_the_median_counts(first: float):
    pace = Pace()
    for duration in [first] + [0.002] * (ENOUGH - 1):
        pace.add(duration)
    assert 0.001 < pace.median < 0.0052
