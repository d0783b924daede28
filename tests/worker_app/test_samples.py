"""Samples: near twins never share a key, equals always do; shapes agree; groups say what may run together."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference_site.lib.errors import ApiError
from inference_site.lib.record import Padding, Record
from tests.support import onnx_models, onnx_types
from tests.support.engines import binary_ask, json_ask, load
from worker_app.engine import Engine

QUIET = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(onnx_types.square(tmp_path_factory.mktemp("square") / "m.onnx"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(onnx_types.identity(tmp_path_factory.mktemp("words") / "m.onnx", "BYTES", ["batch", "n"]))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(onnx_types.mixed(tmp_path_factory.mktemp("mixed") / "m.onnx"))


def refused(engine: Engine, payload: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        engine.read(payload)
    return caught.value


def test_the_same_bytes_in_other_shapes_have_other_keys(square: Engine) -> None:
    for values in (24, 2400):  # short keys and long ones
        flat = np.arange(values, dtype="f4")
        keys = []
        for rows, n in itertools.product((1, 2, 3, 4, 6), (1, 2, 3, 4, 6)):
            if flat.size % (rows * n) == 0:
                a, b = flat.reshape(rows, n, -1), flat.reshape(rows, -1, n)
                keys.append(square.read(binary_ask({"a": a, "b": b})).key)
        assert len(keys) > 8
        assert len(set(keys)) == len(keys)


STRINGS = st.lists(st.text(alphabet="ab\0\1\2", max_size=3), min_size=1, max_size=4)


@QUIET
@given(one=STRINGS, other=STRINGS)
def test_strings_that_join_to_the_same_have_other_keys(words: Engine, one: list[str], other: list[str]) -> None:
    first, second = (words.read(orjson.dumps(each)).key for each in (one, other))
    assert (first == second) == (one == other)


VIEWS: list[list[dict[str, Any]] | None] = [
    None,
    [{"name": "sums"}],
    [{"name": "doubled"}],
    [{"name": "sums", "parameters": {"binary_data": True}}],
    [{"name": "sums"}, {"name": "doubled"}],
    [{"name": "doubled"}, {"name": "sums"}],
    [{"name": "sums"}, {"name": "doubled", "parameters": {"binary_data": True}}],
    [{"name": "sums", "parameters": {"binary_data": True}}, {"name": "doubled"}],
]


@QUIET
@given(data=st.data())
def test_two_asks_have_one_key_only_if_they_are_equal(mixed: Engine, data: st.DataObject) -> None:
    def draw() -> tuple[Any, bytes]:
        rows, n = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
        floats = data.draw(st.lists(st.sampled_from([0.0, -0.0, 1.0]), min_size=2 * rows, max_size=2 * rows))
        whole = data.draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
        text = data.draw(st.lists(st.sampled_from(["", "a", "aa"]), min_size=n * rows, max_size=n * rows))
        inputs = {
            "floats": np.array(floats, "f4").reshape(rows, 2),
            "whole": np.array(whole, "i8"),
            "words": np.array(text, object).reshape(rows, n),
        }
        view = data.draw(st.integers(0, len(VIEWS) - 1))
        plain = rows == 1 and data.draw(st.booleans())
        identity = (rows, n, inputs["floats"].tobytes(), whole, text, "plain" if plain else view)
        if plain:
            named = {name: each.reshape(-1).tolist() for name, each in inputs.items()}
            return identity, orjson.dumps(named)
        if data.draw(st.booleans()):
            return identity, binary_ask(inputs, VIEWS[view], binary_output=False)
        return identity, json_ask(inputs, VIEWS[view], nested=data.draw(st.booleans()))

    (one, first), (other, second) = draw(), draw()
    assert (mixed.read(first).key == mixed.read(second).key) == (one == other)


def test_a_hundred_thousand_random_twins_never_share_a_key(tmp_path: Path) -> None:
    """Few bytes in many shapes, so that by far the most differ in shape alone."""
    engine = load(onnx_types.identity(tmp_path / "m.onnx", "UINT8", ["batch", "n", "m", "k"]))
    rng = np.random.default_rng(7)
    shapes = [shape for shape in itertools.product((1, 2, 3, 4), repeat=4) if 4 <= np.prod(shape) <= 12]
    seen: dict[Any, tuple[Any, ...]] = {}
    for shape in (shapes[index] for index in rng.integers(0, len(shapes), 100_000)):
        array = rng.integers(0, 2, shape).astype("u1")
        binary = bool(rng.integers(0, 2))
        key = engine.read(binary_ask({"input": array}, binary_output=binary)).key
        identity = (shape, array.tobytes(), binary)
        assert seen.setdefault(key, identity) == identity


def test_lists_and_names_that_say_the_same_share_a_key(tmp_path: Path) -> None:
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    keys = {engine.read(text).key for text in (b"[1,2,3,4]", b"[1.0, 2e0,3,4]", b'{"input":[[1,2,3,4]]}')}
    assert len(keys) == 1
    dynamic = load(onnx_models.dynamic(tmp_path / "n.onnx"))
    assert dynamic.read(b"[1,2]").key == dynamic.read(b'{"input":[1,2]}').key


def test_long_inputs_are_known_by_a_digest(tmp_path: Path) -> None:
    engine = load(onnx_models.dynamic(tmp_path / "m.onnx"))
    array = np.zeros((1, 5000), "f4")
    first = engine.read(binary_ask({"input": array})).key
    assert len(first) == 64
    array[0, 4999] = 1e-30
    assert engine.read(binary_ask({"input": array})).key != first


def test_binary_tensors_are_not_copied(tmp_path: Path) -> None:
    engine = load(onnx_models.dynamic(tmp_path / "m.onnx"))
    payload = binary_ask({"input": np.ones((2, 50), "f4")})
    (array,) = engine.read(payload).arrays
    assert np.shares_memory(array, np.frombuffer(payload, "u1"))


def test_sizes_of_one_name_are_one_size(square: Engine) -> None:
    error = refused(square, binary_ask({"a": np.ones((1, 2, 3), "f4"), "b": np.ones((1, 4, 2), "f4")}))
    assert (error.status, error.code) == (422, "wrong_shape")
    for part in ("'b'", "[1, 4, 2]", "[batch, m, n]", "'m' is 3 elsewhere"):
        assert part in error.message
    error = refused(square, binary_ask({"a": np.ones((1, 2, 3), "f4"), "b": np.ones((2, 3, 2), "f4")}))
    assert "'batch' is 1 elsewhere" in error.message
    assert refused(square, b'{"a":[[1,2],[3,4]],"b":[[1,2,3],[4,5,6]]}').code == "wrong_shape"


def test_the_batch_is_one_size_even_without_a_name(tmp_path: Path) -> None:
    path = onnx_types.add(tmp_path / "m.onnx", [None, 2], [None, 2])
    engine = load(path)
    assert engine.batches
    error = refused(engine, binary_ask({"a": np.ones((2, 2), "f4"), "b": np.ones((3, 2), "f4")}))
    assert "another input has a batch of 2" in error.message


def test_groups_have_equal_shapes_and_any_rows(square: Engine) -> None:
    def group(rows: int, n: int, m: int) -> Any:
        return square.read(binary_ask({"a": np.ones((rows, n, m), "f4"), "b": np.ones((rows, m, n), "f4")})).group

    assert group(1, 2, 3) == group(5, 2, 3)
    assert len({group(1, 2, 3), group(1, 3, 2), group(1, 2, 2), group(1, 6, 1)}) == 4
    hash(group(1, 2, 3))


def test_groups_of_padded_inputs_have_equal_buckets(tmp_path: Path) -> None:
    record = Record(padding=Padding(dimension="sequence", buckets=(8, 4), mask="mask"))
    engine = load(onnx_types.masked_mean(tmp_path / "m.onnx"), record)
    samples = [engine.read(orjson.dumps([1] * length)) for length in (1, 4, 5, 8, 9, 10)]
    assert [sample.bucket for sample in samples] == [4, 4, 8, 8, 9, 10]
    assert len({sample.group for sample in samples}) == 4
    assert len({sample.key for sample in samples}) == 6
