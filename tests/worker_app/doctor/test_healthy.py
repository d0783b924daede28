"""Healthy models give no alarm, and get the settings that suit them."""

import importlib.resources
from pathlib import Path

import numpy as np
import pytest

from inference_site.lib.record import Padding, Record
from tests.support import faulty_models, onnx_models, onnx_types
from tests.worker_app.doctor.test_faults import answers, faults, named
from worker_app.doctor import feeds, report
from worker_app.doctor.report import Recipe, Tensor

DIGITS = Path(__file__).resolve().parents[3] / "models" / "digits.onnx"


@pytest.mark.parametrize(
    "build",
    [
        onnx_models.linear, onnx_models.classifier, onnx_models.gather, onnx_models.touchy, onnx_models.integer_input,
        onnx_models.two_inputs, faulty_models.external,
    ],
)  # fmt: skip
def test_models_that_batch(build, tmp_path: Path) -> None:
    chart = answers(build(tmp_path / "m.onnx"))
    assert faults(chart) == []
    assert chart.runs
    assert chart.batches
    assert (chart.proposed["batches"], chart.proposed["cached"]) == (True, True)


def test_the_bundled_model() -> None:
    chart = answers(DIGITS)
    assert faults(chart) == []
    assert chart.batches
    assert chart.inputs == (Tensor("input", "FP32", (-1, 64), ("batch", None)),)
    assert chart.proposed["output"] == "probabilities"


def test_a_model_as_clients_benchmark_it(tmp_path: Path) -> None:
    chart = answers(onnx_models.mlp(tmp_path / "m.onnx", sizes=(64, 128, 10)))
    assert faults(chart) == []
    assert chart.batches


def test_a_residual_network_with_a_fixed_batch() -> None:
    data = importlib.resources.files("onnx.backend.test.data") / "light" / "light_resnet50.onnx"
    with importlib.resources.as_file(data) as path:
        chart = answers(path)
    assert faults(chart) == []
    assert (chart.runs, chart.batches) == (True, False)
    assert named(chart, "batching").ok is None
    assert "[1, 3, 224, 224]" in named(chart, "batching").detail
    assert "batches" not in chart.proposed


def test_a_sentence_model_gets_buckets_as_far_as_it_goes(tmp_path: Path) -> None:
    chart = answers(faulty_models.sentence(tmp_path / "m.onnx", heeds_mask=True, longest=100))
    assert faults(chart) == []
    assert chart.batches
    assert chart.proposed["padding"] == {"dimension": "sequence", "buckets": [16, 32, 64], "mask": "attention_mask"}
    assert "'sequence' may be 1, 2, 3" in named(chart, "lengths").detail


def test_padding_that_its_record_has_already_is_examined_and_not_proposed(tmp_path: Path) -> None:
    path = faulty_models.sentence(tmp_path / "m.onnx", heeds_mask=True)
    chart = answers(path, Record(padding=Padding(dimension="sequence", buckets=(8, 16), mask="attention_mask")))
    assert named(chart, "padding").ok is True
    assert "padding" not in chart.proposed


def test_lengths_filled_up_with_zeros_need_no_mask_where_zeros_add_nothing(tmp_path: Path) -> None:
    chart = answers(onnx_models.dynamic(tmp_path / "m.onnx"))
    assert named(chart, "padding").ok is True
    assert chart.proposed["padding"] == {"dimension": "n", "buckets": [16, 32, 64, 128, 256, 512]}


@pytest.mark.parametrize("datatype", onnx_types.ELEMENTS)
def test_models_of_every_datatype(datatype: str, tmp_path: Path) -> None:
    chart = answers(onnx_types.identity(tmp_path / "m.onnx", datatype))
    assert faults(chart) == []
    assert chart.batches
    assert chart.inputs == (Tensor("input", datatype, (-1, 3), ("batch", None)),)


