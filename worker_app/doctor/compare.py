"""Whether two answers of a model are the same, within what its datatypes and the device allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker_app.doctor.report import Tensor

Array = NDArray[Any]

# Sums are added up in another order in another batch; on CUDA, by other kernels and algorithms too.
RELATIVE = {"FP16": 1e-2, "FP32": 1e-4, "FP64": 1e-8}
RELATIVE_ON_CUDA = {"FP16": 2e-2, "FP32": 3e-3, "FP64": 1e-8}
ABSOLUTE = {"FP16": 1e-3, "FP32": 1e-6, "FP64": 1e-12}
OTHER_SHAPE, NOT_FINITE = math.inf, 1e308


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest difference of one output, and what was allowed: a part of the output's largest value."""

    output: str
    largest: float
    allowed: float

    @property
    def within(self) -> bool:
        return self.largest <= self.allowed

    def __str__(self) -> str:
        if self.largest == OTHER_SHAPE:
            return f"{self.output!r} has another shape"
        if self.largest == NOT_FINITE:
            return f"{self.output!r} is NaN or infinite in one and not in the other"
        if not self.largest:
            return "equal to the bit"
        return f"the largest difference is {self.largest:.2g} in {self.output!r}, {self.allowed:.2g} is allowed"


def compare(outputs: Sequence[Tensor], left: Sequence[Array], right: Sequence[Array], *, cuda: bool) -> Difference:
    """Of all outputs the one that differs most, by how far it is beyond what is allowed. NaN equals NaN."""
    found = [_compare(tensor, a, b, cuda) for tensor, a, b in zip(outputs, left, right, strict=True)]
    return worst(found)


def worst(differences: Sequence[Difference]) -> Difference:
    """The one that is furthest beyond what is allowed, or nearest to it."""
    return max(differences, key=lambda each: (not each.within, each.largest / each.allowed if each.allowed else 0.0))


def _compare(tensor: Tensor, left: Array, right: Array, cuda: bool) -> Difference:
    if left.shape != right.shape:
        return Difference(tensor.name, OTHER_SHAPE, 0.0)
    part = (RELATIVE_ON_CUDA if cuda else RELATIVE).get(tensor.datatype)
    if part is None:  # whole numbers, booleans and strings are equal or they are not
        return Difference(tensor.name, _exactly(left, right), 0.0)
    a, b = left.astype(np.float64), right.astype(np.float64)
    # What is not finite is to be the same thing in both.
    odd = ~(np.isfinite(a) & np.isfinite(b))
    if not np.array_equal(a[odd], b[odd], equal_nan=True):
        return Difference(tensor.name, NOT_FINITE, 0.0)
    a, b = a[~odd], b[~odd]
    largest = float(np.abs(a - b).max(initial=0.0))
    scale = float(max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0)))
    return Difference(tensor.name, largest, ABSOLUTE[tensor.datatype] + part * scale)


def _exactly(left: Array, right: Array) -> float:
    if left.dtype.kind in "iu":
        return float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max(initial=0.0))
    return float((left != right).any())
