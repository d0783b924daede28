"""Tiny ONNX models, each with one trait that an engine must handle; written to a path, which is returned."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # what opset 17 was released with: accepted by every onnxruntime since 1.12

Dim = int | str
Floats = NDArray[np.float32]


def linear_weights(n_in: int = 4, n_out: int = 3) -> tuple[Floats, Floats]:
    """Weights [n_in, n_out] and bias [n_out] of `linear`: every element differs, so a shifted answer shows."""
    weights = np.linspace(0, 1, n_in * n_out, dtype=np.float32).reshape(n_in, n_out)
    return weights, np.arange(n_out, dtype=np.float32)


def linear(path: Path, n_in: int = 4, n_out: int = 3, batch: Dim = "batch") -> Path:
    """`input` float [batch, n_in] -> `output` float [batch, n_out] = input @ weights + bias of `linear_weights`."""
    weights, bias = linear_weights(n_in, n_out)
    return write(
        path,
        [helper.make_node("Gemm", ["input", "weights", "bias"], ["output"])],
        [float_info("input", batch, n_in)],
        [float_info("output", batch, n_out)],
        {"weights": weights, "bias": bias},
    )


def fixed_batch(path: Path) -> Path:
    """`linear` whose first dimension is fixed: [1, 4] -> [1, 3]; a batch of two is refused."""
    return linear(path, batch=1)


def classifier(path: Path) -> Path:
    """`input` float [batch, 4] -> `label` int64 [batch] first, then `probabilities` float [batch, 3]: the softmax of
    the first three values, and the label is the position of the largest of them."""
    return write(
        path,
        [
            helper.make_node("MatMul", ["input", "pick"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        [float_info("input", "batch", 4)],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            float_info("probabilities", "batch", 3),
        ],
        {"pick": np.eye(4, 3, dtype=np.float32)},
    )


GATHER_ROWS = 10


def gather(path: Path) -> Path:
    """`input` float [batch, 1] -> row int(input) of a [10, 3] table; on the CPU, one value outside -10..9 in a batch
    makes the whole run raise."""
    table = np.arange(GATHER_ROWS * 3, dtype=np.float32).reshape(GATHER_ROWS, 3)
    return write(
        path,
        [
            helper.make_node("Cast", ["input"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Squeeze", ["whole", "axis"], ["rows"]),
            helper.make_node("Gather", ["table", "rows"], ["output"], axis=0),
        ],
        [float_info("input", "batch", 1)],
        [float_info("output", "batch", 3)],
        {"table": table, "axis": np.array([1], dtype=np.int64)},
    )


def touchy(path: Path, n_in: int = 8, n_out: int = 4) -> Path:
    """`linear`, but on the CPU a sample whose first value is 1000 or more makes the whole batch's run raise."""
    weights, bias = linear_weights(n_in, n_out)
    return write(
        path,
        [
            helper.make_node("Gemm", ["input", "weights", "bias"], ["answer"]),
            helper.make_node("Slice", ["input", "first", "second", "axis"], ["first_value"]),
            helper.make_node("Div", ["first_value", "thousand"], ["thousands"]),
            helper.make_node("Cast", ["thousands"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Squeeze", ["whole", "axis"], ["rows"]),
            helper.make_node("Gather", ["only_row", "rows"], ["nothing"], axis=0),
            helper.make_node("Add", ["answer", "nothing"], ["output"]),
        ],
        [float_info("input", "batch", n_in)],
        [float_info("output", "batch", n_out)],
        {
            "weights": weights,
            "bias": bias,
            "only_row": np.zeros((1, n_out), np.float32),
            "thousand": np.array(1000, np.float32),
            "first": np.array([0], np.int64),
            "second": np.array([1], np.int64),
            "axis": np.array([1], np.int64),
        },
    )


def integer_input(path: Path) -> Path:
    """`input` int64 [batch, 4] -> `output` float [batch, 1] = the sum of the four."""
    return write(
        path,
        [
            helper.make_node("Cast", ["input"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["floats", "axis"], ["output"], keepdims=1),
        ],
        [helper.make_tensor_value_info("input", TensorProto.INT64, ["batch", 4])],
        [float_info("output", "batch", 1)],
        {"axis": np.array([1], dtype=np.int64)},
    )


def mlp(path: Path, sizes: Sequence[int] = (512, 2048, 2048, 100)) -> Path:
    """`input` float [batch, sizes[0]] -> `output` float [batch, sizes[-1]], ReLU between; the default is bound by
    compute (21 MB of weights), (64, 128, 10) is a small one for tests of speed and of cross-talk."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, NDArray[np.generic]] = {}
    value, last = "input", len(sizes) - 2
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        # Scaled by the fan-in: answers keep the inputs' magnitude, and batch and single agree to about 1e-6.
        constants[f"w{layer}"] = (rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in)).astype(np.float32)
        constants[f"b{layer}"] = (rng.standard_normal(n_out) * 0.1).astype(np.float32)
        out = "output" if layer == last else f"sum{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [out]))
        if layer != last:
            value = f"relu{layer}"
            nodes.append(helper.make_node("Relu", [out], [value]))
    return write(
        path, nodes, [float_info("input", "batch", sizes[0])], [float_info("output", "batch", sizes[-1])], constants
    )


SLOW_WIDTH = 256


def slow(path: Path, work: int = 10_000) -> Path:
    """`linear` 4 -> 3 that also turns a loop `work` times: a run takes about 3 µs per turn on one core, tens of ms at
    the default, whatever the batch. The answer is that of `linear` plus a constant row."""
    weights, bias = linear_weights()
    rng = np.random.default_rng(0)
    # One state for the whole batch, and a norm below 1: it settles on one point, which is the row that is added.
    turn = (rng.standard_normal((SLOW_WIDTH, SLOW_WIDTH)) * 0.4 / np.sqrt(SLOW_WIDTH)).astype(np.float32)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "turn"], ["turned"]),
            helper.make_node("Add", ["turned", "push"], ["pushed"]),
            helper.make_node("Tanh", ["pushed"], ["next_state"]),
            helper.make_node("Identity", ["go_on"], ["still_on"]),
        ],
        "turn_once",
        [
            helper.make_tensor_value_info("turn_number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            float_info("state", 1, SLOW_WIDTH),
        ],
        [helper.make_tensor_value_info("still_on", TensorProto.BOOL, []), float_info("next_state", 1, SLOW_WIDTH)],
    )
    return write(
        path,
        [
            helper.make_node("Loop", ["turns", "on", "push"], ["settled"], body=body),
            helper.make_node("Slice", ["settled", "first", "third", "axis"], ["constant_row"]),
            helper.make_node("Gemm", ["input", "weights", "bias"], ["answer"]),
            helper.make_node("Add", ["answer", "constant_row"], ["output"]),
        ],
        [float_info("input", "batch", 4)],
        [float_info("output", "batch", 3)],
        {
            "weights": weights,
            "bias": bias,
            "turn": turn,
            "push": rng.standard_normal((1, SLOW_WIDTH)).astype(np.float32),
            "turns": np.array(work, dtype=np.int64),
            "on": np.array(True),
            "first": np.array([0], dtype=np.int64),
            "third": np.array([3], dtype=np.int64),
            "axis": np.array([1], dtype=np.int64),
        },
    )


def dynamic(path: Path) -> Path:
    """`input` float [batch, n], any n -> `output` float [batch, 1] = the sum over n: samples may differ in length."""
    return write(
        path,
        [helper.make_node("ReduceSum", ["input", "axis"], ["output"], keepdims=1)],
        [float_info("input", "batch", "n")],
        [float_info("output", "batch", 1)],
        {"axis": np.array([1], dtype=np.int64)},
    )


def nan(path: Path) -> Path:
    """`input` float [batch, 4] -> `output` float [batch, 4] = log(input): -inf for 0, NaN below it."""
    return write(
        path,
        [helper.make_node("Log", ["input"], ["output"])],
        [float_info("input", "batch", 4)],
        [float_info("output", "batch", 4)],
        {},
    )


def two_inputs(path: Path) -> Path:
    """`a`, `b` float [batch, 4] -> `output` float [batch, 4] = a - b; a run without either raises."""
    return write(
        path,
        [helper.make_node("Sub", ["a", "b"], ["output"])],
        [float_info("a", "batch", 4), float_info("b", "batch", 4)],
        [float_info("output", "batch", 4)],
        {},
    )


def float_info(name: str, *shape: Dim) -> onnx.ValueInfoProto:
    """An input or an output of floats."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, NDArray[np.generic]] | None = None,
    *,
    full_check: bool = True,
) -> Path:
    """Check the model and write it: deterministic bytes, so equal builders give equal digests. `full_check`: shapes
    too."""
    initializers = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=full_check)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def save(path: Path, graph: onnx.GraphProto, domains: tuple[str, ...] = ("",), opset: int = 18) -> Path:
    """Write a model that the checker may not know."""
    versions = [helper.make_opsetid(each, opset if not each else 1) for each in domains]
    onnx.save(helper.make_model(graph, opset_imports=versions, ir_version=IR_VERSION), path)
    return path
