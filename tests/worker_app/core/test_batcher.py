"""The batcher against a model: order, bounds and the reason of every release."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from worker_app.core.batcher import FIRST, Batcher, Release

LIMIT = 12


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class BatcherMachine(RuleBasedStateMachine):
    """Waiting items as a list of (item, since when), the oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.max_size, self.wait_s, self.eager = 4, 1.0, True
        self.batcher: Batcher[int] = Batcher(self.clock, max_size=4, wait_s=1.0, eager=True, limit=LIMIT)
        self.waiting: list[tuple[int, float]] = []
        self.accepted: list[int] = []
        self.taken: list[int] = []
        self.dropped: list[int] = []
        self.first: list[int] = []
        self.counts = dict.fromkeys(Release, 0)
        self.next_item = 0

    @rule(count=st.integers(1, 6))
    def put(self, count: int) -> None:
        for _ in range(count):
            self.next_item += 1
            room = len(self.waiting) < LIMIT
            assert self.batcher.put(self.next_item) == room
            if room:
                self.waiting.append((self.next_item, self.clock.now))
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
        timed_out = bool(self.waiting) and self.clock.now - self.waiting[0][1] >= self.wait_s
        due = bool(self.waiting) and (self.eager or len(self.waiting) >= self.max_size or timed_out)
        expected: list[int] = []
        while due and self.waiting and len(expected) < self.max_size and not ahead:
            item, _ = self.waiting.pop(0)
            (expected if wanted(item) else self.dropped).append(item)
        assert self.batcher.take(wanted) == ahead + expected
        if expected:
            full, lazy = len(expected) == self.max_size, not self.eager and timed_out
            self.counts[Release.FULL if full else Release.TIMEOUT if lazy else Release.FREE] += 1
            self.taken += expected

    @rule(place=st.integers(0, LIMIT))
    def discard(self, place: int) -> None:
        if place < len(self.waiting):
            item, _ = self.waiting.pop(place)
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
            at_once = self.eager or len(self.waiting) >= self.max_size
            expected = 0.0 if at_once else max(0.0, self.waiting[0][1] + self.wait_s - self.clock.now)
        if self.first:
            expected = 0.0
        assert self.batcher.due_in() == expected

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert len(self.batcher) == len(self.waiting) <= LIMIT
        assert self.batcher.counts == self.counts
        assert self.batcher.batches == sum(self.counts.values())
        assert self.batcher.items == len(self.taken)
        assert self.accepted == sorted(self.taken + self.dropped + [item for item, _ in self.waiting])
        assert self.taken == sorted(self.taken)
        if self.taken:
            assert self.batcher.mean_size == pytest.approx(len(self.taken) / self.batcher.batches)

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
