"""Tiny ONNX models of all datatypes, ranks and numbers of inputs; written to a path, which is returned."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper

from tests.support.onnx_models import Dim, Floats, linear_weights, write

ELEMENTS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def info(name: str, datatype: str, shape: Sequence[Dim | None]) -> ValueInfoProto:
    """An input or an output."""
    return helper.make_tensor_value_info(name, ELEMENTS[datatype], list(shape))


def identity(path: Path, datatype: str, shape: Sequence[Dim | None] = ("batch", 3)) -> Path:
    """`input` of any datatype and shape -> `output`, the same."""
    nodes = [helper.make_node("Identity", ["input"], ["output"])]
    return write(path, nodes, [info("input", datatype, shape)], [info("output", datatype, shape)], {})


def mixed(path: Path) -> Path:
    """`floats` FP32 [batch, 2], `whole` INT64 [batch], `words` BYTES [batch, n] -> `sums` FP32 [batch, 2] = floats +
    whole, `same` BYTES [batch, n], `doubled` INT64 [batch]."""
    return write(
        path,
        [
            helper.make_node("Cast", ["whole"], ["flat"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["flat", "axis"], ["column"]),
            helper.make_node("Add", ["floats", "column"], ["sums"]),
            helper.make_node("Identity", ["words"], ["same"]),
            helper.make_node("Add", ["whole", "whole"], ["doubled"]),
        ],
        [
            info("floats", "FP32", ["batch", 2]),
            info("whole", "INT64", ["batch"]),
            info("words", "BYTES", ["batch", "n"]),
        ],
        [
            info("sums", "FP32", ["batch", 2]),
            info("same", "BYTES", ["batch", "n"]),
            info("doubled", "INT64", ["batch"]),
        ],
        {"axis": np.array([1], np.int64)},
    )


def add(path: Path, a: Sequence[Dim | None], b: Sequence[Dim | None]) -> Path:
    """`a` FP32 and `b` FP32 of any shapes -> `output` FP32 = a + b, of the shape of `a`."""
    nodes = [helper.make_node("Add", ["a", "b"], ["output"])]
    return write(path, nodes, [info("a", "FP32", a), info("b", "FP32", b)], [info("output", "FP32", a)], {})


def square(path: Path) -> Path:
    """`a` FP32 [batch, n, m], `b` FP32 [batch, m, n] -> `product` FP32 [batch, n, n] = a @ b."""
    return write(
        path,
        [helper.make_node("MatMul", ["a", "b"], ["product"])],
        [info("a", "FP32", ["batch", "n", "m"]), info("b", "FP32", ["batch", "m", "n"])],
        [info("product", "FP32", ["batch", "n", "n"])],
        {},
    )


def scalars(path: Path) -> Path:
    """`x` FP64 [], `y` FP64 [n] -> `output` FP64 [n] = x * y: no batch."""
    return write(
        path,
        [helper.make_node("Mul", ["x", "y"], ["output"])],
        [info("x", "FP64", []), info("y", "FP64", ["n"])],
        [info("output", "FP64", ["n"])],
        {},
    )


def pooled(path: Path, size: int = 8) -> Path:
    """`image` FP32 [batch, 2, height, width] -> `output` FP32 [batch, 2]: the largest of the means over squares of
    `size`; an image that is smaller is refused."""
    return write(
        path,
        [
            helper.make_node("AveragePool", ["image"], ["means"], kernel_shape=[size, size]),
            helper.make_node("GlobalMaxPool", ["means"], ["largest"]),
            helper.make_node("Flatten", ["largest"], ["output"]),
        ],
        [info("image", "FP32", ["batch", 2, "height", "width"])],
        [info("output", "FP32", ["batch", 2])],
        {},
    )


def table_of_words() -> Floats:
    """What `masked_mean` has for each of its 10 words."""
    return np.random.default_rng(5).standard_normal((10, 4)).astype(np.float32)


def masked_mean(path: Path) -> Path:
    """`ids` INT64 [batch, sequence], `mask` INT64 [batch, sequence] -> `mean` FP32 [batch, 4], the mean of the words'
    rows of `table_of_words` where the mask is 1; `rows` FP32 [batch, sequence, 4]."""
    return write(
        path,
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0),
            helper.make_node("Cast", ["mask"], ["weights"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
            helper.make_node("Mul", ["rows", "column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "middle"], ["sums"], keepdims=0),
            helper.make_node("ReduceSum", ["weights", "middle"], ["counts"], keepdims=1),
            helper.make_node("Div", ["sums", "counts"], ["mean"]),
        ],
        [info("ids", "INT64", ["batch", "sequence"]), info("mask", "INT64", ["batch", "sequence"])],
        [info("mean", "FP32", ["batch", 4]), info("rows", "FP32", ["batch", "sequence", 4])],
        {"table": table_of_words(), "last": np.array([2], np.int64), "middle": np.array([1], np.int64)},
    )


def half(path: Path) -> Path:
    """`linear` in FP16, inputs, weights and outputs."""
    weights, bias = linear_weights()
    return write(
        path,
        [helper.make_node("Gemm", ["input", "weights", "bias"], ["output"])],
        [info("input", "FP16", ["batch", 4])],
        [info("output", "FP16", ["batch", 3])],
        {"weights": weights.astype(np.float16), "bias": bias.astype(np.float16)},
    )


def quantized(path: Path) -> Path:
    """`linear` in INT8 (QDQ): inputs from -8 to 8 in steps of 1/16, weights in steps of 1/127."""
    weights, bias = linear_weights()
    constants: dict[str, NDArray[np.generic]] = {
        "step": np.array(1 / 16, np.float32),
        "zero": np.array(0, np.int8),
        "weights": np.round(weights * 127).astype(np.int8),
        "weight_step": np.array(1 / 127, np.float32),
        "bias": bias,
    }
    return write(
        path,
        [
            helper.make_node("QuantizeLinear", ["input", "step", "zero"], ["small"]),
            helper.make_node("DequantizeLinear", ["small", "step", "zero"], ["coarse"]),
            helper.make_node("DequantizeLinear", ["weights", "weight_step", "zero"], ["coarse_weights"]),
            helper.make_node("MatMul", ["coarse", "coarse_weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["output"]),
        ],
        [info("input", "FP32", ["batch", 4])],
        [info("output", "FP32", ["batch", 3])],
        constants,
    )


def only_one_row(path: Path) -> Path:
    """`input` FP32 [batch, 4] -> `output` FP32 [batch, 4], the same; a batch of two is refused in spite of the name."""
    return write(
        path,
        [
            helper.make_node("Mul", ["input", "nothing"], ["zeros"]),  # so that ONNX Runtime can't foresee the shape
            helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Add", ["sizes", "zero"], ["whole"]),
            helper.make_node("Cast", ["whole"], ["shape"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["input", "shape"], ["output"]),
        ],
        [info("input", "FP32", ["batch", 4])],
        [info("output", "FP32", ["batch", 4])],
        {"sizes": np.array([1, 4], np.float32), "nothing": np.array(0, np.float32)},
    )
