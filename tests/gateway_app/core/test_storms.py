"""What happens over and over is counted; what happens seldom passes."""

from hypothesis import given
from hypothesis import strategies as st

from gateway_app.core.storms import Storms


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def storms(**options):
    clock = Clock()
    return Storms(clock, **options), clock


def test_a_burst_passes_and_the_rest_is_counted():
    found, clock = storms(burst=3, per_s=0.5)
    assert [found.admits("a", number) for number in range(5)] == [True, True, True, False, False]
    assert found.admits("b", 0)  # another sort
    assert found.calmed() == []
    clock.now += 2
    assert found.calmed() == [(4, 2)]  # the last one, of two
    assert found.calmed() == []
    clock.now += 2
    assert found.admits("a", 9)


def test_what_comes_during_a_storm_waits_for_its_turn_in_order():
    found, clock = storms(burst=1, per_s=0.5)
    assert found.admits("a", 0)
    assert not found.admits("a", 1)
    clock.now += 2
    # There is room for one again, but 1 was before it.
    assert not found.admits("a", 2)
    assert found.calmed() == [(2, 2)]


def test_quiet_sorts_are_forgotten():
    found, clock = storms(burst=2, per_s=1)
    for number in range(1000):
        found.admits(number, "x")
    clock.now += 10
    found.calmed()
    assert not found._sorts


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3)), max_size=200))
def test_nothing_is_lost_and_the_rate_holds(steps):
    found, clock = storms(burst=5, per_s=0.5)
    began, passed, told = clock.now, 0, 0
    for number, (sort, wait_s) in enumerate(steps):
        clock.now += wait_s
        passed += found.admits(sort, number)
        if number % 7 == 0:
            told += sum(count for _, count in found.calmed())
            passed += 0
    clock.now += 1000
    told += sum(count for _, count in found.calmed())
    assert passed + told == len(steps)
    assert passed <= 2 * (5 + 0.5 * (clock.now - 1000 - began)) + 2
