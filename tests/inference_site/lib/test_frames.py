"""Frames: what goes in comes out, and what is not whole is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_site.lib import frames

ASK = st.tuples(
    st.integers(0, 255),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=80),
)
TELL = st.tuples(
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=80),
    st.integers(0, 2**32 - 1),
)


def pack_ask(frame: tuple[int, int, int, int, bytes]) -> bytes:
    kind, model, ident, left_ms, payload = frame
    return frames.ask(kind, ident, payload, left_ms, model)


def pack_tell(frame: tuple[int, int, int, int, int, bytes, int]) -> bytes:
    kind, cache, status, ident, time_us, payload, check = frame
    return frames.tell(kind, ident, payload, status, cache, time_us, check)


@settings(max_examples=100, deadline=None)
@given(st.lists(ASK, max_size=8))
def test_requests_come_out_as_they_went_in(sent: list[tuple[int, int, int, int, bytes]]) -> None:
    assert frames.asks(b"".join(map(pack_ask, sent))) == sent


@settings(max_examples=100, deadline=None)
@given(st.lists(TELL, max_size=8))
def test_replies_come_out_as_they_went_in(sent: list[tuple[int, int, int, int, int, bytes, int]]) -> None:
    assert frames.tells(b"".join(map(pack_tell, sent))) == sent


@settings(max_examples=100, deadline=None)
@given(st.lists(ASK, min_size=1, max_size=4), st.lists(TELL, min_size=1, max_size=4), st.data())
def test_a_cut_message_is_refused_or_ends_with_a_whole_frame(
    asked: list[tuple[int, int, int, int, bytes]],
    told: list[tuple[int, int, int, int, int, bytes, int]],
    data: st.DataObject,
) -> None:
    message = b"".join(map(pack_ask, asked))
    cut = data.draw(st.integers(0, len(message)))
    whole = [len(b"".join(map(pack_ask, asked[:count]))) for count in range(len(asked) + 1)]
    if cut in whole:
        assert frames.asks(message[:cut]) == asked[: whole.index(cut)]
    else:
        with pytest.raises(ValueError, match="bytes"):
            frames.asks(message[:cut])
    message = b"".join(map(pack_tell, told))
    cut = data.draw(st.integers(0, len(message)))
    whole = [len(b"".join(map(pack_tell, told[:count]))) for count in range(len(told) + 1)]
    if cut in whole:
        assert frames.tells(message[:cut]) == told[: whole.index(cut)]
    else:
        with pytest.raises(ValueError, match="bytes"):
            frames.tells(message[:cut])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_whole_frames_or_a_value_error(message: bytes) -> None:
    try:
        asked = frames.asks(message)
    except ValueError:
        pass
    else:
        assert sum(frames.ASK_HEAD_BYTES + len(payload) for *_, payload in asked) == len(message)
    try:
        told = frames.tells(message)
    except ValueError:
        pass
    else:
        assert b"".join(map(pack_tell, told)) == message


@settings(max_examples=100, deadline=None)
@given(st.lists(TELL, min_size=1, max_size=3), st.data())
def test_a_flipped_bit_never_gives_more_than_the_message_holds(
    told: list[tuple[int, int, int, int, int, bytes, int]], data: st.DataObject
) -> None:
    message = bytearray(b"".join(map(pack_tell, told)))
    message[data.draw(st.integers(0, len(message) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = frames.tells(bytes(message))
    except ValueError:
        return
    assert b"".join(map(pack_tell, found)) == bytes(message)


def test_a_length_beyond_the_message_is_named() -> None:
    with pytest.raises(ValueError, match="a frame says 4294967295 bytes, 2 are there"):
        frames.asks(frames.pack_ask_head(1, 1, 1, 0xFFFFFFFF, 0) + b"ab")


def test_a_time_beyond_its_field_is_cut_not_an_error() -> None:
    ((_, _, _, _, time_us, _, _),) = frames.tells(frames.tell(frames.Tell.RESULT, 1, b"", time_us=2**40))
    assert time_us == 0xFFFFFFFF


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=80), st.integers(0, 2**64 - 1), st.data())
def test_a_check_knows_its_output_and_its_input(output: bytes, key: int, data: st.DataObject) -> None:
    check = frames.check_of(output, key)
    assert 0 <= check < 2**32
    assert frames.check_of(output, key ^ 1 << data.draw(st.integers(0, 63))) != check
    assert frames.check_of(output[:-1], key) != check
