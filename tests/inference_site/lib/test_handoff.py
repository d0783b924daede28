"""Results on their way from one worker to another."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_site.lib import handoff
from inference_site.lib.handoff import Entries, Entry

KEYS = st.binary(max_size=50) | st.text(max_size=50)
ENTRIES = st.builds(
    Entries,
    st.text(max_size=20),
    st.text(max_size=3),
    st.text(max_size=64),
    st.lists(st.builds(Entry, st.integers(0, 2**64 - 1), KEYS, KEYS, st.binary(max_size=50)), max_size=5),
)


@given(entries=ENTRIES)
def test_what_is_sent_arrives(entries: Entries) -> None:
    assert handoff.decode(handoff.encode(entries)) == entries


@given(garbage=st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        handoff.decode(b"\xc1" + garbage)  # a byte that msgpack never begins with


@pytest.mark.parametrize(
    "entry",
    [
        (1, 2, b"key", b"output"),
        (1, b"alias", [b"key"], b"output"),
        (1, b"alias", None, b"output"),
        (1, b"alias", b"key", "output"),
        (1.5, b"alias", b"key", b"output"),
        (-1, b"alias", b"key", b"output"),
        (1, b"alias", b"key"),
    ],
)
def test_entries_of_another_shape_are_refused(entry: tuple[object, ...]) -> None:
    with pytest.raises(msgspec.ValidationError):
        handoff.decode(msgspec.msgpack.encode(("name", "1", "digest", [entry])))


@given(entries=ENTRIES, cut=st.integers(1, 1000))
def test_a_frame_that_is_cut_off_is_refused(entries: Entries, cut: int) -> None:
    whole = handoff.encode(entries)
    with pytest.raises(msgspec.DecodeError):
        handoff.decode(whole[: max(0, len(whole) - cut)])
