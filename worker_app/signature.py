"""What a model takes and gives: its inputs, its outputs, whether it has a batch axis."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference_site.lib.catalog import TensorInfo
from inference_site.lib.datatypes import BYTES, NUMPY, ONNX

logger = logging.getLogger(__name__)

_FLOATS = ("FP32", "FP64", "FP16")


class SignatureError(ValueError):
    """A model with inputs or outputs that can't be served, or that are not what its record says."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output. A dimension is a size, or the name of one that may vary, or None if that has no name."""

    name: str
    datatype: str  # of the Open Inference Protocol
    dims: tuple[int | str | None, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy's; objects, which are str, for BYTES."""
        return NUMPY[self.datatype]

    @property
    def info(self) -> TensorInfo:
        """As the catalog has it."""
        return TensorInfo(self.name, self.datatype, tuple(d if isinstance(d, int) else -1 for d in self.dims))

    @property
    def shape_text(self) -> str:
        """For messages: "[batch, 3, ?]"."""
        return f"[{', '.join('?' if each is None else str(each) for each in self.dims)}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """All inputs and outputs that can be served. `batch_axis`: the first dimension of each of them counts rows."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batch_axis: bool

    @classmethod
    def of(cls, inputs: Iterable[Any], outputs: Iterable[Any]) -> Signature:
        """From what ONNX Runtime says of them. Raises SignatureError."""
        taken = []
        for each in inputs:
            if each.type.startswith("optional("):
                logger.warning("input %r is %s, which is never sent", each.name, each.type)
                continue
            if each.type not in ONNX:
                raise SignatureError(f"input {each.name!r} is {each.type}; what can be served is {', '.join(ONNX)}")
            taken.append(_tensor(each))
        given, left_out = [], []
        for each in outputs:
            if each.type in ONNX:
                given.append(_tensor(each))
            else:
                left_out.append(each)
                logger.warning("output %r is %s, which is not served%s", each.name, each.type, _without_maps([each]))
        if not given:
            raise SignatureError(
                f"none of its outputs can be served; that can {', '.join(ONNX)}{_without_maps(left_out)}"
            )
        return cls(tuple(taken), tuple(given), _has_batch_axis(taken, given))

    def output_of(self, name: str | None) -> Tensor:
        """The output that /infer answers with: the one named, else the first float one. Raises SignatureError."""
        if name is not None:
            for each in self.outputs:
                if each.name == name:
                    return each
            names = sorted(each.name for each in self.outputs)
            raise SignatureError(f"it has no output {name!r}, as its record says; it has {names}")
        # A classifier as scikit-learn exports it puts its label first; what clients want is the probabilities.
        numbers = [each for each in self.outputs if each.datatype != BYTES]
        floats = [each for each in numbers if each.datatype in _FLOATS]
        return (floats or numbers or list(self.outputs))[0]

    def check_names(self, names: Iterable[str], what: str) -> None:
        """Raises SignatureError if one of these names, which are `what`, is no input."""
        known = [each.name for each in self.inputs]
        for name in names:
            if name not in known:
                raise SignatureError(f"{what} names the input {name!r}; it has {known}")

    def shapes(self, rows: int, free: int, sizes: dict[str, int]) -> list[tuple[int, ...]]:
        """A shape for each input: `rows` in the batch axis, what `sizes` says of a name, `free` elsewhere."""
        found = []
        for each in self.inputs:
            shape = [dim if isinstance(dim, int) else sizes.get(dim or "", free) for dim in each.dims]
            found.append((rows, *shape[1:]) if self.batch_axis else tuple(shape))
        return found


def size_of(shape: Iterable[int]) -> int:
    """Elements of a tensor."""
    return math.prod(shape)


def _without_maps(outputs: list[Any]) -> str:
    """What to do about them, to be added to a message."""
    if any(each.type.startswith(("seq", "map")) and "map(" in each.type for each in outputs):
        return '; export it without maps: skl2onnx takes options={"zipmap": False}'
    return ""


def _tensor(each: Any) -> Tensor:
    # What exporters make up for a dimension without a name is none.
    dims = (None if isinstance(dim, str) and dim.startswith("unk__") else dim for dim in each.shape)
    return Tensor(each.name, ONNX[each.type], tuple(dims))


def _has_batch_axis(inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    tensors = [*inputs, *outputs]
    if not inputs or any(not each.dims or isinstance(each.dims[0], int) for each in tensors):
        return False
    first = {each.dims[0] for each in inputs} - {None}
    elsewhere = {dim for each in inputs for dim in each.dims[1:] if isinstance(dim, str)}
    # Inputs whose first sizes have different names count different things; an output whose first size is named as an
    # inner one of an input has that as its first.
    return len(first) <= 1 and not elsewhere & {each.dims[0] for each in tensors}
