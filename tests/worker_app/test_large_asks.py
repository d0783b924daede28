"""Asks of megabytes: what is not heeded is skipped, what can't be right is refused before anything is made of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_site.lib.asks import pack_v2
from inference_site.lib.errors import ApiError
from tests.support import onnx_models, onnx_types
from tests.support.engines import ask, binary_ask, json_ask, load
from worker_app import jsontensors
from worker_app.jsontensors import Place, decode_nested
from worker_app.reader import QUICK_BYTES

PLACE = Place("inputs.x")
MANY = 50_000


def input_of(**members: object) -> bytes:
    return json.dumps([{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]} | members]).encode()


def test_parameters_that_nobody_heeds_are_skipped(tmp_path: Path) -> None:
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    plain = engine.read(pack_v2(input_of(), None, False))
    much = engine.read(pack_v2(input_of(parameters={"a": [[]] * MANY, "b": {"c": None}}), None, False))
    assert much.key == plain.key
    asked = json.dumps([{"name": "output", "parameters": {"a": [[]] * 10}}]).encode()
    assert engine.read(pack_v2(input_of(), asked, False)).view == ((0, False),)


@pytest.mark.parametrize(
    ("members", "outputs", "named"),
    [
        ({"shape": [1] * MANY}, None, "'input' has a shape of 150000 bytes; 512 is the limit"),
        ({}, [{"name": "output"}] * MANY, r"outputs is \d+ bytes long; the model has 1, ask for each once"),
        ({"shape": [1, -4]}, None, "has the size -4; none may be negative"),
        ({"shape": 4}, None, "'input' has the shape 4; send a list of whole numbers"),
        ({"parameters": {"binary_data_size": 10**20}, "data": None}, None, "both data and binary_data_size"),
    ],
)
def test_what_cannot_be_right_is_refused(
    tmp_path: Path, members: dict[str, object], outputs: object, named: str
) -> None:
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    asked = None if outputs is None else json.dumps(outputs).encode()
    with pytest.raises(ApiError, match=named) as caught:
        engine.read(pack_v2(input_of(**members), asked, False))
    assert caught.value.status == 400


@pytest.mark.parametrize("size", ["true", "-1", "1.0", '"16"', "1e1", "9" * 30, "[]"])
def test_a_binary_size_is_a_number_of_bytes(tmp_path: Path, size: str) -> None:
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    head = '[{"name":"input","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":SIZE}}]'.replace(
        "SIZE", size
    )
    with pytest.raises(ApiError, match="send how many of the bytes"):
        engine.read(pack_v2(head.encode(), None, False, bytes(16)))


def test_a_name_that_the_model_does_not_have_ends_the_reading(tmp_path: Path) -> None:
    engine = load(onnx_models.two_inputs(tmp_path / "m.onnx"))
    with pytest.raises(ApiError, match="the model has no input '0'; it takes 'a', 'b'") as caught:
        engine.read(json.dumps(dict.fromkeys(map(str, range(MANY)), 0)).encode())
    assert (caught.value.status, caught.value.code) == (422, "unknown_input")


def test_inputs_may_have_names_of_any_characters(tmp_path: Path) -> None:
    names = ['a "quoted"\r\n', "`$.ü`"]
    model = onnx_models.two_inputs(tmp_path / "m.onnx")
    for both in (names, [names[1], "b"]):
        path = renamed(model, tmp_path / "n.onnx", dict(zip("ab", both, strict=True)))
        engine = load(path)
        values = dict(zip(both, ([5, 5, 5, 5], [1, 2, 3, 4]), strict=True))
        assert ask(engine, json.dumps(values).encode()) == b"[4.0,3.0,2.0,1.0]"
        with pytest.raises(ApiError, match="no input 'c'"):
            engine.read(json.dumps(values | {"c": [1]}).encode())


def renamed(path: Path, to: Path, names: dict[str, str]) -> Path:
    import onnx

    model = onnx.load(path)
    for each in model.graph.input:
        each.name = names[each.name]
    for node in model.graph.node:
        node.input[:] = [names.get(each, each) for each in node.input]
    onnx.save(model, to)
    return to


def test_long_nested_lists_are_read_like_short_ones(tmp_path: Path) -> None:
    engine = load(onnx_models.dynamic(tmp_path / "m.onnx"))
    array = np.random.default_rng(1).random((MANY, 2)).astype("f4")
    nested = engine.read(json_ask({"input": array}, nested=True))
    assert nested.key == engine.read(json_ask({"input": array})).key
    assert nested.arrays[0].shape == (MANY, 2)
    named = json.dumps({"input": array.T.tolist()}).encode()
    with pytest.raises(ApiError, match="has shape"):
        engine.read(named)
    assert engine.read(json.dumps({"input": [[*range(MANY)]]}).encode()).arrays[0].shape == (1, MANY)


lists = st.recursive(st.lists(st.integers(0, 9), max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=6)
regular = st.builds(
    lambda shape: np.arange(int(np.prod(shape))).reshape(shape).tolist(), st.lists(st.integers(1, 3), max_size=4)
)
spoiled = st.builds(
    lambda text, place, what: text[: place % (len(text) + 1)] + what + text[place % (len(text) + 1) :],
    st.builds(json.dumps, regular | lists),
    st.integers(0, 200),
    st.sampled_from(["[", "]", ",", "[]", "],[", " ", "1", "-", ".", "]]", "[["]),
)


@settings(deadline=None)
@given(text=st.builds(json.dumps, regular | lists) | spoiled, depth=st.integers(1, 5), kind=st.sampled_from("fib"))
def test_what_is_long_is_accepted_and_refused_as_what_is_short(text: str, depth: int, kind: str) -> None:
    def read(long_bytes: int) -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jsontensors, "_LONG_BYTES", long_bytes)
            try:
                return decode_nested(text.encode(), kind, depth, PLACE)
            except ApiError as error:
                return error.status

    short, long = read(10**6), read(0)
    if isinstance(short, tuple) and 0 in short[1] and long == 400:
        return  # lists of nothing: so many that they are long have no use
    assert long == short


@settings(deadline=None)
@given(
    one=st.lists(st.text(max_size=3), min_size=1, max_size=3),
    other=st.lists(st.text(max_size=3), min_size=1, max_size=3),
)
def test_only_equal_strings_have_equal_keys(one: list[str], other: list[str]) -> None:
    from worker_app.reader import _joined

    arrays = []
    for each in (one, other):
        array = np.empty(len(each), object)
        array[:] = each
        arrays.append(array)
    if len(one) == len(other):  # else their shapes, which come before, differ
        assert (_joined(arrays[0]) == _joined(arrays[1])) == (one == other)


def test_what_takes_long_to_read_says_so(tmp_path: Path) -> None:
    floats = load(onnx_models.dynamic(tmp_path / "f.onnx"))
    strings = load(onnx_types.identity(tmp_path / "s.onnx", "BYTES", ["batch", "n"]))
    large = np.zeros((1, QUICK_BYTES), "f4")
    assert floats.is_quick(b"[1,2]")
    assert floats.is_quick(binary_ask({"input": large}))
    assert not floats.is_quick(json_ask({"input": large}))
    assert not floats.is_quick(b"[" + b"1," * QUICK_BYTES + b"1]")
    assert not floats.is_quick(b'{"input":[' + b"1," * QUICK_BYTES + b"1]}")
    words = np.full((1, QUICK_BYTES), "", object)
    assert not strings.is_quick(binary_ask({"input": words}))
    assert strings.is_quick(binary_ask({"input": words[:, :9]}))
