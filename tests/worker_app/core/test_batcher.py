"""The batcher against a model: order, bounds and the reason of every release."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from worker_app.core.batcher import FIRST, Batcher, Release, bucket_of

LIMIT = 12


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Item:
    """As the model of the batcher knows it."""

    number: int
    since_s: float
    rows: int
    group: str


class BatcherMachine(RuleBasedStateMachine):
    """Waiting items as a list, the oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.max_size, self.wait_s, self.eager = 4, 1.0, True
        self.batcher: Batcher[int] = Batcher(self.clock, max_size=4, wait_s=1.0, eager=True, limit=LIMIT)
        self.waiting: list[Item] = []
        self.accepted: list[int] = []
        self.taken: list[int] = []
        self.dropped: list[int] = []
        self.first: list[int] = []
        self.counts = dict.fromkeys(Release, 0)
        self.histogram: dict[int, dict[Release, int]] = {}
        self.rows = 0
        self.next_item = 0

    @rule(count=st.integers(1, 6), rows=st.sampled_from([1, 1, 1, 2, 3, 7]), group=st.sampled_from("aab"))
    def put(self, count: int, rows: int, group: str) -> None:
        for _ in range(count):
            self.next_item += 1
            room = sum(each.rows for each in self.waiting) < LIMIT
            assert self.batcher.put(self.next_item, rows, group) == room
            if room:
                self.waiting.append(Item(self.next_item, self.clock.now, rows, group))
                self.accepted.append(self.next_item)

    @rule(count=st.sampled_from([1, 1, 1, 5, FIRST]))
    def put_first(self, count: int) -> None:
        for _ in range(count):
            self.next_item += 1
            room = len(self.first) < FIRST
            assert self.batcher.put_first(self.next_item) == room
            if room:
                self.first.append(self.next_item)

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 4.0]))  # exact in binary, so that limits are met to the instant
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(every=st.integers(2, 4), rest=st.integers(-1, 3))
    def take(self, every: int, rest: int) -> None:
        """Takes a batch in which some are not wanted any more; none are if `rest` is out of reach."""

        def wanted(item: int) -> bool:
            return item % every != rest

        ahead: list[int] = []
        while self.first and not ahead:
            if wanted(item := self.first.pop(0)):
                ahead.append(item)  # alone
        batch: list[Item] = []
        timed_out = bool(self.waiting) and self.clock.now - self.waiting[0].since_s >= self.wait_s
        full = None
        if not ahead:
            batch, full = self.expected(wanted, timed_out)
        assert self.batcher.take(wanted) == ahead + [item.number for item in batch]
        assert not ahead or self.batcher.release is None
        if batch:
            lazy = not self.eager and timed_out
            release = Release.FULL if full else Release.TIMEOUT if lazy else Release.FREE
            assert self.batcher.release is release
            self.counts[release] += 1
            bucket = next(size for size in (1, 2, 4, 8, 16) if size >= sum(item.rows for item in batch))
            self.histogram.setdefault(bucket, dict.fromkeys(Release, 0))[release] += 1
            self.taken += [item.number for item in batch]
            self.rows += sum(item.rows for item in batch)
            assert len({item.group for item in batch}) == 1
            assert len(batch) == 1 or sum(item.rows for item in batch) <= self.max_size

    def expected(self, wanted: Callable[[int], bool], timed_out: bool) -> tuple[list[Item], bool]:
        """The next batch, and whether no more would have had room in it."""
        group = None
        if self.waiting and (self.eager or timed_out):
            group = self.waiting[0].group
        elif full := self.full_groups():
            group = full[0]
        batch: list[Item] = []
        for item in [each for each in self.waiting if each.group == group]:
            size = sum(each.rows for each in batch)
            if size >= self.max_size or (batch and size + item.rows > self.max_size):
                return batch, True
            self.waiting.remove(item)
            if wanted(item.number):
                batch.append(item)
            else:
                self.dropped.append(item.number)
        return batch, sum(each.rows for each in batch) >= self.max_size

    def full_groups(self) -> list[str]:
        """Those with enough for a batch, in the order in which their oldest came."""
        groups = dict.fromkeys(each.group for each in self.waiting)
        return [g for g in groups if sum(each.rows for each in self.waiting if each.group == g) >= self.max_size]

    @rule(place=st.integers(0, LIMIT))
    def discard(self, place: int) -> None:
        if place < len(self.waiting):
            item = self.waiting.pop(place).number
            self.dropped.append(item)
            assert self.batcher.discard(item)
            assert not self.batcher.discard(item)
        elif self.first:
            assert self.batcher.discard(self.first.pop(place % len(self.first)))
        for gone in (*self.taken[-2:], *self.dropped[-2:]):
            assert not self.batcher.discard(gone)

    @rule()
    def wait_as_long_as_it_says(self) -> None:
        due_s = self.batcher.due_in()
        assert (due_s is None) == (not self.waiting and not self.first)
        if due_s is not None:
            self.clock.now += due_s
            assert self.batcher.due_in() == 0.0
            self.take(2, -1)

    @rule(max_size=st.integers(1, 6), wait_s=st.sampled_from([0.0, 0.5, 2.0]), eager=st.booleans())
    def configure(self, max_size: int, wait_s: float, eager: bool) -> None:
        self.batcher.configure(max_size=max_size, wait_s=wait_s, eager=eager)
        self.max_size, self.wait_s, self.eager = max_size, wait_s, eager

    @invariant()
    def says_when_the_next_batch_is_due(self) -> None:
        expected = None
        if self.waiting:
            at_once = self.eager or self.full_groups()
            expected = 0.0 if at_once else max(0.0, self.waiting[0].since_s + self.wait_s - self.clock.now)
        if self.first:
            expected = 0.0
        assert self.batcher.due_in() == expected

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert len(self.batcher) == len(self.waiting)
        assert self.batcher.rows == sum(each.rows for each in self.waiting)
        assert self.batcher.first == len(self.first)
        assert self.batcher.counts == self.counts
        assert self.batcher.histogram == self.histogram
        assert self.batcher.batches == sum(self.counts.values())
        assert self.batcher.taken == self.rows
        assert self.accepted == sorted(self.taken + self.dropped + [item.number for item in self.waiting])
        if self.taken:
            assert self.batcher.mean_size == pytest.approx(self.rows / self.batcher.batches)

    def teardown(self) -> None:
        self.configure(3, 0.0, True)
        while self.waiting or self.first:
            self.take(2, -1)
        assert sorted(self.taken + self.dropped) == self.accepted
        assert self.batcher.due_in() is None


BatcherMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestBatcherMachine = BatcherMachine.TestCase


def test_not_eager_it_waits_for_its_oldest_item() -> None:
    clock = Clock()
    batcher: Batcher[str] = Batcher(clock, max_size=3, wait_s=0.5, eager=False)
    assert batcher.due_in() is None
    assert batcher.mean_size == 0.0
    batcher.put("a")
    clock.now += 0.25
    batcher.put("b")
    assert batcher.due_in() == 0.25
    assert batcher.take() == []
    clock.now += 0.25
    assert batcher.take() == ["a", "b"]
    assert batcher.counts == {Release.FULL: 0, Release.TIMEOUT: 1, Release.FREE: 0}
    for item in "cdef":
        batcher.put(item)
    assert batcher.take() == ["c", "d", "e"]
    assert batcher.take() == []
    assert batcher.counts == {Release.FULL: 1, Release.TIMEOUT: 1, Release.FREE: 0}
    assert batcher.mean_size == 2.5


def test_new_limits_hold_for_what_waits_already() -> None:
    clock = Clock()
    batcher: Batcher[str] = Batcher(clock, max_size=32, wait_s=60, eager=False)
    for item in "abc":
        batcher.put(item)
    batcher.configure(max_size=2, wait_s=60, eager=False)
    assert batcher.take() == ["a", "b"]
    assert batcher.take() == []
    batcher.configure(max_size=32, wait_s=0.0, eager=False)
    assert batcher.take() == ["c"]


def test_a_group_never_waits_for_another_that_is_asked_more() -> None:
    clock = Clock()
    batcher: Batcher[str] = Batcher(clock, max_size=2, wait_s=60, eager=True)
    batcher.put("a1", group="a")
    batcher.put("b1", group="b")
    for number in range(2, 5):
        batcher.put(f"a{number}", group="a")
    assert [batcher.take() for _ in range(4)] == [["a1", "a2"], ["b1"], ["a3", "a4"], []]


def test_who_has_more_rows_than_a_batch_runs_alone() -> None:
    batcher: Batcher[str] = Batcher(Clock(), max_size=4, wait_s=0)
    for item, rows in (("a", 2), ("large", 9), ("b", 2), ("c", 2), ("d", 1)):
        batcher.put(item, rows)
    assert batcher.rows == 16
    assert [batcher.take() for _ in range(4)] == [["a"], ["large"], ["b", "c"], ["d"]]
    assert batcher.counts == {Release.FULL: 3, Release.TIMEOUT: 0, Release.FREE: 1}
    assert batcher.mean_size == 4.0


@pytest.mark.parametrize(
    ("rows", "bucket"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (32, 32), (33, 64), (1024, 1024), (1025, 2048)]
)
def test_sizes_are_counted_under_the_next_power_of_two(rows: int, bucket: int) -> None:
    assert bucket_of(rows) == bucket
