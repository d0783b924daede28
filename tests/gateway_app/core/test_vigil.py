"""Whether it has become worse: certain before it says so, and never by one outlier."""

import random

import pytest

from gateway_app.core.vigil import HOLDS_S, LEAST_REQUESTS, LEAST_S, WINDOW_S, Figures, Limits, Vigil, limits_of


def watched(seconds, limits=Limits(1.0, 20.0)):  # noqa: B008
    """What is said after each of these seconds, given as (requests, errors, p99)."""
    vigil, past, said = Vigil(limits), [], []
    for requests, errors, p99_ms in seconds:
        past.append(Figures(requests, errors, p99_ms))
        window = past[-vigil.window_s :]
        # As the history does it: the p99 of all, which is some second's at most.
        highest = [each.p99_ms for each in window if each.p99_ms is not None]
        all_of_it = Figures(
            sum(each.requests for each in window),
            sum(each.errors for each in window),
            max(highest) if highest else None,
        )
        said.append(vigil.judge(past[-1], all_of_it))
    return said


def test_the_limits_come_from_what_was_before():
    assert limits_of(1, 2, 0.5, 30) == Limits(1.5, 60)
    assert limits_of(1, 2, 0.0, 1.0) == Limits(1.0, 6.0)  # what is less than 5 ms more is noise
    assert limits_of(1, 2, 0.0, None) == Limits(1.0, None)


def test_what_is_as_before_is_left_alone():
    assert not any(watched([(100, 1, 20.0)] * 100))


def test_errors_are_told_with_both_figures():
    said = watched([(100, 5, 1.0)] * 20)
    assert said[LEAST_S + HOLDS_S - 2] == "5.0 % of 700 requests failed, the limit was 1.0 %"
    assert not any(said[: LEAST_S + HOLDS_S - 2])


def test_a_longer_p99_is_told_with_both_figures():
    said = watched([(100, 0, 35.0)] * 20)
    assert said[LEAST_S + HOLDS_S - 2] == "p99 was 35.0 ms over 700 requests, the limit was 20.0 ms"


@pytest.mark.parametrize("bad", [(100, 60, 1.0), (100, 0, 900.0)])
@pytest.mark.parametrize("times", [1, 2])
def test_an_outlier_is_none_however_bad(bad, times):
    good = (100, 0, 1.0)
    assert not any(watched([*[good] * 10, *[bad] * times, *[good] * 60]))
    assert any(watched([*[good] * 10, *[bad] * 6, *[good] * 60]))


def test_too_few_requests_tell_nothing():
    few = (LEAST_REQUESTS - 1) // WINDOW_S
    assert not any(watched([(few, few, 900.0)] * 100))
    assert not any(watched([(0, 0, None)] * 100))


def test_without_a_p99_of_before_only_errors_count():
    assert not any(watched([(100, 0, 9_000.0)] * 60, Limits(1.0, None)))
    assert any(watched([(100, 2, 9_000.0)] * 60, Limits(1.0, None)))


def test_it_is_open_while_it_looks_worse_and_is_not_certain():
    vigil = Vigil(Limits(1.0, None))
    bad = Figures(100, 50, None)
    for _ in range(LEAST_S - 1):
        vigil.judge(bad, bad)
        assert not vigil.is_open
    for _ in range(HOLDS_S - 1):
        assert vigil.judge(bad, bad) == ""
        assert vigil.is_open
    assert vigil.judge(bad, bad) != ""


@pytest.mark.parametrize("seed", range(20))
def test_what_is_within_the_limits_in_each_second_never_counts(seed):
    rng = random.Random(seed)
    seconds = [(n := rng.randint(0, 300), n // 100, rng.uniform(0, 20) if n else None) for _ in range(200)]
    assert not any(watched(seconds))
