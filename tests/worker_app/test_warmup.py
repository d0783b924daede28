"""What a model is warmed up with, and what is known of it then."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from inference_site.lib.errors import ApiError
from inference_site.lib.record import Record
from tests.support import onnx_models, onnx_types
from tests.support.engines import load
from tests.support.onnx_models import save
from worker_app.engine import ModelError


def shapes_run(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list[int]]]:
    """The shapes of the inputs of each run from now on."""
    import onnxruntime

    found: list[dict[str, list[int]]] = []
    real = onnxruntime.InferenceSession.run

    def noting(self: Any, names: list[str], feed: dict[str, Any], options: Any = None) -> Any:
        found.append({name: list(each.shape) for name, each in feed.items()})
        return real(self, names, feed, options)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", noting)
    return found


def test_what_is_tried_in_the_warm_up_does_not_take_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shapes_run(monkeypatch)
    nodes = [helper.make_node("Reshape", ["x", "fixed"], ["y"])]  # it says that all may vary, and takes none of it
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["a", "b", "c", "d", "e"])]
    graph = helper.make_graph(
        nodes, "m", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("fixed", TensorProto.INT64, [1], [5])],
    )  # fmt: skip
    assert load(save(tmp_path / "m.onnx", graph)).cold
    assert {len(set(each["x"])) for each in found} <= {1, 2}
    assert max(max(each["x"]) for each in found) == 32  # 224 in each would be 10 GB


def test_a_batch_of_enormous_outputs_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shapes_run(monkeypatch)
    rows_run = SimpleNamespace(perf_counter=lambda: float(sum(each["x"][0] for each in found)))
    monkeypatch.setattr("worker_app.firstruns.time", rows_run)  # each row takes a second
    path = onnx_models.write(
        tmp_path / "m.onnx",
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        [onnx_types.info("x", "FP32", ["batch", 1])],
        [onnx_types.info("y", "FP32", ["batch", 2**24])],  # 64 MiB each
        {"shape": np.array([1, 2**24], np.int64)},
    )
    engine = load(path, rows=32)
    assert max(each["x"][0] for each in found) == 3
    assert engine.batches
    assert (engine.fixed_s, engine.each_s) == (0.0, 1.0)


@pytest.mark.parametrize("rows", [10**9, 10**30])
def test_a_warm_up_that_no_memory_holds_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(
        ModelError, match=r"warm_up has \[10+, 4\] for 'input': \d+ MiB of inputs, and 1024 is the limit"
    ):
        load(onnx_models.linear(tmp_path / "m.onnx"), Record(warm_up=({"input": (rows, 4)},)))


def test_sizes_that_vary_are_warmed_up_with_what_the_model_takes(tmp_path: Path) -> None:
    engine = load(onnx_types.pooled(tmp_path / "m.onnx", size=20))
    assert engine.read(engine.probe).arrays[0].shape == (1, 2, 32, 32)


def test_a_model_that_takes_none_of_the_usual_sizes_is_told_of_its_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = onnx_types.pooled(tmp_path / "m.onnx", size=300)
    assert load(path).cold
    assert "does not run on zeros: " in caplog.text
    assert '"warm_up": [{' in caplog.text
    with pytest.raises(ModelError, match="does not run on zeros"):
        load(path, Record(warm_up=({"image": (1, 2, 3, 3)},)))
    engine = load(path, Record(warm_up=({"image": (1, 2, 300, 310)},)))
    assert engine.read(engine.probe).arrays[0].shape == (1, 2, 300, 310)


def picky(path: Path, least: int) -> Path:
    """`ids` INT64 [batch, 2] -> `rows` FP32 [batch, 2, 2], from a table of 3; ids are `least` - 3 to `least` + 2."""
    return onnx_models.write(
        path,
        [
            helper.make_node("Sub", ["ids", "least"], ["place"]),
            helper.make_node("Gather", ["table", "place"], ["rows"]),
        ],
        [onnx_types.info("ids", "INT64", ["batch", 2])],
        [onnx_types.info("rows", "FP32", ["batch", 2, 2])],
        {"least": np.array([least], np.int64), "table": np.arange(6, dtype="f4").reshape(3, 2)},
    )


def test_a_model_that_takes_no_zeros_is_warmed_up_with_ones(tmp_path: Path) -> None:
    engine = load(picky(tmp_path / "m.onnx", 4))
    assert not engine.cold
    numbers = onnx_models.write(
        tmp_path / "words.onnx",
        [helper.make_node("Cast", ["words"], ["numbers"], to=TensorProto.FLOAT)],
        [onnx_types.info("words", "BYTES", ["batch", 2])],
        [onnx_types.info("numbers", "FP32", ["batch", 2])],
        {},
    )
    assert not load(numbers).cold


def test_a_model_that_takes_neither_serves_cold_until_an_input_has_run(tmp_path: Path) -> None:
    engine = load(picky(tmp_path / "m.onnx", 100))
    assert (engine.cold, engine.batches) == (True, False)  # it is not known yet whether it keeps rows apart
    engine.shrink()
    wrong, right = engine.read(b"[1,2]"), engine.read(b"[100,102]")
    (result,) = engine.run([wrong]).results
    assert isinstance(result, ApiError)  # nothing says that the engine is to blame
    assert (result.status, result.code, engine.cold) == (422, "model_refused_input", True)
    assert engine.run([wrong, right]).results[1] == b"[0.0,1.0,4.0,5.0]"
    assert (engine.cold, engine.batches) == (False, True)
    assert engine.run([engine.read(engine.probe)]).results[0]
    assert np.array_equal(engine.read(engine.probe).arrays[0], [[100, 102]])
    (result,) = engine.run([wrong]).results
    assert isinstance(result, ApiError)
    engine.shrink()


def test_the_shapes_of_the_record_are_run_before_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_models.dynamic(tmp_path / "m.onnx")
    found = shapes_run(monkeypatch)
    load(path, Record(warm_up=({"input": (6, 5)}, {"input": (3, 9)}), sessions=2))
    for shape in ([1, 5], [4, 5], [6, 5], [3, 9]):
        assert found.count({"input": shape}) >= 2  # once in each session


def test_inputs_that_the_warm_up_leaves_out_follow_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shapes_run(monkeypatch)
    load(onnx_types.square(tmp_path / "m.onnx"), Record(warm_up=({"a": (2, 3, 5)},)))
    assert {"a": [2, 3, 5], "b": [2, 5, 3]} in found


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        ({"other": (1, 4)}, r"warm_up names the input 'other'"),
        ({"input": (1, 5)}, r"warm_up has \[1, 5\] for 'input', which is \[batch, 4\]"),
        ({"input": (4,)}, r"warm_up has \[4\]"),
    ],
)
def test_a_warm_up_that_does_not_fit_is_refused(tmp_path: Path, shapes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        load(onnx_models.linear(tmp_path / "m.onnx"), Record(warm_up=(shapes,)))


def test_what_the_batch_costs_is_known_after_the_warm_up(tmp_path: Path) -> None:
    engine = load(onnx_models.slow(tmp_path / "m.onnx", work=300))
    assert engine.typical_s > 0
    assert engine.fixed_s + engine.each_s >= engine.typical_s * (1 - 1e-9)
    alone = load(onnx_models.fixed_batch(tmp_path / "n.onnx"))
    assert alone.each_s > 0
