"""Reads an ask of the Open Inference Protocol: its tensors, from JSON or binary, and how its outputs are wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from struct import error as StructError
from typing import Any

import msgspec
import numpy as np

from inference_site.lib.datatypes import BYTES, NUMPY
from inference_site.lib.errors import ApiError
from worker_app.jsontensors import Place, array_of, decode_nested, depth_of, kind_of
from worker_app.shapes import check_shape
from worker_app.signature import Tensor, size_of

# How an answer is wanted: the outputs in their order, each by its place in the model and whether it is binary; None:
# as /infer answers.
View = tuple[tuple[int, bool], ...] | None
TEXT: View = None

_LENGTH = Struct("<I")
_SHAPE_BYTES = 512  # of the JSON of a shape
_OUTPUT_BYTES = 1024  # of the JSON of an output that is asked for, besides its name


# What is not heeded is skipped without making anything of it, and what is needs no garbage collector: a request may
# hold millions of members, and all of this runs on the event loop.
class _Parameters(msgspec.Struct, gc=False):
    binary_data_size: msgspec.Raw = msgspec.Raw()
    binary_data: msgspec.Raw = msgspec.Raw()
    classification: msgspec.Raw = msgspec.Raw()
    shared_memory_region: msgspec.Raw = msgspec.Raw()


class _Input(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: msgspec.Raw
    parameters: _Parameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: _Parameters | None = None


class _Head(msgspec.Struct):
    inputs: list[_Input]
    outputs: msgspec.Raw = msgspec.Raw(b"null")
    binary_data_output: bool = False


_decode_outputs = msgspec.json.Decoder(list[_Output] | None).decode
_decode_shape = msgspec.json.Decoder(list[int]).decode
_NO_PARAMETERS = _Parameters()
_decode_head = msgspec.json.Decoder(_Head).decode


def read_v2(
    text: memoryview,
    tensors: memoryview,
    inputs: Sequence[Tensor],
    places: Mapping[str, int],
    outputs: Mapping[str, int],
) -> tuple[list[np.ndarray | None], View, dict[int, int] | None]:
    """The tensor of each of the model's inputs, None for what is left out, the view, and where each input begins in
    `tensors`, by its place in the model; None if not all are binary numbers, as they are sent.

    Binary numbers are not copied. Raises ApiError: 400 for what is malformed, 422 for what the model does not have.
    """
    head = _decode(_decode_head, text)
    arrays: list[np.ndarray | None] = [None] * len(inputs)
    begins: dict[int, int] = {}
    offset = 0
    for each in head.inputs:
        shape = _shape_of(each)
        if each.datatype not in NUMPY:
            raise ApiError(
                400,
                "unknown_datatype",
                f"input {each.name[:100]!r} has the datatype {each.datatype[:20]!r}; use one of {', '.join(NUMPY)}",
            )
        index = places.get(each.name)
        if index is None:
            names = ", ".join(map(repr, places))
            raise ApiError(422, "unknown_input", f"the model has no input {each.name[:100]!r}; it takes {names}")
        if arrays[index] is not None:
            raise ApiError(400, "duplicate_input", f"input {each.name!r} is there twice; send it once")
        if each.datatype != inputs[index].datatype:
            raise ApiError(
                422,
                "wrong_datatype",
                f"input {each.name!r} has the datatype {each.datatype}, the model takes {inputs[index].datatype}",
            )
        size = _binary_size(each)
        check_shape(inputs[index], shape)  # first of all, for not every shape can be made
        if size is None:
            arrays[index] = _from_json(each, shape)
        else:
            arrays[index] = _from_binary(each, shape, tensors[offset : offset + size], size)
            if each.datatype not in (BYTES, "BOOL"):
                begins[index] = offset
            offset += size
    if offset != len(tensors):
        raise ApiError(
            400,
            "wrong_binary_size",
            f"{len(tensors)} bytes follow the JSON, binary_data_size of the inputs adds up to {offset}; "
            "make them equal",
        )
    return arrays, _view(head, outputs), begins if len(begins) == len(head.inputs) else None


def pack_strings(array: np.ndarray) -> bytes:
    """Strings as the protocol has them in binary: each after its length in 4 bytes."""
    parts = []
    for each in array.reshape(-1).tolist():
        data = each if isinstance(each, bytes) else each.encode()
        parts += [_LENGTH.pack(len(data)), data]
    return b"".join(parts)


def _decode(decode: Callable[[Any], Any], text: memoryview | msgspec.Raw, what: str = "the request") -> Any:
    try:
        return decode(text)
    except RecursionError:
        raise ApiError(400, "nested_too_deep", f"{what} is nested too deep") from None
    except (msgspec.DecodeError, ValueError) as error:
        reason = str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")
        raise ApiError(400, "invalid_request", f"{what} can't be read: {reason}") from None


def _shape_of(each: _Input) -> list[int]:
    size = len(memoryview(each.shape))
    if size > _SHAPE_BYTES:
        raise ApiError(
            400,
            "invalid_shape",
            f"input {each.name[:100]!r} has a shape of {size} bytes; {_SHAPE_BYTES} is the limit",
        )
    try:
        shape: list[int] = _decode_shape(each.shape)
    except (msgspec.DecodeError, ValueError):
        sent = bytes(each.shape)[:40].decode("utf-8", "replace")
        raise ApiError(
            400, "invalid_shape", f"input {each.name[:100]!r} has the shape {sent}; send a list of whole numbers"
        ) from None
    for dim in shape:
        if dim < 0:
            raise ApiError(
                400, "invalid_shape", f"input {each.name[:100]!r} has the size {str(dim)[:20]}; none may be negative"
            )
    return shape


def _text(raw: msgspec.Raw) -> str:
    """A parameter as it was sent; "" for one that was not, or is null."""
    text = bytes(memoryview(raw)[:40]).decode("utf-8", "replace")
    return "" if text == "null" else text


def _binary_size(each: _Input) -> int | None:
    """The input's bytes after the JSON; None if it is in the JSON."""
    parameters = each.parameters or _NO_PARAMETERS
    if parameters.shared_memory_region:
        raise ApiError(400, "no_shared_memory", f"input {each.name!r} is in shared memory; send its data instead")
    size = _text(parameters.binary_data_size)
    if not size:
        if not each.data:
            raise ApiError(
                400, "missing_data", f"input {each.name!r} has neither data nor the parameter binary_data_size"
            )
        return None
    if each.data:
        raise ApiError(400, "two_kinds_of_data", f"input {each.name!r} has both data and binary_data_size; send one")
    if len(size) < 16 and size.isascii() and size.isdigit():
        return int(size)
    raise ApiError(
        400,
        "wrong_binary_size",
        f"input {each.name!r} has the binary_data_size {size}; send how many of the bytes after the JSON are its own",
    )


