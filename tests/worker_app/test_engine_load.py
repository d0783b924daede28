"""How a model is loaded: what is served of it, its record, its warm-up, and the reasons why it is not served."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from inference_site.lib.errors import ApiError
from inference_site.lib.record import Padding, Record
from tests.support import onnx_models, onnx_types
from tests.support.engines import answers, ask, binary_ask, load
from worker_app.engine import Engine, ModelError


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


def save(path: Path, graph: onnx.GraphProto, domains: tuple[str, ...] = ("",), opset: int = 18) -> Path:
    """A model that the checker may not know."""
    versions = [helper.make_opsetid(each, opset if not each else 1) for each in domains]
    onnx.save(helper.make_model(graph, opset_imports=versions, ir_version=8), path)
    return path


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
    assert engine.each_s > 0


@pytest.mark.parametrize("rows", [10**9, 10**30])
def test_a_warm_up_that_no_memory_holds_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(
        ModelError, match=r"warm_up has \[10+, 4\] for 'input': \d+ MiB of inputs, and 1024 is the limit"
    ):
        load(onnx_models.linear(tmp_path / "m.onnx"), Record(warm_up=({"input": (rows, 4)},)))


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
    assert (engine.cold, engine.batches) == (True, True)
    engine.shrink()
    wrong, right = engine.read(b"[1,2]"), engine.read(b"[100,102]")
    (result,) = engine.run([wrong]).results
    assert isinstance(result, ApiError)  # nothing says that the engine is to blame
    assert (result.status, result.code, engine.cold) == (422, "model_refused_input", True)
    assert engine.run([wrong, right]).results[1] == b"[0.0,1.0,4.0,5.0]"
    assert not engine.cold
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


def test_what_the_batch_costs_is_known_after_the_warm_up(tmp_path: Path) -> None:
    engine = load(onnx_models.slow(tmp_path / "m.onnx", work=300))
    assert engine.typical_s > 0
    assert engine.fixed_s + engine.each_s >= engine.typical_s
    alone = load(onnx_models.fixed_batch(tmp_path / "n.onnx"))
    assert alone.each_s > 0


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
        other = load(path)
    finally:
        stop.set()
        thread.join()
    assert runs > 0
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
