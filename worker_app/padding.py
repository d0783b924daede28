"""Fills inputs up to a bucket, so that those of different lengths form batches, and cuts outputs back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from inference_site.lib.datatypes import BYTES
from inference_site.lib.record import Padding
from worker_app.signature import Signature, SignatureError, Tensor


class Padder:
    """What a record's padding means for one model. Shapes and arrays are in the order of the model's inputs.

    The mask, if the record names one, says 1 for what is there and 0 for what was filled up; an input that has more
    than one dimension of the name is filled up, and an output cut, along each of them.
    """

    def __init__(self, signature: Signature, padding: Padding) -> None:
        """Raises SignatureError if the model does not have what the padding names."""
        self.dimension = padding.dimension
        self.buckets = tuple(sorted(set(padding.buckets)))
        if not self.buckets:
            raise SignatureError("its padding has no buckets; list some sizes, such as [16, 32, 64, 128]")
        self._axes = [_axes(each, padding.dimension) for each in signature.inputs]
        self._outputs = signature.outputs
        self._cuts = [_axes(each, padding.dimension) for each in signature.outputs]
        if not any(self._axes):
            shapes = ", ".join(f"{each.name} {each.shape_text}" for each in signature.inputs)
            raise SignatureError(f"its padding names the dimension {padding.dimension!r}; the inputs are {shapes}")
        if signature.batch_axis and any(0 in axes for axes in self._axes):
            raise SignatureError(f"its padding names {padding.dimension!r}, which is the batch; name another dimension")
        signature.check_names(padding.values, "its padding")
        self.mask: int | None = None
        if padding.mask is not None:
            signature.check_names([padding.mask], "its padding's mask")
            self.mask = [each.name for each in signature.inputs].index(padding.mask)
            if not self._axes[self.mask] or signature.inputs[self.mask].datatype == BYTES:
                raise SignatureError(
                    f"its padding's mask {padding.mask!r} is {signature.inputs[self.mask].datatype} "
                    f"{signature.inputs[self.mask].shape_text}; a mask holds numbers and has the padded dimension"
                )
        self._fills = [_fill(each, padding, index == self.mask) for index, each in enumerate(signature.inputs)]

    @property
    def lengths_to_try(self) -> tuple[int, ...]:
        """For `learn`: the buckets, which have to run, and the lengths beside the first, which need not."""
        first = self.buckets[0]
        return (*self.buckets, first - 1, first + 1) if first > 1 else (*self.buckets, first + 1)

    def learn(self, shapes: Mapping[int, Sequence[tuple[int, ...]]]) -> None:
        """Takes what shapes the outputs have for some lengths; that, and not their names, says where they are cut.

        Raises SignatureError if a size follows the length and is another, for which nobody can say where to cut.
        """
        if len(shapes) < 2:
            return  # so the names must do
        lengths = tuple(shapes)
        for index, each in enumerate(self._outputs):
            if len({len(found[index]) for found in shapes.values()}) > 1:
                raise SignatureError(self._refusal(each, shapes, index))
            sizes = list(zip(*(found[index] for found in shapes.values()), strict=True))
            if any(of_axis != lengths and len(set(of_axis)) > 1 for of_axis in sizes):
                raise SignatureError(self._refusal(each, shapes, index))
            self._cuts[index] = tuple(axis for axis, of_axis in enumerate(sizes) if of_axis == lengths)

    def _refusal(self, output: Tensor, shapes: Mapping[int, Sequence[tuple[int, ...]]], index: int) -> str:
        found = ", ".join(f"{list(each[index])} for {length}" for length, each in list(shapes.items())[:4])
        return (
            f"the size of its output {output.name!r} depends on {self.dimension!r} without being equal to it "
            f"({found}), so what comes of the filler can't be cut off; remove padding from its record"
        )

    def bucket(self, length: int) -> int:
        """What a length is filled up to; itself, beyond the largest bucket or if it is 0: the filler would be all."""
        place = bisect_left(self.buckets, length)
        return self.buckets[place] if length and place < len(self.buckets) else length

    def padded(self, index: int, shape: tuple[int, ...], bucket: int) -> tuple[int, ...]:
        """The shape of an input once it is filled up."""
        axes = self._axes[index]
        return tuple(bucket if axis in axes else size for axis, size in enumerate(shape)) if axes else shape

    def stack(self, index: int, arrays: Sequence[np.ndarray], bucket: int, rows: int | None) -> np.ndarray:
        """The values of one input, each filled up, as one batch of `rows`; None: there is one, and no batch axis."""
        if not self._axes[index]:
            return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        shape = self.padded(index, arrays[0].shape, bucket)
        full = np.full(shape if rows is None else (rows, *shape[1:]), self._fills[index], arrays[0].dtype)
        place = 0
        for array in arrays:
            where = [slice(size) for size in array.shape]
            if rows is not None:
                where[0] = slice(place, place + len(array))
                place += len(array)
            full[tuple(where)] = array
        return full

    def cut(self, index: int, array: np.ndarray, length: int) -> np.ndarray:
        """An output without what came of the filler."""
        axes = self._cuts[index]
        if not axes:
            return array
        return array[tuple(slice(length) if axis in axes else slice(None) for axis in range(array.ndim))]


def _axes(each: Tensor, dimension: str) -> tuple[int, ...]:
    return tuple(axis for axis, dim in enumerate(each.dims) if dim == dimension)


def _fill(each: Tensor, padding: Padding, is_mask: bool) -> object:
    if each.datatype == BYTES:
        return ""
    value = 0.0 if is_mask else padding.values.get(each.name, 0.0)
    with np.errstate(all="ignore"):
        kept = float(np.array(value).astype(each.dtype)) if np.isfinite(value) else value
    if each.dtype.kind != "f" and kept != value:
        raise SignatureError(f"its padding fills {each.name!r} with {value}, which is no {each.datatype}")
    return value if each.dtype.kind == "f" else int(value)
