"""A model repository as an operator fills it, and models whose answers say which of them has answered."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from inference_site.lib.datatypes import BYTES, NUMPY
from tests.support.onnx_models import float_info, write
from tests.support.onnx_types import ELEMENTS

STEP = 1000.0  # from version to version


def publish(repository: Path, name: str, version: int, make: Callable[[Path], Path], record: Any = None) -> Path:
    """Puts a version there so that nobody finds half of it; its file is returned. `make` writes a model to a path."""
    whole = repository / name / str(version)
    part = repository / name / f".{version}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    make(part / "model.onnx")
    if record is not None:
        (part / "model.json").write_text(json.dumps(record))
    if whole.exists():
        shutil.rmtree(whole)
    part.rename(whole)
    return whole / "model.onnx"


def broken(path: Path) -> Path:
    """A file that is no model."""
    path.write_bytes(b"this is no model")
    return path


def marked(mark: int, work: int = 0) -> Callable[[Path], Path]:
    """`input` float [batch, 4] -> `output` float [batch, 4] = input + mark × STEP: each answer says who gave it.

    `work` turns of a loop make a run take longer, by some µs each, whatever the batch.
    """

    def make(path: Path) -> Path:
        if not work:
            return write(
                path,
                [helper.make_node("Add", ["input", "mark"], ["output"])],
                [float_info("input", "batch", 4)],
                [float_info("output", "batch", 4)],
                {"mark": np.array(mark * STEP, np.float32)},
            )
        body = helper.make_graph(
            [
                helper.make_node("MatMul", ["state", "turn"], ["turned"]),
                helper.make_node("Tanh", ["turned"], ["next_state"]),
                helper.make_node("Identity", ["go_on"], ["still_on"]),
            ],
            "turn_once",
            [
                helper.make_tensor_value_info("turn_number", TensorProto.INT64, []),
                helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
                float_info("state", 128, 128),
            ],
            [helper.make_tensor_value_info("still_on", TensorProto.BOOL, []), float_info("next_state", 128, 128)],
        )
        return write(
            path,
            [
                helper.make_node("Loop", ["turns", "on", "start"], ["settled"], body=body),
                helper.make_node("ReduceSum", ["settled"], ["zero"], keepdims=0),  # zeros stay zeros
                helper.make_node("Add", ["input", "mark"], ["sum"]),
                helper.make_node("Add", ["sum", "zero"], ["output"]),
            ],
            [float_info("input", "batch", 4)],
            [float_info("output", "batch", 4)],
            {
                "mark": np.array(mark * STEP, np.float32),
                "turns": np.array(work, np.int64),
                "on": np.array(True),
                "turn": np.ones((128, 128), np.float32),
                "start": np.zeros((128, 128), np.float32),
            },
        )

    return make


def mark_of(values: Sequence[float], answer: Sequence[float]) -> int | None:
    """Whose answer to these values this is; None if nobody's."""
    difference = np.asarray(answer, np.float64) - np.asarray(values, np.float64)
    mark = round(float(difference[0]) / STEP)
    return mark if np.abs(difference - mark * STEP).max() < 0.01 else None


def every_type(path: Path) -> Path:
    """For each datatype of the protocol an input `in_X` [batch, n], given back as `out_X`."""
    names = list(ELEMENTS)
    return write(
        path,
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in names],
        [helper.make_tensor_value_info(f"in_{name}", ELEMENTS[name], ["batch", "n"]) for name in names],
        [helper.make_tensor_value_info(f"out_{name}", ELEMENTS[name], ["batch", "n"]) for name in names],
        {},
    )


def typed(datatype: str, mark: int = 0) -> Callable[[Path], Path]:
    """`a`, `b` of one datatype and any equal shapes -> `a_again`, `b_again`, the same; `shape`, the shape of a, int64;
    `mark`, a constant, int64: an answer says what was asked, and of whom."""

    def make(path: Path) -> Path:
        kind = ELEMENTS[datatype]
        return write(
            path,
            [
                helper.make_node("Identity", ["a"], ["a_again"]),
                helper.make_node("Identity", ["b"], ["b_again"]),
                helper.make_node("Shape", ["a"], ["shape"]),
                helper.make_node("Identity", ["constant"], ["mark"]),
            ],
            [_any("a", kind), _any("b", kind)],
            [
                _any("a_again", kind),
                _any("b_again", kind),
                helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
                helper.make_tensor_value_info("mark", TensorProto.INT64, [1]),
            ],
            {"constant": np.array([mark], np.int64)},
        )

    return make


def sample_of(datatype: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """Random values of a datatype, without NaN and infinity; strings are UTF-8."""
    if datatype == BYTES:
        letters = np.array(list('ab é日😀\\"'))
        texts = ["".join(rng.choice(letters, rng.integers(0, 9))) for _ in range(math.prod(shape))]
        return np.array([text.encode() for text in texts], np.object_).reshape(shape)
    dtype = NUMPY[datatype]
    if datatype == "BOOL":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def _any(name: str, kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["rows", "columns"])
