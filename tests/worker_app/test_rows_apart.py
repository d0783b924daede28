"""Rows of different clients are never mixed: what answers a row otherwise beside another one runs one by one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from inference_site.lib.record import Padding, Record
from tests.support import faulty_models, onnx_models, onnx_types
from tests.support.engines import answers, ask, binary_ask, load
from worker_app.firstruns import _apart

Builder = Callable[[Path], Path]
LABEL = Record(output="label")


def label_of_the_batch(path: Path) -> Path:
    """`input` FP32 [batch, 4] -> `label` INT64 [batch], by how much it is above the mean of the batch."""
    return onnx_models.write(
        path,
        [
            helper.make_node("ReduceMean", ["input"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["input", "mean"], ["rest"]),
            helper.make_node("Add", ["rest", "bias"], ["scores"]),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        ],
        [onnx_models.float_info("input", "batch", 4)],
        [onnx_types.info("label", "INT64", ["batch"])],
        {"bias": np.array([0, 0, 0, 0.1], np.float32)},
    )


def mean_of_pixels(path: Path) -> Path:
    """`pixels` UINT8 [frames, 8] -> `output` FP32 [frames, 8], less the mean of the frames, after 5 is added to all."""
    return onnx_models.write(
        path,
        [
            helper.make_node("Cast", ["pixels"], ["floats"], to=1),
            helper.make_node("Div", ["floats", "most"], ["parts"]),
            helper.make_node("ReduceMean", ["parts"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["parts", "mean"], ["rest"]),
            helper.make_node("Add", ["rest", "five"], ["output"]),
        ],
        [onnx_types.info("pixels", "UINT8", ["frames", 8])],
        [onnx_models.float_info("output", "frames", 8)],
        {"most": np.array(255, np.float32), "five": np.array(5, np.float32)},
    )


def random_labels(path: Path) -> Path:
    """`input` FP32 [batch, 4] -> `label` INT64 [batch, 4], 0 or 1 by chance."""
    return onnx_models.write(
        path,
        [
            helper.make_node("Sigmoid", ["input"], ["chance"]),
            helper.make_node("Bernoulli", ["chance"], ["label"], dtype=7),
        ],
        [onnx_models.float_info("input", "batch", 4)],
        [onnx_types.info("label", "INT64", ["batch", 4])],
        {},
    )


def cold_and_mixing(path: Path) -> Path:
    """`input` FP32 [batch, n], n a multiple of 3 -> softmax over the rows of each three: no usual zeros run."""
    return onnx_models.write(
        path,
        [
            helper.make_node("Reshape", ["input", "shape"], ["threes"]),
            helper.make_node("Softmax", ["threes"], ["output"], axis=0),
        ],
        [onnx_models.float_info("input", "batch", "n")],
        [onnx_models.float_info("output", "batch", "threes", 3)],
        {"shape": np.array([0, -1, 3], np.int64)},
    )


def padded_to_the_longest(path: Path) -> Path:
    """`size` INT64 [batch, 1] -> `output` FP32 [batch, longest], of zeros: as wide as the largest size of the batch."""
    return onnx_models.write(
        path,
        [
            helper.make_node("ReduceMax", ["size"], ["largest"], axes=[0], keepdims=1),
            helper.make_node("Cast", ["size"], ["floats"], to=1),
            helper.make_node("Mul", ["floats", "nothing"], ["zeros"]),
            helper.make_node("Shape", ["size"], ["rows"], end=1),
            helper.make_node("Squeeze", ["largest", "last"], ["width"]),
            helper.make_node("Concat", ["rows", "width"], ["shape"], axis=0),
            helper.make_node("Expand", ["zeros", "shape"], ["output"]),
        ],
        [onnx_types.info("size", "INT64", ["batch", 1])],
        [onnx_models.float_info("output", "batch", "longest")],
        {
            "last": np.array([1], np.int64),
            "nothing": np.array(0, np.float32),
        },
    )


@pytest.mark.parametrize(
    "build",
    [
        faulty_models.text_without_batch,
        partial(faulty_models.text_without_batch, ids=False),
        faulty_models.softmax_over_the_batch,
        faulty_models.normalised_over_the_batch,
        label_of_the_batch,
        mean_of_pixels,
        padded_to_the_longest,
    ],
)
def test_a_model_that_mixes_rows_runs_one_by_one(
    build: Builder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load(build(tmp_path / "m.onnx"))
    assert not engine.batches
    assert not engine.describe()["batches"]
    (said,) = [message for message in caplog.messages if "mixes the rows" in message]
    assert said.startswith("m.onnx mixes the rows of a batch: '")
    assert said.endswith('runs one by one; if that is as it should be, say "batches": true in its record')
    assert ("another shape" in said) == (build is padded_to_the_longest)
    # Who knows it better is believed.
    assert load(engine.path, Record(batches=True)).batches


def test_texts_of_two_clients_do_not_look_at_each_other(tmp_path: Path) -> None:
    engine = load(faulty_models.text_without_batch(tmp_path / "m.onnx"))
    asks = [binary_ask({"words": np.array(ids)}) for ids in ([1, 2, 3], [4, 5, 6], [7])]
    alone = [answers(ask(engine, each))["output"] for each in asks]
    together = engine.run([engine.read(each) for each in asks]).results
    for one, result in zip(alone, together, strict=True):
        np.testing.assert_array_equal(answers(result)["output"], one)


def test_what_no_zeros_run_on_is_looked_at_with_its_first_input(tmp_path: Path) -> None:
    engine = load(cold_and_mixing(tmp_path / "m.onnx"))
    assert (engine.cold, engine.batches) == (True, False)
    asks = [binary_ask({"input": np.array([[1, 2, number]], "f4")}) for number in range(3)]
    for _ in range(2):
        results = engine.run([engine.read(each) for each in asks]).results
        assert [answers(each)["output"].tolist() for each in results] == [[[[1, 1, 1]]]] * 3
        assert (engine.cold, engine.batches) == (False, False)
    # Who knows it better is believed.
    trusted = load(engine.path, Record(batches=True))
    assert (trusted.cold, trusted.batches) == (True, True)


@pytest.mark.parametrize(
    ("build", "record"),
    [
        (onnx_models.linear, Record()),
        (onnx_models.classifier, Record()),
        (onnx_models.classifier, LABEL),
        (onnx_models.gather, Record()),
        (onnx_models.nan, Record()),
        (onnx_models.two_inputs, Record()),
        (onnx_types.mixed, Record()),
        (onnx_types.half, Record()),
        (onnx_types.quantized, Record()),
        (onnx_types.masked_mean, Record()),
        (onnx_types.masked_mean, Record(padding=Padding(dimension="sequence", buckets=(4, 8), mask="mask"))),
        (partial(onnx_types.identity, datatype="BYTES"), Record()),
        (partial(onnx_types.identity, datatype="BOOL"), Record()),
        (faulty_models.float_label, Record()),
        (faulty_models.noisy, Record()),  # nothing can be told of it
        (random_labels, Record()),
        (faulty_models.quantised_over_the_batch, Record()),  # by less than what is gross
    ],
)
def test_a_model_that_keeps_rows_apart_batches(
    build: Builder, record: Record, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load(build(tmp_path / "m.onnx"), record).batches
    assert "mixes the rows" not in caplog.text


def test_a_model_that_knows_few_integers_is_looked_at_with_those(tmp_path: Path) -> None:
    """`id` INT64 [batch], 0 alone, `input` FP32 [batch, 4] -> softmax over the rows."""
    path = onnx_models.write(
        tmp_path / "m.onnx",
        [
            helper.make_node("Gather", ["table", "id"], ["row"]),
            helper.make_node("Add", ["input", "row"], ["sum"]),
            helper.make_node("Softmax", ["sum"], ["output"], axis=0),
        ],
        [onnx_types.info("id", "INT64", ["batch"]), onnx_models.float_info("input", "batch", 4)],
        [onnx_models.float_info("output", "batch", 4)],
        {"table": np.zeros((1, 4), np.float32)},
    )
    assert not load(path).batches


def test_how_far_answers_are_apart() -> None:
    def apart(one: object, other: object, dtype: str = "f4") -> float:
        strays = 0.01 if dtype.startswith("f") else 0.5
        return _apart([np.array([each], dtype) for each in np.array(one)], np.array(other, dtype), strays)

    assert apart([[0, 10.0], [5, 5]], [[0, 10.0], [5, 6]]) == pytest.approx(0.1)
    assert apart([100.0, 101], [101.0, 100]) == pytest.approx(0.01, abs=0.001)  # so few that 0 is in their range
    many = np.array([np.linspace(300, 310, 8)] * 2)
    assert apart(many, many[:, ::-1]) == pytest.approx(1)  # whatever else is added to all
    assert apart([100.0, 100], [100.01, 100]) < 0.01  # but not what rounding leaves of a narrow range
    nan, inf = float("nan"), float("inf")
    assert apart([[nan, inf, 1], [-inf, 1, 1]], [[nan, inf, 1], [-inf, 1, 1]]) == 0
    assert apart([[nan], [1]], [[1], [1]]) == apart([[inf], [1]], [[-inf], [1]]) == inf
    assert apart([0.0, 0], [1e-9, 0]) < 0.01  # what rounding leaves of nothing
    assert apart([0.0, 0], [1e-5, 0]) == 1
    assert apart([3, 7], [3, 1], "i8") == 0  # one label of two may be rounding
    assert _apart([np.array([3, 7])], np.array([3, 1]), 0) == pytest.approx(6 / 7)
    assert apart([3, 7], [4, 1], "i8") == pytest.approx(1 / 7)
    assert apart([200, 255], [201, 254], "u1") < 0.02  # as pixels may be
    assert apart([True, False], [False, True], "?") == 1
    assert apart(["a", "b"], ["a", "c"], "O") == 0
    assert apart(["a", "b"], ["c", "d"], "O") == 1
    assert apart([[1.0], [2.0]], [[1.0, 0.0], [2.0, 0.0]]) == inf
    few = np.zeros((2, 500))
    few[1, :10] = 1
    assert apart(few, np.zeros((2, 500))) == 0  # as where a quantised model holds one word for another
    few[1, 10] = 1
    assert apart(few, np.zeros((2, 500))) == 1
    assert apart(np.zeros((2, 10**6)), np.ones((2, 10**6))) == 1
    assert _apart([np.zeros((1, 0)), np.zeros((1, 0))], np.zeros((2, 0)), 0) == 0
