"""The LRU against a model that is a plain list."""

import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from worker_app.core.lru import LRU

KEYS = st.integers(0, 9)
SIZES = st.integers(0, 60)


class LruMachine(RuleBasedStateMachine):
    """Entries as a list, the least recently used first."""

    def __init__(self) -> None:
        super().__init__()
        self.max_entries, self.max_bytes = 4, 100
        self.lru: LRU[int, int] = LRU(self.max_entries, self.max_bytes)
        self.entries: list[tuple[int, int, int]] = []  # key, value, size
        self.next_value = 0

    def shrink(self) -> None:
        while self.entries and (len(self.entries) > self.max_entries or self.used > self.max_bytes):
            self.entries.pop(0)

    @property
    def used(self) -> int:
        return sum(size for *_, size in self.entries)

    @rule(puts=st.lists(st.tuples(KEYS, SIZES | st.integers(90, 120)), min_size=1, max_size=6))
    def put_several(self, puts: list[tuple[int, int]]) -> None:
        for key, size in puts:
            self.put(key, size)

    def put(self, key: int, size: int) -> None:
        self.next_value += 1
        self.lru.put(key, self.next_value, size)
        self.entries = [entry for entry in self.entries if entry[0] != key]
        if size <= self.max_bytes:
            self.entries.append((key, self.next_value, size))
            self.shrink()

    @rule(key=KEYS, size=SIZES | st.integers(90, 120))
    def put_oldest(self, key: int, size: int) -> None:
        self.next_value += 1
        known = any(entry[0] == key for entry in self.entries)
        room = len(self.entries) < self.max_entries and self.used + size <= self.max_bytes
        assert self.lru.put_oldest(key, self.next_value, size) == (room and not known)
        if room and not known:
            self.entries.insert(0, (key, self.next_value, size))

    @rule(key=KEYS)
    def peek(self, key: int) -> None:
        assert self.lru.peek(key) == next((value for other, value, _ in self.entries if other == key), None)

    @rule(key=KEYS)
    def get(self, key: int) -> None:
        found = [entry for entry in self.entries if entry[0] == key]
        assert self.lru.get(key) == (found[0][1] if found else None)
        if found:
            self.entries.remove(found[0])
            self.entries.append(found[0])

    @rule(key=KEYS)
    def look(self, key: int) -> None:
        assert (key in self.lru) == any(entry[0] == key for entry in self.entries)

    @rule(max_entries=st.integers(0, 8), max_bytes=st.integers(0, 200))
    def resize(self, max_entries: int, max_bytes: int) -> None:
        self.max_entries, self.max_bytes = max_entries, max_bytes
        self.lru.resize(max_entries, max_bytes)
        self.shrink()

    @rule()
    def clear(self) -> None:
        self.lru.clear()
        self.entries.clear()

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert len(self.lru) == len(self.entries) <= self.max_entries
        assert self.lru.size_bytes == self.used <= self.max_bytes
        assert self.lru.newest_first() == [(key, value) for key, value, _ in reversed(self.entries)]

    @invariant()
    def would_forget_in_the_models_order(self) -> None:
        """Looked at in a copy that is made smaller by one entry at a time."""
        shrinking = copy.deepcopy(self.lru)
        for start in range(1, len(self.entries) + 1):
            shrinking.resize(len(self.entries) - start, self.max_bytes)
            assert {key for key in range(10) if key in shrinking} == {entry[0] for entry in self.entries[start:]}


LruMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestLruMachine = LruMachine.TestCase


def test_a_look_is_no_use() -> None:
    lru: LRU[str, int] = LRU(2, 100)
    lru.put("a", 1, 1)
    lru.put("b", 2, 1)
    assert "a" in lru
    lru.put("c", 3, 1)
    assert "a" not in lru


def test_an_entry_larger_than_the_budget_is_not_kept_and_evicts_nobody() -> None:
    lru: LRU[str, int] = LRU(10, 100)
    lru.put("a", 1, 60)
    lru.put("big", 2, 101)
    assert lru.get("big") is None
    assert lru.get("a") == 1
    assert lru.size_bytes == 60


def test_a_value_that_outgrew_the_budget_takes_its_stale_one_along() -> None:
    lru: LRU[str, int] = LRU(10, 100)
    lru.put("a", 1, 60)
    lru.put("a", 2, 101)
    assert lru.get("a") is None
    assert lru.size_bytes == 0


@pytest.mark.parametrize(("entries", "size_bytes"), [(0, 100), (10, 0), (0, 0)])
def test_a_cache_without_room_keeps_nothing(entries: int, size_bytes: int) -> None:
    lru: LRU[str, int] = LRU(entries, size_bytes)
    lru.put("a", 1, 1)
    assert lru.get("a") is None
    assert (len(lru), lru.size_bytes) == (0, 0)