def _from_json(each: _Input, wanted: list[int]) -> np.ndarray:
    text = bytes(each.data)
    place = Place(f"data of input {each.name!r}", "invalid_data")
    depth = max(depth_of(text), 1)
    items, shape = decode_nested(text, kind_of(each.datatype), depth, place)
    # Lists show no more of an empty tensor's shape than what is before its 0.
    shown = tuple(wanted[: wanted.index(0) + 1] if 0 in wanted else wanted)
    if len(items) != size_of(wanted) or (depth > 1 and shape != shown):
        got = f"is nested as {list(shape)}" if depth > 1 else f"has {len(items)} values"
        raise ApiError(
            400,
            "wrong_data_size",
            f"{place.name} {got}, its shape {wanted} takes {size_of(wanted)}; make them equal",
        )
    return array_of(items, each.datatype, place, shape if depth > 1 else ()).reshape(wanted)


def _from_binary(each: _Input, shape: list[int], data: memoryview, size: int) -> np.ndarray:
    if len(data) != size:
        raise ApiError(
            400,
            "wrong_binary_size",
            f"input {each.name!r} has the binary_data_size {size}, only {len(data)} bytes are left after the JSON",
        )
    count = size_of(shape)
    if each.datatype == BYTES:
        return _strings(each.name, data, count).reshape(shape)
    dtype = NUMPY[each.datatype]
    if count * dtype.itemsize != size:
        raise ApiError(
            400,
            "wrong_binary_size",
            f"input {each.name!r} has the binary_data_size {size}, its shape {shape} of {each.datatype} takes "
            f"{count * dtype.itemsize}",
        )
    found: np.ndarray = np.frombuffer(data, np.uint8) != 0 if dtype.kind == "b" else np.frombuffer(data, dtype)
    return found.reshape(shape)


def _strings(name: str, data: memoryview, count: int) -> np.ndarray:
    raw, found, place, end = bytes(data), list[str](), 0, len(data)
    length, width, add = _LENGTH.unpack_from, _LENGTH.size, found.append
    try:
        while place < end and len(found) < count:
            begin = place + width
            place = begin + length(raw, place)[0]
            add(raw[begin:place].decode())
        late = len(found) - 1
    except StructError:  # the length itself is cut off
        place, late = place + width, len(found)
    except UnicodeDecodeError as error:
        raise ApiError(
            422,
            "invalid_string",
            f"input {name!r}: string {len(found)} is not valid UTF-8, which the model's strings are: {error}",
        ) from None
    if place > end:
        short = f"{place - end} byte{'s' * (place - end != 1)}"
        raise ApiError(400, "wrong_binary_size", f"input {name!r}: string {late} is cut off, {short} short")
    if place != end or len(found) != count:
        raise ApiError(
            400,
            "wrong_binary_size",
            f"input {name!r} takes {count} strings, each after its length in 4 bytes; {len(found)} fill {place} of "
            f"{end} bytes",
        )
    array = np.empty(count, object)
    array[:] = found
    return array


def _view(head: _Head, outputs: Mapping[str, int]) -> View:
    size = len(memoryview(head.outputs))
    if size > 2 + sum(_OUTPUT_BYTES + 6 * len(name) for name in outputs):
        raise ApiError(
            400, "invalid_request", f"outputs is {size} bytes long; the model has {len(outputs)}, ask for each once"
        )
    asked: list[_Output] | None = _decode(_decode_outputs, head.outputs, "outputs")
    if not asked:
        return tuple((index, head.binary_data_output) for index in outputs.values())
    view: dict[int, bool] = {}
    for each in asked:
        index = outputs.get(each.name)
        if index is None:
            names = ", ".join(map(repr, outputs))
            raise ApiError(400, "unknown_output", f"the model has no output {each.name[:100]!r}; it gives {names}")
        if index in view:
            raise ApiError(400, "duplicate_output", f"output {each.name!r} is asked for twice; ask once")
        parameters = each.parameters or _NO_PARAMETERS
        if parameters.shared_memory_region:
            raise ApiError(400, "no_shared_memory", f"output {each.name!r} is for shared memory; leave that out")
        if _text(parameters.classification) not in ("", "0", "false"):
            raise ApiError(400, "no_classification", f"output {each.name!r}: there is no classification; leave it out")
        binary = _text(parameters.binary_data) or "false"
        if binary not in ("true", "false"):
            raise ApiError(
                400,
                "invalid_parameter",
                f"output {each.name!r}: binary_data is {binary}; send true or false",
            )
        view[index] = binary == "true"
    return tuple(view.items())
