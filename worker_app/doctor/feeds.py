"""Inputs to try a model with: random ones of every datatype, by a recipe of sizes and ranges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference_site.lib.datatypes import BYTES, NUMPY
from worker_app.doctor.compare import Array
from worker_app.doctor.report import Recipe, Tensor

Feed = dict[str, Array]

# Small, because ids must be found in a table whose size the file does not tell.
LARGEST_ID = 9
WORDS = np.array(["a", "the", "model", "ONNX", "größe", ""], dtype=object)


def is_mask(tensor: Tensor) -> bool:
    return "mask" in tensor.name.lower() and tensor.datatype != BYTES


def first_symbols(inputs: Sequence[Tensor]) -> frozenset[str]:
    """The names of the first sizes, if every input has one that may vary: what looks like a batch. Else none."""
    first = [tensor.symbols[0] if tensor.symbols else None for tensor in inputs]
    return frozenset(symbol for symbol in first if symbol) if all(first) else frozenset()


def length_symbols(inputs: Sequence[Tensor], batch: frozenset[str]) -> tuple[str, ...]:
    """The other sizes that may vary, in the order of the inputs."""
    found = (symbol for tensor in inputs for symbol in tensor.symbols if symbol and symbol not in batch)
    return tuple(dict.fromkeys(found))


def shape_of(tensor: Tensor, lengths: dict[str, int], batch: frozenset[str], rows: int) -> tuple[int, ...]:
    return tuple(
        size if symbol is None else rows if symbol in batch else lengths.get(symbol, 1)
        for size, symbol in zip(tensor.shape, tensor.symbols, strict=True)
    )


def zeros(inputs: Sequence[Tensor], lengths: dict[str, int], batch: frozenset[str], rows: int = 1) -> Feed:
    """What a worker warms a model up with."""
    return {
        tensor.name: np.full(shape_of(tensor, lengths, batch, rows), "" if tensor.datatype == BYTES else 0,
                             dtype=NUMPY[tensor.datatype])
        for tensor in inputs
    }  # fmt: skip


def random(
    inputs: Sequence[Tensor], recipe: Recipe, batch: frozenset[str], rng: np.random.Generator, rows: int = 1
) -> Feed:
    """Fresh random inputs; a mask is all ones: everything is there."""
    return {
        tensor.name: _random(tensor, shape_of(tensor, recipe.lengths, batch, rows), recipe, rng) for tensor in inputs
    }


def _random(tensor: Tensor, shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator) -> Array:
    dtype = NUMPY[tensor.datatype]
    if is_mask(tensor):
        return np.ones(shape, dtype)
    if dtype.kind == "f":
        values = rng.standard_normal(shape) if recipe.floats == "normal" else rng.random(shape)
        return values.astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    high = recipe.highs.get(tensor.name, LARGEST_ID)
    if dtype.kind == "O":
        return np.asarray(rng.choice(WORDS, shape) if high else rng.integers(0, 10, shape).astype(str)).astype(dtype)
    return rng.integers(0, high + 1, shape).astype(dtype)


def row(feed: Feed, index: int) -> Feed:
    """One row of a batch, as a batch of one."""
    return {name: value[index : index + 1] for name, value in feed.items()}
