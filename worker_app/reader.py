"""From an ask, in any of its three forms, to a sample: tensors as the model takes them, and their key."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from struct import pack
from typing import Any

import msgspec
import numpy as np

from inference_site.lib.asks import V2, unpack_v2
from inference_site.lib.errors import ApiError
from worker_app.jsontensors import INPUT_DATA, Place
from worker_app.listinput import ListInput
from worker_app.padding import Padder
from worker_app.plan import Plans
from worker_app.samples import Sample
from worker_app.shapes import check_shape, wrong_shape
from worker_app.signature import Signature, Tensor
from worker_app.v2ask import TEXT, View, read_v2

# Names that a Struct can't have: its fields are found without making anything of all others.
_ODD = re.compile(r'[\\"\x00-\x1f]')
# A request of more bytes than this that is not binary numbers takes longer than an event loop should be held up.
QUICK_BYTES = 2**17


class Reader:
    """Reads asks for one model. Safe to use from several threads at the same time."""

    def __init__(self, signature: Signature, *, padder: Padder | None = None, pad_with_zeros: bool = False) -> None:
        self._inputs, self._batch_axis = signature.inputs, signature.batch_axis
        self._outputs = {each.name: index for index, each in enumerate(signature.outputs)}
        self._places = {each.name: index for index, each in enumerate(signature.inputs)}
        self._padder = padder
        self._plans = Plans()
        self._makes = _mask_that_can_be_made(signature, padder)
        self._lists = [ListInput(each, signature.batch_axis, pad_with_zeros) for each in signature.inputs]
        self._by_name = _decoder_of([each.name for each in signature.inputs])
        needed = [index for index in range(len(self._inputs)) if index != self._makes]
        self._only = needed[0] if len(needed) == 1 else None
        # What a list whose sizes are all fixed always has: its shape, the beginning of its key, its group.
        self._known: tuple[tuple[int, ...], bytes, Hashable] | None = None
        if len(self._inputs) == 1 and (shape := self._lists[0].fixed_shape) is not None:
            self._known = shape, _head(TEXT, [shape]), (shape[1:] if signature.batch_axis else shape,)

    def is_quick(self, ask: bytes) -> bool:
        """Whether `read` takes no longer than an event loop may be held up; else call it in a thread."""
        if len(ask) <= QUICK_BYTES:
            return True
        if ask[0] != V2 or any(each.dtype == object for each in self._inputs):
            return False
        return int.from_bytes(ask[1:5], "little") <= QUICK_BYTES

    def read(self, ask: bytes) -> Sample:
        """Raises ApiError: 400 for what is malformed, 422 for what the model does not take."""
        first = ask[:1]
        if first == b"[":
            return self._read_list(ask)
        if first == b"{":
            return self._finish(self._read_names(ask), TEXT)
        if ask and ask[0] == V2:
            return self._read_v2(ask)
        raise ApiError(400, "invalid_ask", "the ask has no known form; gateway and worker must be of one version")

    def _read_v2(self, ask: bytes) -> Sample:
        try:
            head, tensors = unpack_v2(ask)
        except ValueError as error:
            raise ApiError(400, "invalid_request", f"the request can't be read: {error}") from None
        plan = self._plans.find(head, tensors)
        if plan is not None:
            return plan.sample(tensors)
        arrays, view, begins = read_v2(head, tensors, self._inputs, self._places, self._outputs)
        sample = self._finish(arrays, view)
        if begins is not None:
            self._plans.keep(head, tensors, begins, sample)
        return sample

    def _read_list(self, text: bytes) -> Sample:
        if self._known is not None:
            array = self._lists[0].fixed(text)
            shape, head, group = self._known
            data = _joined(array) if array.dtype == object else array.tobytes()
            return Sample((head + data,), 1, group, (array.reshape(shape),))
        if self._only is None:
            names = ", ".join(repr(each.name) for each in self._inputs)
            raise ApiError(
                422,
                "several_inputs",
                f'the model takes {len(self._inputs)} inputs ({names}); send "inputs" with a list for each name '
                "instead of input_data",
            )
        arrays: list[np.ndarray | None] = [None] * len(self._inputs)
        arrays[self._only] = self._lists[self._only].read(text, INPUT_DATA)
        return self._finish(arrays, TEXT)

    def _read_names(self, text: bytes) -> list[np.ndarray | None]:
        try:
            members = self._by_name(text)
        except msgspec.ValidationError as error:
            raise _unknown_input(str(error).partition("`")[2].rpartition("`")[0], self._inputs) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError(400, "invalid_json", f"inputs is not valid JSON: {error}") from None
        found = members if isinstance(members, dict) else msgspec.structs.asdict(members)
        arrays: list[np.ndarray | None] = [None] * len(self._inputs)
        for name, value in found.items():
            index = self._places.get(name) if isinstance(members, dict) else int(name[1:])
            if index is None:
                raise _unknown_input(name, self._inputs)
            if value:
                place = Place(f"inputs.{self._inputs[index].name}")
                arrays[index] = self._lists[index].read(bytes(value), place)
        return arrays

    def _finish(self, arrays: list[np.ndarray | None], view: View) -> Sample:
        missing = [index for index, array in enumerate(arrays) if array is None and index != self._makes]
        if missing:
            names = ", ".join(repr(self._inputs[index].name) for index in missing)
            raise ApiError(422, "missing_input", f"the model also needs {names}; send each of its inputs")
        sizes = self._check(arrays)
        if self._makes is not None and arrays[self._makes] is None:
            mask = self._inputs[self._makes]
            shape = tuple(dim if isinstance(dim, int) else sizes[dim or ""] for dim in mask.dims)
            arrays[self._makes] = np.ones(shape, mask.dtype)
        whole = [array for array in arrays if array is not None]
        shapes = [array.shape for array in whole]
        rows = shapes[0][0] if self._batch_axis else 1
        parts = (_head(view, shapes), *map(_bytes, whole))
        length = bucket = 0
        if self._padder is not None:
            length = sizes[self._padder.dimension]
            bucket = self._padder.bucket(length)
            shapes = [self._padder.padded(index, shape, bucket) for index, shape in enumerate(shapes)]
        group = tuple(shape[1:] for shape in shapes) if self._batch_axis else tuple(shapes)
        return Sample(parts, rows, group, tuple(whole), view, length, bucket)

    def _check(self, arrays: Sequence[np.ndarray | None]) -> dict[str, int]:
        """The size of each named dimension. Raises ApiError 422 for a shape that the model does not take."""
        sizes: dict[str, int] = {}
        rows = None
        for spec, array in zip(self._inputs, arrays, strict=True):
            if array is None:
                continue
            check_shape(spec, array.shape)
            for dim, size in zip(spec.dims, array.shape, strict=True):
                if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                    raise wrong_shape(spec, array.shape, f"{dim!r} is {sizes[dim]} elsewhere; make them equal")
            if self._batch_axis and not len(array):
                raise wrong_shape(spec, array.shape, "a batch without rows can't be run; send one at least")
            if self._batch_axis and (rows := rows or len(array)) != len(array):
                raise wrong_shape(spec, array.shape, f"another input has a batch of {rows}; make them equal")
        return sizes


def _decoder_of(names: Sequence[str]) -> Callable[[bytes], Any]:
    """Of an object that has these members alone, each left as it is."""
    if any(map(_ODD.search, names)):
        return msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    fields = [(f"_{index}", msgspec.Raw, msgspec.Raw()) for index in range(len(names))]
    renamed = {f"_{index}": name for index, name in enumerate(names)}
    kind = msgspec.defstruct("Inputs", fields, rename=renamed, forbid_unknown_fields=True)
    return msgspec.json.Decoder(kind).decode


def _unknown_input(name: str, inputs: Sequence[Tensor]) -> ApiError:
    names = ", ".join(repr(each.name) for each in inputs)
    return ApiError(422, "unknown_input", f"the model has no input {name[:100]!r}; it takes {names}")


def _mask_that_can_be_made(signature: Signature, padder: Padder | None) -> int | None:
    """The mask, if the other inputs tell all of its sizes."""
    if padder is None or padder.mask is None:
        return None
    known = {dim for index, each in enumerate(signature.inputs) if index != padder.mask for dim in each.dims}
    wanted = signature.inputs[padder.mask].dims
    made = all(isinstance(dim, int) or (dim is not None and dim in known) for dim in wanted)
    return padder.mask if made else None


def _bytes(array: np.ndarray) -> bytes | memoryview:
    return _joined(array) if array.dtype == object else array.reshape(-1).data


def _joined(array: np.ndarray) -> bytes:
    """Strings, after the length of each: `pack_strings` takes ten times as long, and there may be millions."""
    items: list[str] = array.reshape(-1).tolist()
    data = "".join(items).encode()
    # Where all is ASCII, lengths in characters are those in bytes.
    sizes = map(len, items) if len(data) == sum(map(len, items)) else (len(each.encode()) for each in items)
    return np.fromiter(sizes, "<u4", len(items)).tobytes() + data


def _head(view: View, shapes: Sequence[tuple[int, ...]]) -> bytes:
    """The beginning of a key: how the answer is wanted, and the shapes, which tell the sizes of what follows."""
    parts = [b"\xff\xff" if view is None else pack("<H", len(view))]
    parts += [pack("<H?", index, binary) for index, binary in view or ()]
    parts += [pack(f"<B{len(shape)}Q", len(shape), *shape) for shape in shapes]
    return b"".join(parts)
