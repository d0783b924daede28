"""Prometheus' text format, as its own library reads it."""

import math

from hypothesis import given
from hypothesis import strategies as st

from inference_site.lib.prometheus import Family, Samples, thinned
from tests.support.scrape import Scrape

COUNTER = Family("things_total", "counter", 'What "things" there are:\nback\\slashes too')
PLAIN = Family("marbles", "counter", "Without the suffix")
GAUGE = Family("level", "gauge", "How high")
SECONDS = Family("took_seconds", "histogram", "How long")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")), st.integers(0, 2**53))
def test_any_label_is_read_as_it_was(label: str, value: int) -> None:
    samples = Samples()
    samples.add(COUNTER, value, {"model": label, "version": "1"})
    assert Scrape(samples.text())("things_total", model=label, version="1") == float(value)


def test_values_stand_below_what_they_are() -> None:
    samples = Samples()
    samples.add(PLAIN, 3)
    samples.add(GAUGE, 1e-7, {"side": "left"})
    samples.add(PLAIN, 4, {"kind": "odd"})
    samples.add(COUNTER, 0)
    assert samples.text() == (
        "# HELP marbles Without the suffix\n"
        "# TYPE marbles counter\n"
        "marbles 3\n"
        'marbles{kind="odd"} 4\n'
        "# HELP level How high\n"
        "# TYPE level gauge\n"
        'level{side="left"} 1e-07\n'
        '# HELP things_total What "things" there are:\\nback\\\\slashes too\n'
        "# TYPE things_total counter\n"
        "things_total 0\n"
    )
    found = Scrape(samples.text())
    assert (found("marbles"), found("marbles", kind="odd"), found("level", side="left")) == (3, 4, 1e-7)


def test_a_histogram_adds_up() -> None:
    samples = Samples()
    samples.add_histogram(SECONDS, [(0.001, 2), (0.25, 0), (1, 5)], 1, 9.5, {"model": "m"})
    found = Scrape(samples.text())
    assert found.below("took_seconds", model="m") == [(0.001, 2), (0.25, 2), (1, 7), (math.inf, 8)]
    assert (found("took_seconds_sum", model="m"), found("took_seconds_count", model="m")) == (9.5, 8)


@given(st.lists(st.integers(0, 5), min_size=21, max_size=21), st.integers(0, 19), st.integers(1, 7))
def test_a_bound_that_is_kept_has_all_below_it(counts: list[int], first: int, step: int) -> None:
    bounds = [float(index) for index in range(20)]
    kept, more = thinned(bounds, counts, range(first, 20, step))
    seen = 0
    for bound, count in kept:
        seen += count
        assert seen == sum(counts[: int(bound) + 1])
    assert seen + more == sum(counts)
