"""Padding to buckets: what is padded answers what it would alone, masks are made, outputs cut back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from inference_site.lib.errors import ApiError
from inference_site.lib.record import Padding, Record
from tests.support import onnx_models, onnx_types
from tests.support.engines import answers, ask, binary_ask, load
from worker_app.engine import Engine, ModelError, Run

RNG = np.random.default_rng(2)
PADDED = Record(padding=Padding(dimension="sequence", buckets=(4, 8), mask="mask", values={"ids": 9}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return onnx_types.masked_mean(tmp_path / "m.onnx")


def ids_of(length: int, rows: int = 1) -> NDArray[np.int64]:
    return RNG.integers(0, 9, (rows, length))


def test_nothing_is_not_filled_up(path: Path) -> None:
    plain, padded = load(path, Record()), load(path, PADDED)
    nothing = binary_ask({"ids": np.zeros((2, 0), np.int64), "mask": np.zeros((2, 0), np.int64)})
    assert padded.read(nothing).group != padded.read(binary_ask({"ids": ids_of(1), "mask": ids_of(1)})).group
    for name, expected in answers(ask(plain, nothing)).items():
        np.testing.assert_array_equal(answers(ask(padded, nothing))[name], expected)


def rows_run(engine: Engine) -> list[tuple[int, ...]]:
    """Makes an engine note the shapes of `ids` in its runs."""
    shapes: list[tuple[int, ...]] = []

    class Noting:
        def __init__(self, real: Any) -> None:
            self.real = real

        def run(self, outputs: list[str], inputs: dict[str, Any], options: object = None) -> Any:
            shapes.append(inputs["ids"].shape)
            return self.real.run(outputs, inputs)

    engine._sessions = [Noting(each) for each in engine._sessions]
    return shapes


def test_different_lengths_share_a_batch_and_answer_what_they_do_alone(path: Path) -> None:
    plain, padded = load(path, Record()), load(path, PADDED)
    asks = [
        binary_ask({"ids": (ids := ids_of(length, rows)), "mask": np.ones_like(ids)})
        for length, rows in ((5, 1), (8, 2), (6, 3), (7, 1), (5, 2))
    ]
    samples = [padded.read(each) for each in asks]
    assert len({each.group for each in samples}) == 1
    shapes = rows_run(padded)
    together: Run = padded.run(samples)
    assert shapes == [(9, 8)]
    for payload, result in zip(asks, together.results, strict=True):
        expected, found = answers(ask(plain, payload)), answers(result)
        assert list(found) == list(expected) == ["mean", "rows"]
        for name, array in expected.items():
            assert found[name].shape == array.shape
            np.testing.assert_allclose(found[name], array, rtol=1e-5)


def test_one_alone_is_filled_up_too_and_beyond_the_last_bucket_nothing_is(path: Path) -> None:
    engine = load(path, PADDED)
    shapes = rows_run(engine)
    for length in (1, 3, 4, 5, 8, 9, 30):
        ids = ids_of(length)
        found = answers(ask(engine, binary_ask({"ids": ids})))
        assert found["rows"].shape == (1, length, 4)
        table = onnx_types.table_of_words()
        np.testing.assert_allclose(found["mean"][0], table[ids[0]].mean(axis=0), rtol=1e-5)
    assert shapes == [(1, 4), (1, 4), (1, 4), (1, 8), (1, 8), (1, 9), (1, 30)]


def test_a_mask_left_out_is_made_and_one_that_is_sent_is_heeded(path: Path) -> None:
    engine = load(path, PADDED)
    ids = np.array([[1, 2, 3, 4, 5]])
    table = onnx_types.table_of_words()
    with_ones = engine.read(binary_ask({"ids": ids, "mask": np.ones_like(ids)}))
    assert engine.read(binary_ask({"ids": ids})).key == with_ones.key
    mask = np.array([[1, 0, 1, 0, 0]])
    found = answers(ask(engine, binary_ask({"ids": ids, "mask": mask})))
    np.testing.assert_allclose(found["mean"][0], table[[1, 3]].mean(axis=0), rtol=1e-5)
    # Without other inputs to be told apart from, input_data is the ids.
    np.testing.assert_allclose(json.loads(ask(engine, b"[1,3]")), table[[1, 3]].mean(axis=0), rtol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(json.loads(ask(engine, b'{"ids":[1,3]}')), table[[1, 3]].mean(axis=0), rtol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "payload", [b"{}", b'{"mask":[1,1]}', binary_ask({}), binary_ask({"mask": np.ones((1, 2), "i8")})]
)
def test_without_the_ids_there_is_nothing_to_make_a_mask_for(path: Path, payload: bytes) -> None:
    with pytest.raises(ApiError, match="also needs 'ids'") as caught:
        load(path, PADDED).read(payload)
    assert (caught.value.status, caught.value.code) == (422, "missing_input")


def test_the_ids_and_their_mask_have_one_length(path: Path) -> None:
    engine = load(path, PADDED)
    with pytest.raises(ApiError, match=r"'mask' has shape \[1, 3\].*'sequence' is 5 elsewhere") as caught:
        engine.read(binary_ask({"ids": ids_of(5), "mask": np.ones((1, 3), "i8")}))
    assert caught.value.status == 422


def test_without_a_mask_in_the_record_it_is_needed(path: Path) -> None:
    engine = load(path, Record(padding=Padding(dimension="sequence", buckets=(4,))))
    with pytest.raises(ApiError, match="also needs 'mask'"):
        engine.read(binary_ask({"ids": ids_of(3)}))


def test_the_filler_is_what_the_record_says(tmp_path: Path) -> None:
    path = onnx_types.square(tmp_path / "m.onnx")  # n is cut in both dimensions of the product, m is not
    engine = load(path, Record(padding=Padding(dimension="n", buckets=(4, 8), values={"a": 7, "b": 7})))
    plain = load(path, Record())
    a, b = RNG.standard_normal((2, 3, 5)).astype("f4"), RNG.standard_normal((2, 5, 3)).astype("f4")
    fed: list[dict[str, Any]] = []
    feed = engine._sessions[0].run

    class Noting:
        def run(self, outputs: list[str], inputs: dict[str, Any], options: object = None) -> Any:
            fed.append(inputs)
            return feed(outputs, inputs)

    engine._sessions = [Noting()]
    found = answers(ask(engine, binary_ask({"a": a, "b": b})))["product"]
    np.testing.assert_allclose(found, answers(ask(plain, binary_ask({"a": a, "b": b})))["product"], rtol=1e-5)
    assert (fed[0]["a"].shape, fed[0]["b"].shape) == ((2, 4, 5), (2, 5, 4))
    assert (fed[0]["a"][:, 3] == 7).all() and (fed[0]["b"][:, :, 3] == 7).all()


def test_every_bucket_is_run_before_it_serves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    shapes: list[tuple[int, ...]] = []
    real = onnxruntime.InferenceSession.run

    def noting(self: Any, names: list[str], feed: dict[str, Any], options: Any = None) -> Any:
        shapes.append(feed["ids"].shape)
        return real(self, names, feed, options)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", noting)
    engine = load(path, PADDED)
    assert {(1, 4), (4, 4), (1, 8)} <= set(shapes)
    assert (engine.read(engine.probe).arrays[1] == 1).all()  # a mask of zeros would make it divide by zero


def test_a_batch_of_lists_of_many_lengths(path: Path) -> None:
    engine = load(path, PADDED)
    table = onnx_types.table_of_words()
    lists = [RNG.integers(0, 9, length).tolist() for length in (5, 6, 7, 8, 5)]
    results = engine.run([engine.read(orjson.dumps(each)) for each in lists]).results
    for ids, result in zip(lists, results, strict=True):
        assert isinstance(result, bytes)
        np.testing.assert_allclose(json.loads(result), table[ids].mean(axis=0), rtol=1e-5)


def named_otherwise(path: Path, name: str | None) -> Path:
    """`masked_mean`, whose `rows` say another name of the size that follows the sequence, or none."""
    model = onnx.load(onnx_types.masked_mean(path))
    dim = model.graph.output[1].type.tensor_type.shape.dim[1]
    dim.Clear()
    if name is not None:
        dim.dim_param = name
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", ["other", None, "unk__7"])
@pytest.mark.parametrize("buckets", [(4, 8), (1, 8), (8,), (1,)])
def test_outputs_are_cut_whatever_the_name_of_their_size(
    tmp_path: Path, name: str | None, buckets: tuple[int, ...]
) -> None:
    path = named_otherwise(tmp_path / "m.onnx", name)
    padding = Padding(dimension="sequence", buckets=buckets, mask="mask")
    engine, plain = load(path, Record(padding=padding)), load(path, Record())
    for length in (1, 3, 4, 5, 8, 9):
        both = {"ids": ids_of(length, 2), "mask": np.ones((2, length), "i8")}
        found, expected = answers(ask(engine, binary_ask(both))), answers(ask(plain, binary_ask(both)))
        assert found["rows"].shape == (2, length, 4)
        for output, array in expected.items():
            np.testing.assert_allclose(found[output], array, rtol=1e-5)


def test_an_output_that_only_has_the_name_is_not_cut(tmp_path: Path) -> None:
    path = onnx_types.masked_mean(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "sequence"  # it is 4, always
    onnx.save(model, path)
    found = answers(ask(load(path, PADDED), binary_ask({"ids": ids_of(2)})))
    assert found["mean"].shape == (1, 4)
    assert found["rows"].shape == (1, 2, 4)


@pytest.mark.parametrize("warm_up", [None, ({"ids": (2, 3), "mask": (2, 3)},)])
def test_an_output_that_cannot_be_cut_is_refused(tmp_path: Path, warm_up: Any) -> None:
    path = onnx_models.write(
        tmp_path / "m.onnx",
        [
            helper.make_node("Concat", ["ids", "mask"], ["both"], axis=1),
            helper.make_node("Cast", ["both"], ["twice"], to=TensorProto.FLOAT),
        ],
        [onnx_types.info("ids", "INT64", ["batch", "n"]), onnx_types.info("mask", "INT64", ["batch", "n"])],
        [onnx_types.info("twice", "FP32", ["batch", "n2"])],
        {},
    )
    padding = Padding(dimension="n", buckets=(4, 8), mask="mask")
    with pytest.raises(ModelError, match=r"m\.onnx: the size of its output 'twice' depends on 'n'.*\[1, 8\] for 4"):
        load(path, Record(padding=padding, warm_up=warm_up))


def test_a_bucket_that_the_model_cannot_take_is_refused(tmp_path: Path) -> None:
    path = onnx_models.write(
        tmp_path / "m.onnx",
        [helper.make_node("Add", ["x", "table"], ["y"])],
        [onnx_types.info("x", "FP32", ["batch", "n"])],
        [onnx_types.info("y", "FP32", ["batch", "n"])],
        {"table": np.zeros((1, 4), np.float32)},
    )
    with pytest.raises(ModelError, match="does not run where 'n' is 8, a bucket of its padding"):
        load(path, Record(padding=Padding(dimension="n", buckets=(4, 8))))
    load(path, Record(padding=Padding(dimension="n", buckets=(4,))))


def test_buckets_are_run_in_the_sizes_that_the_model_takes(tmp_path: Path) -> None:
    path = onnx_models.write(
        tmp_path / "m.onnx",
        [
            helper.make_node("MatMul", ["x", "table"], ["y"]),
        ],
        [onnx_types.info("x", "FP32", ["batch", "n", "wide"])],  # it says that this may vary, and is always 8
        [onnx_types.info("y", "FP32", ["batch", "n", 2])],
        {"table": np.zeros((8, 2), np.float32)},
    )
    engine = load(path, Record(padding=Padding(dimension="n", buckets=(4, 16))))
    assert engine.read(engine.probe).arrays[0].shape == (1, 4, 8)
