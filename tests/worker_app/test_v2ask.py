"""Asks of the Open Inference Protocol: every datatype arrives as it is and goes back so; what is wrong is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference_site.lib.asks import unpack_v2_result
from inference_site.lib.datatypes import NUMPY
from inference_site.lib.errors import ApiError
from tests.support import onnx_models, onnx_types
from tests.support.engines import answers, ask, binary_ask, json_ask, load, raw_ask
from worker_app.engine import Engine

RNG = np.random.default_rng(1)
TENSOR = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(onnx_models.linear(tmp_path_factory.mktemp("linear") / "m.onnx"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(onnx_types.mixed(tmp_path_factory.mktemp("mixed") / "m.onnx"))


def extremes(datatype: str) -> np.ndarray:
    """[3, 3] values of a datatype, its limits among them."""
    dtype = NUMPY[datatype]
    if datatype == "BYTES":
        return np.array([["", "é", "a\0b"], ['"', "\n", "数"], ["x" * 300, "NaN", " "]], object)
    if dtype.kind == "b":
        return RNG.integers(0, 2, (3, 3)).astype("?")
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([[limits.min, limits.max, 0], [1, 2, 3], [100, 101, 102]]).astype(dtype)


@pytest.mark.parametrize("datatype", NUMPY)
def test_every_datatype_arrives_and_returns_as_it_is(tmp_path: Path, datatype: str) -> None:
    engine = load(onnx_types.identity(tmp_path / "m.onnx", datatype))
    array = extremes(datatype)
    for payload in (
        binary_ask({"input": array}),
        binary_ask({"input": array}, [{"name": "output"}]),
        json_ask({"input": array}),
        json_ask({"input": array}, [{"name": "output", "parameters": {"binary_data": True}}], nested=True),
    ):
        found = answers(ask(engine, payload))["output"]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
        if array.dtype.kind != "O":
            assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("datatype", [name for name in NUMPY if name != "BYTES"])
def test_a_list_of_every_datatype_is_answered_with_one(tmp_path: Path, datatype: str) -> None:
    engine = load(onnx_types.identity(tmp_path / "m.onnx", datatype))
    for payload in (b"[0,1,1]", b'{"input":[0,1,1]}', b'{"input":[[0,1,1]]}'):
        assert json.loads(ask(engine, payload)) == [0, 1, 1]  # type: ignore[arg-type]


def test_strings_in_lists_are_answered_with_strings(tmp_path: Path) -> None:
    engine = load(onnx_types.identity(tmp_path / "m.onnx", "BYTES"))
    assert ask(engine, '["é","","x"]'.encode()) == '["é","","x"]'.encode()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.integers(1, 3), n=st.integers(1, 3), data=st.data())
def test_several_inputs_of_several_datatypes(mixed: Engine, rows: int, n: int, data: st.DataObject) -> None:
    floats = np.array(data.draw(st.lists(st.floats(-9, 9, width=32), min_size=2 * rows, max_size=2 * rows)), "f4")
    whole = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=rows, max_size=rows)), "i8")
    words = np.array(data.draw(st.lists(st.text(max_size=5), min_size=n * rows, max_size=n * rows)), object)
    inputs = {"floats": floats.reshape(rows, 2), "whole": whole, "words": words.reshape(rows, n)}
    backwards = dict(reversed(inputs.items()))
    results = [answers(ask(mixed, make(each))) for make in (binary_ask, json_ask) for each in (inputs, backwards)]
    for found in results:
        assert list(found) == ["sums", "same", "doubled"]
        np.testing.assert_allclose(found["sums"], inputs["floats"] + whole[:, None], rtol=1e-6)
        np.testing.assert_array_equal(found["same"], inputs["words"])
        np.testing.assert_array_equal(found["doubled"], 2 * whole)


def test_outputs_come_as_asked_and_in_that_order(mixed: Engine) -> None:
    inputs = {"floats": np.ones((1, 2), "f4"), "whole": np.array([3]), "words": np.array([["a"]], object)}
    view: list[dict[str, Any]] = [{"name": "doubled"}, {"name": "sums", "parameters": {"binary_data": True}}]
    result = ask(mixed, binary_ask(inputs, view))
    assert isinstance(result, bytes)
    heads, tensors = unpack_v2_result(result)
    assert json.loads(bytes(heads)) == [
        {"name": "doubled", "datatype": "INT64", "shape": [1], "data": [6]},
        {"name": "sums", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
    ]
    assert bytes(tensors) == np.array([4, 4], "f4").tobytes()


def test_what_is_no_number_goes_out_as_other_servers_write_it(tmp_path: Path) -> None:
    for datatype in ("FP16", "FP32", "FP64"):
        engine = load(onnx_types.identity(tmp_path / "m.onnx", datatype))
        array = np.array([[np.nan, np.inf, -np.inf], [1.5, 2, 3]], NUMPY[datatype])
        for output in (False, True):
            result = ask(engine, binary_ask({"input": array}, binary_output=output))
            assert isinstance(result, bytes)
            assert (b'"data":[NaN,Infinity,-Infinity,1.5,2.0,3.0]' in result) != output
            np.testing.assert_array_equal(answers(result)["output"], array)


def test_any_byte_but_zero_is_true(tmp_path: Path) -> None:
    engine = load(onnx_types.identity(tmp_path / "m.onnx", "BOOL"))
    head = [{"name": "input", "shape": [1, 3], "datatype": "BOOL", "parameters": {"binary_data_size": 3}}]
    one, other = raw_ask(head, tensors=b"\0\1\1"), raw_ask(head, tensors=b"\0\2\xff")
    assert engine.read(one).key == engine.read(other).key
    assert answers(ask(engine, other))["output"].tolist() == [[False, True, True]]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BOOL", "BYTES"])
def test_a_size_that_varies_may_be_zero(tmp_path: Path, datatype: str, nested: bool) -> None:
    engine = load(onnx_types.identity(tmp_path / "m.onnx", datatype, ("batch", "past", 2, "n")))
    for shape in ((2, 0, 2, 3), (1, 3, 2, 0), (1, 0, 2, 0)):
        array = np.empty(shape, NUMPY[datatype])
        for payload in (binary_ask({"input": array}), json_ask({"input": array}, nested=nested)):
            found = answers(ask(engine, payload))["output"]
            assert (found.shape, found.dtype) == (shape, array.dtype)
    # Only with what is as empty does it form a batch.
    groups = {engine.read(binary_ask({"input": np.empty((1, past, 2, 1), NUMPY[datatype])})).group for past in (0, 1)}
    assert len(groups) == 2


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ([0, 0], "send one at least"),
        ([0, 3], "send one at least"),
        ([2**17, 0], "multiply to 65536 at the most"),
        ([2**70, 0], "multiply to 65536 at the most"),
    ],
)
def test_an_empty_tensor_has_rows_and_no_more_than_it_could_need(tmp_path: Path, shape: list[int], named: str) -> None:
    engine = load(onnx_types.identity(tmp_path / "m.onnx", "FP32", ("batch", "n")))
    for inputs in (size(0, shape=shape), changed(shape=shape, data=[])):
        with pytest.raises(ApiError, match=named) as caught:
            engine.read(raw_ask(inputs))
        assert (caught.value.status, caught.value.code) == (422, "wrong_shape")


def changed(**members: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in {**TENSOR, **members}.items() if value is not None}]


def size(number: Any, **more: Any) -> list[dict[str, Any]]:
    return changed(data=None, parameters={"binary_data_size": number}, **more)


MALFORMED: dict[str, tuple[Any, Any, bytes]] = {
    "no list": ({}, None, b""),
    "no name": ([{"shape": [1], "datatype": "FP32", "data": [1]}], None, b""),
    "no shape": (changed(shape=None), None, b""),
    "a shape of text": (changed(shape=["1", 4]), None, b""),
    "no datatype": (changed(datatype=None), None, b""),
    "an unknown datatype": (changed(datatype="FLOAT"), None, b""),
    "a negative size": (changed(shape=[-1, 4]), None, b""),
    "two negative sizes": (changed(shape=[-1, -4]), None, b""),
    "neither data nor binary": (changed(data=None), None, b""),
    "both": (changed(parameters={"binary_data_size": 16}), None, bytes(16)),
    "too little data": (changed(data=[1, 2, 3]), None, b""),
    "nested as another shape": (changed(data=[[1, 2], [3, 4]]), None, b""),
    "ragged": (changed(data=[[1, 2, 3], [4]]), None, b""),
    "data of text": (changed(data=["1", 2, 3, 4]), None, b""),
    "data of null": (changed(data=[None, 2, 3, 4]), None, b""),
    "data of true": (changed(data=[True, 2, 3, 4]), None, b""),
    "data is no list": (changed(data=5), None, b""),
    "NaN": (changed(data=[float("nan"), 2, 3, 4]), None, b""),
    "Infinity": (changed(data=[1, float("inf"), 3, 4]), None, b""),
    "a size of text": (size("16"), None, bytes(16)),
    "a size of true": (size(True), None, bytes(1)),
    "a negative number of bytes": (size(-1), None, b""),
    "not the shape's size": (size(12), None, bytes(12)),
    "less than it says": (size(16), None, bytes(15)),
    "more than it says": (size(16), None, bytes(17)),
    "bytes that nobody asked for": (changed(), None, bytes(4)),
    "twice the same": (changed() * 2, None, b""),
    "shared memory": (changed(data=None, parameters={"shared_memory_region": "r"}), None, b""),
    "an unknown output": (changed(), [{"name": "other"}], b""),
    "an output twice": (changed(), [{"name": "output"}] * 2, b""),
    "an output without a name": (changed(), [{}], b""),
    "classification": (changed(), [{"name": "output", "parameters": {"classification": 3}}], b""),
    "shared memory for an output": (changed(), [{"name": "output", "parameters": {"shared_memory_region": "r"}}], b""),
    "binary_data of text": (changed(), [{"name": "output", "parameters": {"binary_data": "yes"}}], b""),
}
UNFIT: dict[str, tuple[Any, Any, bytes]] = {
    "no input": ([], None, b""),
    "an unknown input": (changed(name="other"), None, b""),
    "another datatype": (changed(datatype="FP64"), None, b""),
    "no rows": (changed(shape=[0, 4], data=[]), None, b""),
    "no rows in binary": (size(0, shape=[0, 4]), None, b""),
    "too few dimensions": (changed(shape=[4]), None, b""),
    "too many dimensions": (changed(shape=[1, 4, 1]), None, b""),
    "another size": (changed(shape=[1, 5], data=[1, 2, 3, 4, 5]), None, b""),
    "a hundred dimensions": (changed(shape=[1] * 100, data=[1]), None, b""),
    "a size beyond all memory": (size(0, shape=[2**70, 0]), None, b""),
    "out of range": (changed(data=[1, 2, 1e39, 4]), None, b""),
}


@pytest.mark.parametrize("name", [*MALFORMED, *UNFIT])
def test_what_is_malformed_is_400_and_what_does_not_fit_422(linear: Engine, name: str) -> None:
    with pytest.raises(ApiError) as caught:
        linear.read(raw_ask(*{**MALFORMED, **UNFIT}[name]))
    assert caught.value.status == (400 if name in MALFORMED else 422), caught.value.message
    assert len(caught.value.message) > 20


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("another size", ["'input'", "[1, 5]", "[batch, 4]", "dimension 1 has to be 4"]),
        ("too few dimensions", ["'input'", "[4]", "[batch, 4]", "rank 1 instead of 2"]),
        ("another datatype", ["'input'", "FP64", "FP32"]),
        ("an unknown input", ["'other'", "'input'"]),
        ("no input", ["'input'"]),
        ("an unknown output", ["'other'", "'output'"]),
        ("not the shape's size", ["'input'", "12", "16"]),
        ("out of range", ["'input'", "[2]", "1e+39"]),
        ("too little data", ["'input'", "3 values", "4"]),
        ("a shape of text", ["'input'", '["1", 4]', "whole numbers"]),
        ("no rows in binary", ["'input'", "[0, 4]", "send one at least"]),
        ("data is no list", ["'input'", "int", "send a list"]),
        ("an output without a name", ["outputs", "`name`", "$[0]"]),
        ("a negative number of bytes", ["'input'", "-1", "bytes after the JSON"]),
    ],
)
def test_an_error_names_input_got_and_expected(linear: Engine, name: str, parts: list[str]) -> None:
    with pytest.raises(ApiError) as caught:
        linear.read(raw_ask(*{**MALFORMED, **UNFIT}[name]))
    for part in parts:
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b"\x02", 400),
        (b"\x02\xff\0\0\0{}", 400),
        (b"\x02\2\0\0\0{}", 400),
        (b"\x02\1\0\0\0{", 400),
        (b"\x02\0\0\0\0", 400),
        (b"\x02" + (200_000).to_bytes(4, "little") + b"[" * 200_000, 400),
        (b'\x02\x0f\0\0\0{"inputs":["\xff"]}', 400),
        (b"", 400),
        (b"x", 400),
        (b"{", 400),
        (b'{"input":[1,2,3,4]', 400),
        (b'{"other":[1,2,3,4]}', 422),
        (b"{}", 422),
    ],
)
def test_an_ask_that_cannot_be_read_harms_nobody(linear: Engine, payload: bytes, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        linear.read(payload)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("tensors", "status", "named"),
    [
        (b"\1\0\0\0a\1\0\0\0b", None, ""),
        (b"\1\0\0\0a\1\0\0\0bc", 400, "2 fill 10 of 11 bytes"),
        (b"\1\0\0\0a", 400, "1 fill 5 of 5 bytes"),
        (b"\1\0\0\0a\5\0\0\0b", 400, "string 1 is cut off, 4 bytes short"),
        (b"\1\0\0\0a\1\0", 400, "string 1 is cut off, 2 bytes short"),
        (b"\xff\xff\xff\xffa", 400, "string 0 is cut off"),
        (b"\1\0\0\0\xff\0\0\0\0", 422, "string 0 is not valid UTF-8"),
    ],
)
def test_strings_fill_their_bytes_exactly(tmp_path: Path, tensors: bytes, status: int | None, named: str) -> None:
    engine = load(onnx_types.identity(tmp_path / "m.onnx", "BYTES", ["batch", 2]))
    head = {"name": "input", "shape": [1, 2], "datatype": "BYTES", "parameters": {"binary_data_size": len(tensors)}}
    payload = raw_ask([head], tensors=tensors)
    if status is None:
        assert answers(ask(engine, payload))["output"].tolist() == [["a", "b"]]
        return
    with pytest.raises(ApiError) as caught:
        engine.read(payload)
    assert caught.value.status == status
    assert named in caught.value.message


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(payload=st.binary(max_size=60) | st.binary(max_size=60).map(lambda more: b"\x02\x20\0\0\0" + more))
def test_no_bytes_at_all_make_a_bug(linear: Engine, payload: bytes) -> None:
    try:
        linear.read(payload)
    except ApiError as error:
        assert error.status in (400, 422)
