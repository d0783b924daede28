"""One input of `/infer`: from a JSON list, flat or nested, to the tensor of one sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from inference_site.lib.datatypes import BYTES
from inference_site.lib.errors import ApiError
from worker_app.jsontensors import INPUT_DATA, Place, array_of, decode, decode_nested, depth_of, kind_of
from worker_app.signature import Tensor, size_of


class ListInput:
    """`batch_axis`: the first dimension counts rows, and a list is one of them."""

    def __init__(self, spec: Tensor, batch_axis: bool, pad_with_zeros: bool) -> None:
        self._spec = spec
        self._batch_axis = batch_axis
        dims: list[int | str | None] = list(spec.dims)
        # Where some output does not follow the batch, each sample is run as a batch of one.
        if dims and not isinstance(dims[0], int) and (batch_axis or len(dims) > 1):
            dims[0] = 1
        self._dims = [dim if isinstance(dim, int) else None for dim in dims]
        self._known = size_of(dim for dim in self._dims if dim is not None)
        self._free = self._dims.count(None)
        self._pads = pad_with_zeros
        self._flat_kind = kind_of(spec.datatype, strict=True)  # true is no number in input_data

    @property
    def fixed_shape(self) -> tuple[int, ...] | None:
        """The shape of every list, with the batch axis; None if it varies."""
        return None if self._free else tuple(dim or 0 for dim in self._dims)

    def fixed(self, text: bytes) -> np.ndarray:
        """The elements of input_data, flat, for an input whose shape is fixed.

        Raises ApiError 400 for what is no flat list of finite numbers (strings, if the model takes them), 422 for
        numbers that this input can't take.
        """
        items = decode(text, self._flat_kind, 1, INPUT_DATA)
        if len(items) != self._known:
            items = self._fit(items, INPUT_DATA)
        return array_of(items, self._spec.datatype, INPUT_DATA)

    def read(self, text: bytes, place: Place) -> np.ndarray:
        """The tensor of one sample, with the batch axis; a nested list says its shape itself. Raises like `fixed`."""
        depth = 1 if place is INPUT_DATA else depth_of(text)
        kind = self._flat_kind if place is INPUT_DATA else kind_of(self._spec.datatype)
        items, shape = decode_nested(text, kind, max(depth, 1), place)
        if depth > 1:
            return array_of(items, self._spec.datatype, place, shape).reshape(self._of_one(shape, place))
        items = self._fit(items, place)
        sizes = [len(items) // self._known if dim is None else dim for dim in self._dims]
        return array_of(items, self._spec.datatype, place).reshape(sizes)

    def _of_one(self, shape: tuple[int, ...], place: Place) -> tuple[int, ...]:
        """The shape of a nested list, which may leave out the batch axis, with it."""
        dims = self._dims
        if len(shape) == len(dims) - 1 and dims[0] == 1:
            shape = (1, *shape)
        if len(shape) != len(dims) or (self._batch_axis and shape[0] != 1):
            expected = self._spec.dims[1:] if self._batch_axis else self._spec.dims
            wanted = ", ".join("?" if dim is None else str(dim) for dim in expected)
            raise ApiError(
                422,
                "wrong_shape",
                f"{place.name} has shape {list(shape)}, the model's input {self._spec.name!r} takes [{wanted}]; "
                "send one sample, nested like that or flat",
            )
        return shape

    def _fit(self, items: list[Any], place: Place) -> list[Any]:
        """As many items as the input takes, padded if they are too few and the record allows it."""
        count = len(items)
        if self._free > 1:
            raise ApiError(
                422,
                "ambiguous_shape",
                f"{place.name} is flat, and the model's input {self._spec.name!r} {self._spec.shape_text} has "
                f'{self._free} sizes that vary; send it nested, as "inputs": {{"{self._spec.name}": [[...], ...]}}',
            )
        if self._free:
            if not count or count % self._known:
                raise ApiError(
                    422,
                    "wrong_input_size",
                    f"{place.name} has {count} values, the model's input {self._spec.name!r} takes a multiple of "
                    f"{self._known}",
                )
            return items
        if count == self._known:
            return items
        if count < self._known and self._pads:
            return items + ["" if self._spec.datatype == BYTES else 0] * (self._known - count)
        advice = "" if count > self._known else ', or set "pad_with_zeros" in the model\'s record'
        raise ApiError(
            422,
            "wrong_input_size",
            f"{place.name} has {count} values, the model's input {self._spec.name!r} takes {self._known}; "
            f"send exactly {self._known}{advice}",
        )
