"""What an engine finds in a model's file, and which files it refuses."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from inference_site.lib.record import Padding, Record
from tests.support import onnx_models, onnx_types
from tests.support.engines import answers, ask, binary_ask, load
from tests.support.onnx_models import save
from tests.support.processes import wait_until
from worker_app.engine import Engine, ModelError


def test_what_it_takes_and_gives_is_described(tmp_path: Path) -> None:
    engine = Engine(onnx_types.mixed(tmp_path / "m.onnx"), Record(), name="several", version="7", warm_up_rows=2)
    assert (engine.name, engine.version, engine.output, engine.batches, engine.sessions) == (
        "several",
        "7",
        "sums",
        True,
        1,
    )
    assert [(each.name, each.datatype, each.shape) for each in engine.inputs] == [
        ("floats", "FP32", (-1, 2)),
        ("whole", "INT64", (-1,)),
        ("words", "BYTES", (-1, -1)),
    ]
    assert [(each.name, each.datatype, each.shape) for each in engine.outputs] == [
        ("sums", "FP32", (-1, 2)),
        ("same", "BYTES", (-1, -1)),
        ("doubled", "INT64", (-1,)),
    ]
    described = engine.describe()
    assert described["name"] == "several"
    assert described["inputs"][1] == {"name": "whole", "datatype": "INT64", "shape": [-1]}
    assert (described["input"], described["input_shape"], described["input_type"]) == (
        "floats",
        ["batch", 2],
        "float32",
    )


def test_a_fixed_batch_runs_one_by_one(tmp_path: Path) -> None:
    engine = load(onnx_models.fixed_batch(tmp_path / "m.onnx"))
    assert not engine.batches
    assert engine.describe()["input_shape"] == [1, 4]
    assert load(onnx_models.linear(tmp_path / "n.onnx")).describe()["input_shape"] == ["batch", 4]
    found = answers(ask(engine, binary_ask({"input": np.ones((1, 4), "f4")})))
    assert found["output"].shape == (1, 3)


def test_scalars_and_a_vector_make_no_batch(tmp_path: Path) -> None:
    engine = load(onnx_types.scalars(tmp_path / "m.onnx"))
    assert not engine.batches
    assert ask(engine, b'{"x":[2],"y":[1,2,3]}') == b"[2.0,4.0,6.0]"
    sample = engine.read(binary_ask({"x": np.array(2.0), "y": np.array([1.0, 2, 3])}))
    assert sample.rows == 1
    assert answers(engine.run([sample]).results[0])["output"].tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("inputs", "output", "batches"),
    [
        ([["batch", 2], ["batch", 2]], ["batch", 2], True),
        ([[None, 2], [None, 2]], [None, 2], True),
        ([["unk__1", 2], ["unk__2", 2]], ["unk__3", 2], True),
        ([["batch", 2], [None, 2]], ["other", 2], True),
        ([["n", 2], ["m", 2]], ["n", 2], False),  # they count different things
        ([["batch", "n"], ["batch", "n"]], ["n", 2], False),  # the output has a row for each column
        ([["batch", 2], ["batch", 2]], [1, 2], False),
        ([["batch", 2], [1, 2]], ["batch", 2], False),
        ([["batch", 2], []], ["batch", 2], False),
    ],
)
def test_it_batches_only_if_the_first_size_of_all_counts_rows(
    inputs: list[list[Any]], output: list[Any], batches: bool
) -> None:
    from worker_app.signature import Signature

    class Named:
        type = "tensor(float)"

        def __init__(self, name: str, shape: list[Any]) -> None:
            self.name, self.shape = name, shape

    found = Signature.of([Named(f"in{i}", shape) for i, shape in enumerate(inputs)], [Named("out", output)])
    assert found.batch_axis == batches


def test_a_classifier_answers_its_probabilities(tmp_path: Path) -> None:
    engine = load(onnx_models.classifier(tmp_path / "m.onnx"))
    assert engine.output == "probabilities"


def test_the_record_may_choose_another_output(tmp_path: Path) -> None:
    path = onnx_models.classifier(tmp_path / "m.onnx")
    path.with_suffix(".json").write_text('{"name": "chosen", "output": "label", "note": "for people"}')
    engine = load(path)
    assert (engine.record.name, engine.output) == ("chosen", "label")


def test_a_record_that_names_no_output_of_the_model_is_refused(tmp_path: Path) -> None:
    path = onnx_models.classifier(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx: .*'logits'.*\['label', 'probabilities'\]"):
        load(path, Record(output="logits"))


def test_the_record_says_whether_short_inputs_are_padded(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    path.with_name("m.onnx.json").write_text('{"pad_with_zeros": true}')
    engine = load(path)
    assert engine.record.name == "m"
    assert ask(engine, b"[1]") == ask(engine, b"[1,0,0,0]")


def test_a_model_with_several_inputs_asks_for_them_by_name(tmp_path: Path) -> None:
    from inference_site.lib.errors import ApiError

    engine = load(onnx_models.two_inputs(tmp_path / "m.onnx"))
    with pytest.raises(ApiError, match=r"takes 2 inputs \('a', 'b'\); send \"inputs\"") as caught:
        engine.read(b"[1,2,3,4]")
    assert (caught.value.status, caught.value.code) == (422, "several_inputs")
    assert ask(engine, b'{"b":[1,2,3,4],"a":[[5,5,5,5]]}') == b"[4.0,3.0,2.0,1.0]"
    with pytest.raises(ApiError, match=r"also needs 'b'") as caught:
        engine.read(b'{"a":[1,2,3,4]}')
    assert (caught.value.status, caught.value.code) == (422, "missing_input")


def test_an_element_type_that_cannot_be_served_is_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input"], ["output"], to=TensorProto.FLOAT)],
        "odd",
        [helper.make_tensor_value_info("input", TensorProto.BFLOAT16, ["batch", 1])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 1])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ModelError, match=r"m\.onnx: input 'input' is tensor\(bfloat16\)"):
        load(path)


def test_an_output_that_is_no_tensor_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    floats = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 2])
    rows = helper.make_tensor_sequence_value_info("rows", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["input"], ["output"]),
            helper.make_node("SequenceConstruct", ["input", "input"], ["rows"]),
        ],
        "sequence",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 2])],
        [rows, floats],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    engine = load(path)
    assert "output 'rows' is seq(tensor(float)), which is not served" in caplog.text
    assert ([each.name for each in engine.outputs], engine.batches) == (["output"], True)
    assert ask(engine, b"[1,2]") == b"[1.0,2.0]"


def test_maps_as_scikit_learn_exports_them_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    )
    maps = helper.make_value_info("maps", kind)
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"])
    nodes = [
        helper.make_node("ArgMax", ["input"], ["label"], axis=1, keepdims=0),
        helper.make_node("ZipMap", ["input"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])]
    domains = ("", "ai.onnx.ml")
    engine = load(save(tmp_path / "m.onnx", helper.make_graph(nodes, "zip", inputs, [label, maps]), domains))
    assert "output 'maps' is seq(map(int64,tensor(float))), which is not served; export it without" in caplog.text
    assert (engine.output, engine.batches) == ("label", True)
    assert engine.run([engine.read(b"[1,5,2]"), engine.read(b"[9,5,2]")]).results == [b"[1]", b"[0]"]
    alone = save(tmp_path / "n.onnx", helper.make_graph(nodes[1:], "zip", inputs, [maps]), domains)
    with pytest.raises(ModelError, match=r"none of its outputs can be served.*options=\{\"zipmap\": False\}"):
        load(alone)


def test_an_optional_input_is_never_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    floats = helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", 3])
    one, other = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("one", "other"))
    given = helper.make_graph(
        [helper.make_node("OptionalGetElement", ["more"], ["got"]), helper.make_node("Add", ["x", "got"], ["one"])],
        "given", [], [one],
    )  # fmt: skip
    missing = helper.make_graph([helper.make_node("Identity", ["x"], ["other"])], "missing", [], [other])
    graph = helper.make_graph(
        [
            helper.make_node("OptionalHasElement", ["more"], ["has"]),
            helper.make_node("If", ["has"], ["y"], then_branch=given, else_branch=missing),
        ],
        "optional",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3]),
            helper.make_value_info("more", helper.make_optional_type_proto(floats)),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    engine = load(save(tmp_path / "m.onnx", graph))
    assert "input 'more' is optional(tensor(float)), which is never sent" in caplog.text
    assert ([each.name for each in engine.inputs], engine.batches) == (["x"], True)
    assert ask(engine, b"[1,2,3]") == b"[1.0,2.0,3.0]"


def test_a_weight_that_is_said_to_be_an_input_need_not_be_sent(tmp_path: Path) -> None:
    model = onnx.load(onnx_models.linear(tmp_path / "m.onnx"))
    model.graph.input.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, [4, 3]))
    onnx.save(model, tmp_path / "m.onnx")
    engine = load(tmp_path / "m.onnx")
    assert ([each.name for each in engine.inputs], engine.batches) == (["input"], True)
    assert ask(engine, b"[1,0,0,0]") == ask(load(onnx_models.linear(tmp_path / "n.onnx")), b"[1,0,0,0]")


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model at .*gone\.onnx; set MODEL_PATH"):
        load(tmp_path / "gone.onnx")
    with pytest.raises(ModelError, match="no model at"):
        load(tmp_path)  # a directory


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0" * 1000])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        load(path)


def test_a_model_cut_short_is_named(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "cut.onnx")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        load(path)


@pytest.mark.parametrize(
    ("padding", "named"),
    [
        (Padding(dimension="length", buckets=(8,)), r"the dimension 'length'; the inputs are ids \[batch, sequence\]"),
        (Padding(dimension="sequence", buckets=()), "no buckets"),
        (Padding(dimension="sequence", buckets=(8,), mask="attention"), "mask names the input 'attention'"),
        (Padding(dimension="sequence", buckets=(8,), values={"word": 1}), "names the input 'word'"),
        (Padding(dimension="sequence", buckets=(8,), values={"ids": 0.5}), r"fills 'ids' with 0\.5.* no INT64"),
        (Padding(dimension="batch", buckets=(8,), mask="mask"), "which is the batch"),
    ],
)
def test_a_padding_that_does_not_fit_is_refused(tmp_path: Path, padding: Padding, named: str) -> None:
    with pytest.raises(ModelError, match=named):
        load(onnx_types.masked_mean(tmp_path / "m.onnx"), Record(padding=padding))


def test_it_can_be_loaded_beside_what_serves(tmp_path: Path) -> None:
    import threading

    path = onnx_models.mlp(tmp_path / "m.onnx", (64, 512, 512, 10))
    engine = load(path)
    stop, runs = threading.Event(), 0

    def serve() -> None:
        nonlocal runs
        sample = engine.read(engine.probe)
        while not stop.is_set():
            engine.run([sample])
            runs += 1

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        wait_until("it serves", lambda: runs)
        other = load(path)
    finally:
        stop.set()
        thread.join()
    assert other.run([other.read(other.probe)]).results == engine.run([engine.read(engine.probe)]).results


def test_memory_is_given_back_without_a_change_of_the_answers(tmp_path: Path) -> None:
    path = onnx_models.mlp(tmp_path / "m.onnx", (64, 128, 10))
    engine = load(path, Record(sessions=2))
    before = ask(engine, engine.probe)
    engine.shrink()
    assert ask(engine, engine.probe) == before


def test_memory_that_was_freed_between_what_is_kept_is_given_back(tmp_path: Path) -> None:
    def resident_mib() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    both = [(b"\1" * 100_000, bytes([1]) * 2000) for _ in range(600)]  # too small for pages of their own
    kept = [small for _, small in both]
    both.clear()
    before = resident_mib()
    engine.shrink()
    assert resident_mib() < before - 30
    assert len(kept) == 600


def test_a_file_that_is_replaced_while_it_is_loaded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker_app.providers import create_sessions as real

    path, other = onnx_models.linear(tmp_path / "m.onnx"), onnx_models.linear(tmp_path / "n.onnx", n_out=2)

    def slow(*args: Any, **options: Any) -> Any:
        sessions = real(*args, **options)
        path.write_bytes(other.read_bytes())
        return sessions

    monkeypatch.setattr("worker_app.engine.create_sessions", slow)
    with pytest.raises(ModelError, match=r"m\.onnx was changed while it was loaded; load it again"):
        load(path)
    monkeypatch.undo()
    assert load(path).digest == load(other).digest
