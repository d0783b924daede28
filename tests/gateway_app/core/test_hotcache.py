"""The hot cache: what is asked for often stays, what is asked for once never gets in, and no answer is another's."""

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_app.core import hotcache
from gateway_app.core.hotcache import MIN_COUNT, HotCache


def ask(cache: HotCache, key: int, text: bytes = b"") -> bool:
    """One request as the gateway makes it: whether it was answered, with the right output."""
    text = text or b"[%d]" % key
    kept = cache.get(key, text)
    if kept is not None:
        assert (kept.text, kept.output) == (text, b"out" + text)
        return True
    cache.offer(key, text, b"out" + text, "worker_1")
    return False


def test_it_takes_what_is_asked_for_the_third_time():
    cache = HotCache()
    assert [ask(cache, 7) for _ in range(MIN_COUNT + 2)] == [False] * MIN_COUNT + [True, True]
    assert (len(cache), cache.hits) == (1, 2)


def test_another_text_under_the_same_key_is_not_answered():
    cache = HotCache()
    for _ in range(MIN_COUNT):
        ask(cache, 7, b"[1]")
    assert cache.get(7, b"[1]") is not None
    assert cache.get(7, b"[2]") is None


def test_a_flood_of_new_inputs_does_not_drive_out_the_hot_ones(monkeypatch):
    monkeypatch.setattr(hotcache, "WINDOW", 1000)
    cache, random = HotCache(max_entries=10), Random(1)
    hot = Counter[bool]()
    for number in range(20_000):
        ask(cache, number + 1000)
        hot[ask(cache, random.randrange(10))] += 1
    assert hot[True] / hot.total() > 0.99


def test_what_has_cooled_down_makes_room(monkeypatch):
    monkeypatch.setattr(hotcache, "WINDOW", 50)
    cache = HotCache(max_entries=2)
    for key in [1, 2] * 20:
        ask(cache, key)
    for key in [3, 4] * 100:
        ask(cache, key)
    assert ask(cache, 3)
    assert ask(cache, 4)
    assert not ask(cache, 1)


def test_flush_forgets_the_outputs_and_not_how_often_they_are_asked_for():
    cache = HotCache()
    for _ in range(5):
        ask(cache, 1)
    cache.flush()
    assert (len(cache), cache.size_bytes) == (0, 0)
    assert [ask(cache, 1), ask(cache, 1)] == [False, True]


def test_a_very_long_text_is_not_kept():
    cache = HotCache()
    assert not any(ask(cache, 1, b"x" * (hotcache.MAX_TEXT_BYTES + 1)) for _ in range(10))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 60)), max_size=300), st.integers(0, 5), st.integers(0, 300)
)
def test_the_bounds_hold(requests: list[tuple[int, int]], max_entries: int, max_bytes: int):
    cache = HotCache(max_entries, max_bytes)
    for key, length in requests:
        ask(cache, key, b"%d" % key * length)
        kept = list(cache._entries.values())
        assert len(cache) == len(kept) <= max_entries
        assert cache.size_bytes == sum(len(each.text) + len(each.output) for each in kept) <= max_bytes
