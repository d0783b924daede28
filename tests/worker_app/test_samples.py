"""From numbers to a sample's bytes: exact or refused, never bent."""

import math

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_site.lib.errors import ApiError
from worker_app.samples import SERVABLE, InputSpec


def spec(dtype: str = "f4", shape: tuple[int | None, ...] = (3,), pad: bool = False) -> InputSpec:
    return InputSpec("input", np.dtype(dtype), shape, pad)


def text(values: object) -> bytes:
    return orjson.dumps(values)


def refused(found: InputSpec, body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        found.sample(body)
    return caught.value


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_every_float32_arrives_bit_for_bit(values: list[float]) -> None:
    assert spec().sample(text(values)) == np.array(values, "f4").tobytes()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_every_double_arrives_bit_for_bit(values: list[float]) -> None:
    assert spec("f8").sample(text(values)) == np.array(values, "f8").tobytes()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["f2", "f4"]), st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4))
def test_a_float_sample_is_finite_and_nearest_or_refused(dtype: str, values: list[float]) -> None:
    found = spec(dtype, (len(values),))
    try:
        sample = np.frombuffer(found.sample(text(values)), dtype)
    except ApiError as error:
        assert (error.status, error.code) == (422, "value_out_of_range")
        assert any(math.fabs(value) > float(np.finfo(dtype).max) for value in values)
    else:
        assert np.isfinite(sample).all()
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(sample, np.array(values, dtype))


@pytest.mark.parametrize(
    ("dtype", "fits", "beyond"),
    [
        ("f2", 65504.0, 65536.0),
        ("f2", -65504.0, -7e4),
        ("f4", 3.4028234663852886e38, 3.5e38),
        ("f4", -3.4028234663852886e38, -1e39),
        ("f8", 1.7976931348623157e308, None),
    ],
)
def test_the_largest_float_fits_and_what_is_beyond_is_named(dtype: str, fits: float, beyond: float | None) -> None:
    sample = np.frombuffer(spec(dtype).sample(text([fits, fits, 1.0])), dtype)
    assert float(sample[0]) == fits
    if beyond is not None:
        error = refused(spec(dtype), text([1.0, beyond, 1.0]))
        assert (error.status, error.code) == (422, "value_out_of_range")
        assert "input_data[1]" in error.message
        assert repr(beyond) in error.message


def test_many_large_values_whose_squares_overflow_are_still_taken() -> None:
    values = [3e38] * 100
    assert np.isfinite(np.frombuffer(spec(shape=(100,)).sample(text(values)), "f4")).all()


def test_minus_zero_keeps_its_sign() -> None:
    assert spec().sample(b"[-0.0,0.0,-0]")[:8] == np.array([-0.0, 0.0], "f4").tobytes()


INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(INTEGERS), st.integers(-(2**54), 2**54) | st.integers(-300, 300) | st.integers(-(2**33), 2**33))
def test_an_integer_arrives_exactly_or_is_refused(dtype: str, value: int) -> None:
    fits = np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    found = spec(dtype, (1,))
    if fits:
        assert int(np.frombuffer(found.sample(text([value])), dtype)[0]) == value
    else:
        error = refused(found, text([value]))
        assert (error.status, error.code) == (422, "value_out_of_range")
        assert "input_data[0]" in error.message


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
def test_a_whole_number_that_a_float_cannot_hold_is_not_bent_to_its_neighbour(value: int) -> None:
    assert spec("i8", (1,)).sample(text([value])) == np.array([value], "i8").tobytes()
    if abs(value) < 2**60:
        assert refused(spec("i8", (1,)), f"[{value}.0]".encode()).code == "value_out_of_range"


@pytest.mark.parametrize("value", [0.5, -1.5, 1e-9, 1e300])
def test_a_fraction_is_no_integer(value: float) -> None:
    error = refused(spec("i4", (1,)), text([value]))
    assert error.status == 422
    assert repr(value) in error.message


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert spec("i4").sample(b"[1.0,-0.0,3e2]") == np.array([1, 0, 300], "i4").tobytes()


def test_booleans_are_zero_and_one() -> None:
    assert spec("?").sample(b"[0,1,1.0]") == b"\0\1\1"
    for value in (2, -1, 0.5):
        assert refused(spec("?", (1,)), text([value])).status == 422
    assert refused(spec("?", (1,)), b"[true]").status == 400  # true is no number


def test_too_few_and_too_many_name_both_numbers() -> None:
    for count in (0, 2, 4, 1000):
        error = refused(spec(), text([1.0] * count))
        assert (error.status, error.code) == (422, "wrong_input_size")
        assert f"{count} values" in error.message
        assert "exactly 3" in error.message


def test_padding_fills_up_with_zeros_but_never_cuts() -> None:
    assert spec(pad=True).sample(b"[1]") == np.array([1, 0, 0], "f4").tobytes()
    assert spec(pad=True).sample(b"[]") == bytes(12)
    assert spec("i8", pad=True).sample(b"[5]") == np.array([5, 0, 0], "i8").tobytes()
    assert refused(spec(pad=True), b"[1,2,3,4]").status == 422


def test_a_dimension_that_varies_takes_what_divides() -> None:
    found = spec(shape=(2, None, 3))
    assert found.values is None
    sample = found.sample(text([0.5] * 12))
    assert found.shape_of(sample) == (2, 2, 3)
    for count in (0, 5, 7):
        error = refused(found, text([0.5] * count))
        assert (error.status, error.code) == (422, "wrong_input_size")
        assert "multiple of 6" in error.message


def test_a_scalar_takes_one_number() -> None:
    assert spec(shape=()).sample(b"[2]") == np.array(2, "f4").tobytes()
    assert refused(spec(shape=()), b"[1,2]").status == 422


@pytest.mark.parametrize("body", [b"[1,2,NaN]", b"[1,2,1e999]", b'[1,2,"3"]', b"[1,2,true]", b"[[1,2,3]]", b"[1,2,3"])
def test_what_is_no_list_of_numbers_is_400_for_every_type(body: bytes) -> None:
    for dtype in SERVABLE.values():
        assert refused(InputSpec("input", dtype, (3,)), body).status == 400
