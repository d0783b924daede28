"""Models with one fault each that a look at their shapes does not show, and healthy ones that look like them."""

from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.support.onnx_models import IR_VERSION, OPSET, float_info, write

_write = partial(write, full_check=False)  # which would find some of what is wrong with them
IDS = 12
WIDTH = 6


def softmax_over_the_batch(path: Path) -> Path:
    """`input` float [batch, 4] -> softmax over the rows: alone, each row is all ones."""
    return _write(
        path,
        [helper.make_node("Softmax", ["input"], ["output"], axis=0)],
        [float_info("input", "batch", 4)],
        [float_info("output", "batch", 4)],
    )


def normalised_over_the_batch(path: Path) -> Path:
    """A batch norm as training leaves it: the mean of the rows is taken off each."""
    return _write(
        path,
        [
            helper.make_node("ReduceMean", ["input"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["input", "mean"], ["output"]),
        ],
        [float_info("input", "batch", 4)],
        [float_info("output", "batch", 4)],
    )


def text_without_batch(path: Path, *, ids: bool = True) -> Path:
    """`words` [sequence], ids INT64 or, with a width of 6, floats -> `output` float [sequence, 6]: each word looks at
    all the others, of the one text that there is. What looks like a batch is none."""
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["states"]),
        helper.make_node("Transpose", ["states"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["states", "turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=1),
        helper.make_node("MatMul", ["shares", "states"], ["output"]),
    ]
    words = helper.make_tensor_value_info("words", TensorProto.INT64, ["sequence"])
    constants: dict[str, NDArray[np.generic]] = {
        "table": np.random.default_rng(0).standard_normal((IDS, WIDTH)).astype(np.float32)
    }
    if not ids:
        nodes[0] = helper.make_node("Identity", ["words"], ["states"])
        words = float_info("words", "sequence", WIDTH)
    return _write(path, nodes, [words], [float_info("output", "sequence", WIDTH)], constants if ids else {})


def quantised_over_the_batch(path: Path) -> Path:
    """Dynamic quantisation: the scale of the 8-bit numbers follows the largest value of the whole batch."""
    return _write(
        path,
        [
            helper.make_node("DynamicQuantizeLinear", ["input"], ["small", "scale", "zero"]),
            helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["output"]),
        ],
        [float_info("input", "batch", 4)],
        [float_info("output", "batch", 4)],
    )


def reshaped_to_one_row(path: Path) -> Path:
    """`input` float [batch, 4], a size that is fixed inside, where its shapes do not show it: two rows fail."""
    return _write(
        path,
        [
            *_hidden_shape(),
            helper.make_node("Reshape", ["input", "hidden_shape"], ["row"]),
            helper.make_node("Relu", ["row"], ["output"]),
        ],
        [float_info("input", "batch", 4)],
        [float_info("output", "batch", 4)],
        {"shape": np.array([1, 4], np.int64), "nothing": np.array(0, np.int64)},
    )


def openly_reshaped_to_one_row(path: Path) -> Path:
    """The same, and ONNX Runtime sees it: it calls the output [1, 4], while the input still says [batch, 4]."""
    return _write(
        path,
        [helper.make_node("Reshape", ["input", "shape"], ["output"])],
        [float_info("input", "batch", 4)],
        [float_info("output", "batch", 4)],
        {"shape": np.array([1, 4], np.int64)},
    )


def flattened_batch(path: Path) -> Path:
    """`input` float [batch, 4] -> [1, batch * 4]: runs with any batch and answers one row."""
    return _write(
        path,
        [
            *_hidden_shape(),
            helper.make_node("Reshape", ["input", "hidden_shape"], ["output"]),
        ],
        [float_info("input", "batch", 4)],
        [float_info("output", "rows", "values")],
        {"shape": np.array([1, -1], np.int64), "nothing": np.array(0, np.int64)},
    )


def noisy(path: Path) -> Path:
    """`input` float [batch, 4] plus noise: answers the same input otherwise each time."""
    return _write(
        path,
        [
            helper.make_node("RandomNormalLike", ["input"], ["noise"], scale=0.1),
            helper.make_node("Add", ["input", "noise"], ["output"]),
        ],
        [float_info("input", "batch", 4)],
        [float_info("output", "batch", 4)],
    )


def not_a_number(path: Path) -> Path:
    """`input` float [batch, 4] -> its arc cosine after adding 2: NaN for all above -1, so for all that is usual."""
    return _write(
        path,
        [
            helper.make_node("Add", ["input", "two"], ["sum"]),
            helper.make_node("Acos", ["sum"], ["output"]),
        ],
        [float_info("input", "batch", 4)],
        [float_info("output", "batch", 4)],
        {"two": np.array(2, np.float32)},
    )


def sentence(path: Path, *, heeds_mask: bool, masked_input: bool = True, longest: int = 0) -> Path:
    """`input_ids` int64 [batch, sequence] -> the mean of the words' vectors, of those alone that `attention_mask` says
    are there if it heeds it; `longest` words at the most, if not 0."""
    table = np.random.default_rng(0).standard_normal((IDS, WIDTH)).astype(np.float32)
    constants: dict[str, NDArray[np.generic]] = {"table": table, "second": np.array([1], np.int64)}
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["words"])]
    words = "words"
    if longest:
        # A vector for each position, as far as there are: what is longer can't be looked up.
        constants |= {
            "positions": np.linspace(0, 1, longest * WIDTH, dtype=np.float32).reshape(longest, WIDTH),
            "zero": np.array(0, np.int64),
            "one": np.array(1, np.int64),
        }
        nodes += [
            helper.make_node("Shape", ["input_ids"], ["shape"]),
            helper.make_node("Gather", ["shape", "one"], ["length"]),
            helper.make_node("Range", ["zero", "length", "one"], ["places"]),
            helper.make_node("Gather", ["positions", "places"], ["placed"]),
            helper.make_node("Add", ["words", "placed"], ["placed_words"]),
        ]
        words = "placed_words"
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])]
    if masked_input:
        inputs.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"]))
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["there"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["there", "last"], ["there3"]),
        ]
        constants["last"] = np.array([2], np.int64)
    if heeds_mask:
        nodes += [
            helper.make_node("Mul", [words, "there3"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "second"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["there3", "second"], ["count"], keepdims=0),
            helper.make_node("Div", ["sum", "count"], ["output"]),
        ]
    else:
        nodes.append(helper.make_node("ReduceMean", [words], ["output"], axes=[1], keepdims=0))
    return _write(path, nodes, inputs, [float_info("output", "batch", WIDTH)], constants)


def float_label(path: Path) -> Path:
    """`input` float [batch, 4] -> `label` float [batch] first, then `probabilities` float [batch, 4]."""
    return _write(
        path,
        [
            helper.make_node("Softmax", ["input"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["position"], axis=1, keepdims=0),
            helper.make_node("Cast", ["position"], ["label"], to=TensorProto.FLOAT),
        ],
        [float_info("input", "batch", 4)],
        [float_info("label", "batch"), float_info("probabilities", "batch", 4)],
    )


def endless(path: Path) -> Path:
    """`input` float [batch, 4]: turns a loop so long that no run ends within the time of any test."""
    body = helper.make_graph(
        [
            helper.make_node("Cos", ["state"], ["next_state"]),
            helper.make_node("Identity", ["go_on"], ["still_on"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            float_info("state", "rows", 4),
        ],
        [helper.make_tensor_value_info("still_on", TensorProto.BOOL, []), float_info("next_state", "rows", 4)],
    )
    return _write(
        path,
        [helper.make_node("Loop", ["turns", "on", "input"], ["output"], body=body)],
        [float_info("input", "batch", 4)],
        [float_info("output", "batch", 4)],
        {"turns": np.array(10**12, np.int64), "on": np.array(True)},
    )


def only_one_width(path: Path, width: int) -> Path:
    """`input` float [batch, width] -> twice it; whatever its shapes say, it takes one width alone."""
    return _write(
        path,
        [
            helper.make_node("Add", ["input", "two"], ["sum"]),
            helper.make_node("MatMul", ["sum", "weights"], ["output"]),
        ],
        [float_info("input", "batch", "width")],
        [float_info("output", "batch", 2)],
        {"two": np.array(2, np.float32), "weights": np.ones((width, 2), np.float32)},
    )


def words(path: Path) -> Path:
    """`text` string [batch, 1] -> `number` float [batch, 1]: only text that is a number can be read."""
    return _write(
        path,
        [helper.make_node("Cast", ["text"], ["number"], to=TensorProto.FLOAT)],
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch", 1])],
        [float_info("number", "batch", 1)],
    )


def external(path: Path) -> Path:
    """`input` float [batch, 4], whose weights lie in `<name>.weights` beside it."""
    weights = np.arange(400, dtype=np.float32).reshape(4, 100)
    _write(
        path,
        [helper.make_node("MatMul", ["input", "weights"], ["output"])],
        [float_info("input", "batch", 4)],
        [float_info("output", "batch", 100)],
        {"weights": weights},
    )
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.stem}.weights", size_threshold=0)
    return path


def stamped(path: Path, *, opset: int = OPSET, ir_version: int = IR_VERSION, operator: str = "Relu") -> Path:
    """One operator [batch, 4] -> [batch, 4], with what may be too new for ONNX Runtime."""
    domain, _, kind = operator.rpartition(":")
    node = helper.make_node(kind, ["input"], ["output"], domain=domain)
    graph = helper.make_graph([node], "stamped", [float_info("input", "batch", 4)], [float_info("output", "batch", 4)])
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString(deterministic=True)
    )
    return path


def _hidden_shape() -> list[onnx.NodeProto]:
    """`shape` as something computed from the input, so that shape inference does not see through it."""
    return [
        helper.make_node("Shape", ["input"], ["own_shape"]),
        helper.make_node("Mul", ["own_shape", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "shape"], ["hidden_shape"]),
    ]