@pytest.mark.parametrize(
    "build",
    [
        onnx_types.mixed, onnx_types.square, onnx_types.scalars, onnx_types.pooled, onnx_types.masked_mean,
        onnx_types.half, onnx_types.quantized,
    ],
)  # fmt: skip
def test_models_of_all_shapes(build, tmp_path: Path) -> None:
    chart = answers(build(tmp_path / "m.onnx"))
    assert faults(chart) == []
    assert chart.runs
    assert "can't be told" not in str(chart.findings)
    assert chart.batches == (build is not onnx_types.scalars)


@pytest.mark.parametrize("shape", [(), (3,), (None, 3), ("batch", None), ("batch", "h", "w", 3), (7, 2)])
def test_shapes_without_names_or_sizes_that_vary_are_not_filled_up(
    shape: tuple[int | str | None, ...], tmp_path: Path
) -> None:
    chart = answers(onnx_types.identity(tmp_path / "m.onnx", "FP32", shape))
    assert faults(chart) == []
    assert chart.batches == (shape not in ((), (3,), (7, 2)))
    assert "padding" not in chart.proposed


def test_a_slow_model_is_looked_at_less_closely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MANY_RUNS", 1e15)
    chart = answers(faulty_models.sentence(tmp_path / "m.onnx", heeds_mask=True))
    assert "2, 3 rows together" in named(chart, "batching").detail
    assert "padding" in chart.proposed
    chart = answers(faulty_models.softmax_over_the_batch(tmp_path / "m.onnx"))
    assert faults(chart) == ["batching"]


def test_a_label_written_as_a_float_is_not_what_infer_serves(tmp_path: Path) -> None:
    chart = answers(faulty_models.float_label(tmp_path / "m.onnx"))
    assert chart.proposed["output"] == "probabilities"
    assert "label" in chart.reasons["output"]
    chart = answers(faulty_models.float_label(tmp_path / "m.onnx"), Record(output="label"))
    assert "output" not in chart.proposed  # its owner has said it


def test_a_record_that_forbids_batches_is_obeyed(tmp_path: Path) -> None:
    chart = answers(onnx_models.linear(tmp_path / "m.onnx"), Record(batches=False))
    assert named(chart, "batching").ok is None
    assert not chart.batches
    assert "batches" not in chart.proposed


def test_sizes_that_it_runs_on_are_found_and_proposed(tmp_path: Path) -> None:
    """32 is the only width that its inside takes: not one that a worker tries by itself... but its record may say."""
    path = faulty_models.only_one_width(tmp_path / "m.onnx", 64)
    chart = answers(path)
    assert chart.runs
    assert chart.recipe.lengths == {"width": 64}
    assert chart.proposed["warm_up"] == [{"input": [1, 64]}]
    assert named(chart, "lengths").ok is None
    chart = answers(faulty_models.only_one_width(tmp_path / "m.onnx", 100))
    assert faults(chart) == ["run"]
    assert "warm_up" in named(chart, "run").fix
    chart = answers(path.with_name("m.onnx"), Record(warm_up=({"input": (1, 100)},)))
    assert chart.runs
    assert chart.recipe.lengths == {"width": 100}
    assert "warm_up" not in chart.proposed


def test_random_inputs_are_what_the_recipe_says() -> None:
    tensors = (
        Tensor("ids", "INT64", (-1, -1), ("batch", "length")),
        Tensor("mask", "INT64", (-1, -1), ("batch", "length")),
        Tensor("values", "FP16", (-1, 3), ("batch", None)),
        Tensor("flag", "BOOL", (), ()),
        Tensor("text", "BYTES", (-1,), ("batch",)),
    )
    feed = feeds.random(tensors, Recipe({"length": 7}, {"ids": 1}), frozenset(["batch"]), np.random.default_rng(0), 5)
    assert {name: value.shape for name, value in feed.items()} == {
        "ids": (5, 7), "mask": (5, 7), "values": (5, 3), "flag": (), "text": (5,),
    }  # fmt: skip
    assert set(feed["ids"].ravel()) == {0, 1}
    assert feed["mask"].min() == 1
    assert [feed[name].dtype.kind for name in ("values", "flag", "text")] == ["f", "b", "O"]
    assert {type(each) for each in feed["text"]} == {str}
