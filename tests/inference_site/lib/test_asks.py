"""Asks and results of V2: what goes in comes out, and what is not whole is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_site.lib import asks

RAW = st.lists(st.binary(max_size=20), max_size=4)


@settings(max_examples=100, deadline=None)
@given(st.none() | st.just([{"name": "y"}]), st.booleans(), RAW)
def test_an_ask_comes_apart_into_what_was_put_together(outputs: object, binary: bool, tensors: list[bytes]) -> None:
    inputs = [{"name": "ü", "shape": [1], "datatype": "FP32", "data": [1.50]}]
    text = None if outputs is None else json.dumps(outputs).encode()
    views: list[asks.Bytes] = [memoryview(each) if n % 2 else bytearray(each) for n, each in enumerate(tensors)]
    ask = asks.pack_v2(memoryview(json.dumps(inputs).encode()), text, binary, *views)
    assert ask[0] == asks.V2
    head, raw = asks.unpack_v2(ask)
    expected = {"inputs": inputs} | ({"outputs": outputs} if outputs else {})
    assert json.loads(bytes(head)) == expected | ({"binary_data_output": True} if binary else {})
    assert raw == b"".join(tensors)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_result_comes_apart_into_what_was_put_together(outputs: bytes, tensors: bytes) -> None:
    head, raw = asks.unpack_v2_result(asks.pack_v2_result(outputs, tensors))
    assert (bytes(head), bytes(raw)) == (outputs, tensors)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=20))
def test_any_bytes_are_whole_or_a_value_error(data: bytes) -> None:
    for unpack in (asks.unpack_v2, asks.unpack_v2_result):
        try:
            head, rest = unpack(data)
        except ValueError:
            continue
        assert len(head) + len(rest) <= len(data)


@pytest.mark.parametrize("ask", [b"", b"\x02", b"\x02\x05\0\0\0abcd"])
def test_an_ask_that_is_cut_off_is_named(ask: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        asks.unpack_v2(ask)


def test_the_same_ask_of_another_model_or_version_has_another_key() -> None:
    seeds = {asks.seed_of(name, version) for name in ("a", "b", "a1", "ü") for version in ("1", "2", "11")}
    assert len(seeds) == 12
    assert len({asks.key_of(b"[1]", seed) for seed in seeds}) == 12
    assert asks.key_of(b"[1]", asks.seed_of("a", "1")) == asks.key_of(b"[1]", asks.seed_of("a", "1"))
