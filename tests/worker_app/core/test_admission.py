"""What a worker believes of its own pace, and how much it takes in by that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_app.core.admission import MAX_QUEUE, Pace

SLOWNESS = st.floats(0.1, 10)
SIZES = st.integers(1, 32)


def test_before_the_first_batch_it_believes_the_warm_up() -> None:
    pace = Pace(0.010, 0.001)
    assert pace.batch_s(10) == pytest.approx(0.020)
    assert pace.rate(10) == pytest.approx(500)
    assert pace.queue_limit(10, 2.0) == 1000


@given(slowness=SLOWNESS, sizes=st.lists(SIZES, min_size=8, max_size=8))
def test_eight_batches_of_any_size_tell_the_pace_within_a_quarter(slowness: float, sizes: list[int]) -> None:
    pace, truth = Pace(0.010, 0.001), Pace(0.010 * slowness, 0.001 * slowness)
    for size in sizes:
        pace.note(size, truth.batch_s(size))
    assert pace.rate(32) == pytest.approx(truth.rate(32), rel=0.25)


@given(fixed_s=st.floats(0, 0.1), each_s=st.floats(0.0001, 0.01), size=SIZES)
def test_full_batches_correct_a_warm_up_that_was_wrong(fixed_s: float, each_s: float, size: int) -> None:
    pace = Pace(0.010, 0.001)
    for _ in range(40):
        pace.note(size, fixed_s + each_s * size)
    assert pace.rate(size) == pytest.approx(size / (fixed_s + each_s * size), rel=0.02)


@given(took_s=st.floats(0, 1000))
def test_one_odd_batch_changes_little(took_s: float) -> None:
    pace = Pace(0.010, 0.001)
    before = pace.rate(32)
    pace.note(32, took_s)
    assert before / 1.6 < pace.rate(32) < before * 1.6


@given(
    batches=st.lists(st.tuples(SIZES, st.floats(0, 100)), max_size=20),
    batch_size=st.integers(1, 1024),
    wait_s=st.floats(0.001, 600),
    fixed_s=st.floats(0, 1),
    each_s=st.floats(0, 1),
)
def test_the_queue_has_its_bounds_whatever_was_measured(
    batches: list[tuple[int, float]], batch_size: int, wait_s: float, fixed_s: float, each_s: float
) -> None:
    pace = Pace(fixed_s, each_s)
    for size, took_s in batches:
        pace.note(size, took_s)
    limit = pace.queue_limit(batch_size, wait_s)
    assert min(2 * batch_size, MAX_QUEUE) <= limit <= MAX_QUEUE
    if 2 * batch_size < limit < MAX_QUEUE:
        assert limit / pace.rate(batch_size) <= wait_s < (limit + 1) / pace.rate(batch_size)
