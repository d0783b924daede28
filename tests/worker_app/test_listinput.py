"""From a JSON list to one input's tensor: exact or refused, never bent."""

import math

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_site.lib.datatypes import NUMPY
from inference_site.lib.errors import ApiError
from worker_app.jsontensors import INPUT_DATA, Place
from worker_app.listinput import ListInput
from worker_app.signature import Tensor

DATATYPES = {dtype: name for name, dtype in NUMPY.items()}


class Flat:
    """`sample`: the bytes of a flat list for an input of [batch, *shape]."""

    def __init__(self, dtype: str, shape: tuple[int | str | None, ...], pad: bool) -> None:
        self.input = ListInput(Tensor("input", DATATYPES[np.dtype(dtype)], ("batch", *shape)), True, pad)

    def sample(self, body: bytes) -> bytes:
        array = self.input.read(body, INPUT_DATA)
        if self.input.fixed_shape is not None:
            assert array.shape == self.input.fixed_shape
            assert self.input.fixed(body).tobytes() == array.tobytes()
        return array.tobytes()


def spec(dtype: str = "f4", shape: tuple[int | str | None, ...] = (3,), pad: bool = False) -> Flat:
    return Flat(dtype, shape, pad)


def named(datatype: str, *dims: int | str | None, batch_axis: bool = True) -> ListInput:
    return ListInput(Tensor("a", datatype, dims), batch_axis, False)


A = Place("inputs.a")


def text(values: object) -> bytes:
    return orjson.dumps(values)


def refused(found: Flat, body: bytes) -> ApiError:
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
    assert found.input.fixed_shape is None
    assert found.input.read(text([0.5] * 12), INPUT_DATA).shape == (1, 2, 2, 3)
    for count in (0, 5, 7):
        error = refused(found, text([0.5] * count))
        assert (error.status, error.code) == (422, "wrong_input_size")
        assert "multiple of 6" in error.message


def test_a_scalar_takes_one_number() -> None:
    assert spec(shape=()).sample(b"[2]") == np.array(2, "f4").tobytes()
    assert refused(spec(shape=()), b"[1,2]").status == 422


@pytest.mark.parametrize("body", [b"[1,2,NaN]", b"[1,2,1e999]", b'[1,2,"3"]', b"[1,2,true]", b"[[1,2,3]]", b"[1,2,3"])
def test_what_is_no_list_of_numbers_is_400_for_every_type(body: bytes) -> None:
    for dtype in DATATYPES:
        if dtype.kind != "O":
            assert refused(spec(dtype.str), body).status == 400


def test_strings_are_taken_where_the_model_takes_strings() -> None:
    found = named("BYTES", "batch", 2)
    assert found.fixed('["é", ""]'.encode()).tolist() == ["é", ""]
    for body in (b"[1, 2]", b'["a", null]', b'["a", "\xff"]'):
        with pytest.raises(ApiError) as caught:
            found.fixed(body)
        assert caught.value.status == 400
    assert ListInput(Tensor("a", "BYTES", ("batch", 2)), True, True).fixed(b'["x"]').tolist() == ["x", ""]


def test_a_nested_list_says_its_shape_itself() -> None:
    found = named("FP32", "batch", "n", "m")
    array = found.read(b"[[1,2,3],[4,5,6]]", A)
    np.testing.assert_array_equal(array, [[[1, 2, 3], [4, 5, 6]]])
    np.testing.assert_array_equal(found.read(b" [ [[1,2]] ]", A), [[[1, 2]]])  # with the batch axis
    for body in (b"[[[1,2]],[[3,4]]]", b"[[[[1]]]]"):
        with pytest.raises(ApiError, match=r"inputs\.a has shape .*takes \[n, m\]") as caught:
            found.read(body, A)
        assert caught.value.status == 422


def test_a_flat_list_for_several_sizes_that_vary_is_refused_with_the_way_out() -> None:
    with pytest.raises(ApiError, match=r"has 2 sizes that vary; send it nested") as caught:
        named("FP32", "batch", "n", "m").read(b"[1,2,3,4]", A)
    assert (caught.value.status, caught.value.code) == (422, "ambiguous_shape")


@pytest.mark.parametrize("body", [b"[[1,2],[3]]", b"[[1],[]]", b"[[1,2],[3,4,5]]"])
def test_a_ragged_list_is_400_and_says_so(body: bytes) -> None:
    with pytest.raises(ApiError, match=r"inputs\.a is ragged: lists of \d and of \d items") as caught:
        named("FP32", "batch", "n", "m").read(body, A)
    assert caught.value.status == 400


def test_a_bad_item_of_a_nested_list_is_named_by_its_place() -> None:
    with pytest.raises(ApiError, match=r"inputs\.a\[1\]\[0\] is null") as caught:
        named("INT64", "batch", "n", "m").read(b"[[1,2],[null,4]]", A)
    assert caught.value.status == 400
    with pytest.raises(ApiError, match=r"inputs\.a\[1\]\[1\] is 300; .*uint8.* from 0 to 255") as caught:
        named("UINT8", "batch", "n", "m").read(b"[[1,2],[3,300]]", A)
    assert (caught.value.status, caught.value.code) == (422, "value_out_of_range")


def test_by_name_true_and_false_are_booleans_where_the_model_takes_them() -> None:
    np.testing.assert_array_equal(named("BOOL", "batch", "n").read(b"[true,0,1.0,false]", A), [[1, 0, 1, 0]])
    with pytest.raises(ApiError) as caught:
        named("INT8", "batch", "n").read(b"[true]", A)
    assert caught.value.status == 400


def test_without_a_batch_axis_the_whole_tensor_is_meant() -> None:
    assert named("FP32", "n", batch_axis=False).read(b"[1,2,3]", A).shape == (3,)
    assert named("FP32", 2, 2, batch_axis=False).read(b"[[1,2],[3,4]]", A).shape == (2, 2)
    assert named("FP32", 1, 4, batch_axis=False).read(b"[1,2,3,4]", A).shape == (1, 4)
    assert named("FP32", "rows", 4, batch_axis=False).read(b"[1,2,3,4]", A).shape == (1, 4)
    assert named("FP32", "rows", 2, batch_axis=False).read(b"[[1,2],[3,4]]", A).shape == (2, 2)
    assert named("FP32", batch_axis=False).read(b"[5]", A).shape == ()


@pytest.mark.parametrize("body", [b"5", b"null", b"{}", b'"a"', b"[" * 40 + b"]" * 40, b"[" * 100_000, b"[1,", b""])
def test_what_is_no_list_is_400(body: bytes) -> None:
    with pytest.raises(ApiError, match=r"inputs\.a") as caught:
        named("FP32", "batch", "n").read(body, A)
    assert caught.value.status == 400
