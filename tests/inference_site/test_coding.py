"""Compressed bodies: what goes in comes out, within bounds, and what is none is refused."""

import gc
import gzip
import weakref
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_site.coding import InThread, Unpacker, pack, read_accepted, read_coding
from inference_site.lib.errors import ApiError
from tests.support.waiting import until

BODIES = st.binary(max_size=300) | st.integers(0, 200_000).map(bytes)


def packed_by(coding: str, body: bytes) -> bytes:
    if coding == "gzip":
        return gzip.compress(body)
    if coding == "deflate":
        return zlib.compress(body)
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@settings(max_examples=200, deadline=None)
@given(BODIES, st.sampled_from(["gzip", "deflate", "bare"]), st.integers(0, 300))
def test_a_body_comes_out_in_one_go_or_two(body: bytes, coding: str, up_to: int) -> None:
    unpacker = Unpacker("gzip" if coding == "gzip" else "deflate", packed_by(coding, body), 200_000)
    first = unpacker.unpack(up_to)
    assert (first is None) == (len(body) > up_to)
    assert (unpacker.unpack() if first is None else first) == body


@settings(max_examples=200, deadline=None)
@given(BODIES, st.sampled_from(["gzip", "deflate", "bare"]), st.integers(0, 200_000), st.none() | st.integers(0, 500))
def test_no_more_than_the_limit_is_made(body: bytes, coding: str, limit: int, up_to: int | None) -> None:
    unpacker = Unpacker("gzip" if coding == "gzip" else "deflate", packed_by(coding, body), limit)
    try:
        found = unpacker.unpack(up_to)
        if found is None:
            found = unpacker.unpack()
    except ApiError as error:
        assert (error.status, error.code) == (413, "body_too_large")
        assert len(body) > limit
        assert sum(map(len, unpacker._parts)) <= limit + 1
    else:
        assert len(body) <= limit
        assert found == body


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_a_stream_or_an_api_error(data: bytes, coding: str) -> None:
    for body in (data, b"\x1f\x8b\x08\0" + data, b"\x78\x9c" + data):
        try:
            Unpacker(coding, body, 10_000).unpack()
        except ApiError as error:
            assert error.status in (400, 413)


@settings(max_examples=200, deadline=None)
@given(BODIES, st.sampled_from(["gzip", "deflate"]), st.data())
def test_a_stream_that_is_cut_off_or_goes_on_is_refused(body: bytes, coding: str, data: st.DataObject) -> None:
    packed = packed_by(coding, body)
    for wrong in (packed[: data.draw(st.integers(0, len(packed) - 1))], packed + b"x", packed + packed):
        with pytest.raises(ApiError) as caught:
            Unpacker(coding, wrong, 200_000).unpack()
        assert caught.value.code == "invalid_compression"


@settings(max_examples=50, deadline=None)
@given(BODIES)
def test_what_is_packed_here_is_what_others_unpack(body: bytes) -> None:
    assert gzip.decompress(pack("gzip", body)) == body
    assert zlib.decompress(pack("deflate", body)) == body


def test_the_names_of_codings() -> None:
    assert [read_coding(value) for value in ("gzip", " X-GZIP", "Deflate ", "identity", "")] == [
        "gzip", "gzip", "deflate", "", "",
    ]  # fmt: skip
    for value in ("br", "gzip, deflate", "gzip,gzip", "zstd", "x" * 1000):
        with pytest.raises(ApiError) as caught:
            read_coding(value)
        assert caught.value.status == 415
        assert len(caught.value.message) < 200
    assert [read_accepted(value) for value in ("gzip", "deflate", "gzip, deflate", "GZIP", "*", "")] == [
        "gzip", "deflate", "", "", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize("body", [gzip.compress(b"1" * 20_000), b"no stream"], ids=["too large", "no stream"])
async def test_what_was_refused_is_let_go_at_once(body: bytes) -> None:
    unpacker = Unpacker("gzip", body, 10_000)
    gone, failures = weakref.ref(unpacker), []
    gc.disable()  # a body that only the collector finds is one of many by then
    try:
        InThread(unpacker.unpack, lambda body: None, lambda error: failures.append(error.status))
        del unpacker
        await until(lambda: failures and gone() is None)
    finally:
        gc.enable()
    assert failures[0] in (400, 413)
