"""Tensors that a message has as typed values: what they become, and how large that is before it is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from struct import Struct
from typing import Any

import numpy as np

from inference_site.lib.datatypes import BYTES, NUMPY
from inference_site.lib.errors import ApiError

# Where a message has the values of a datatype if they are not raw, and what one takes there at the least, in bytes.
CONTENTS = {
    "BOOL": ("bool_contents", 1),
    "INT8": ("int_contents", 1),
    "INT16": ("int_contents", 1),
    "INT32": ("int_contents", 1),
    "INT64": ("int64_contents", 1),
    "UINT8": ("uint_contents", 1),
    "UINT16": ("uint_contents", 1),
    "UINT32": ("uint_contents", 1),
    "UINT64": ("uint64_contents", 1),
    "FP32": ("fp32_contents", 4),
    "FP64": ("fp64_contents", 8),
    BYTES: ("bytes_contents", 2),
}
SHARED_MEMORY = "shared_memory_region"
# Values that are converted without a break: between two such parts other threads have their turn.
_PART = 4096
_LENGTH = Struct("<I")


def size_of(tensors: Iterable[Any], message_bytes: int) -> int:
    """Bytes that the typed values of these tensors become, at the most; quickly, however many there are.

    Numbers of up to 8 bytes may have taken one each in their message.
    """
    numbers = strings = 0
    rest = message_bytes  # what of the message may be strings
    for tensor in tensors:
        datatype = tensor.datatype
        if datatype not in CONTENTS:
            continue
        field, least = CONTENTS[datatype]
        count = len(getattr(tensor.contents, field))
        rest -= count * least
        if datatype == BYTES:
            strings += count
        else:
            numbers += count * NUMPY[datatype].itemsize
    return numbers + (rest + strings * _LENGTH.size if strings else 0)


def bytes_of(tensor: Any) -> bytes:
    """The typed values of a tensor as its raw bytes. Raises ApiError 400."""
    name, datatype = tensor.name, tensor.datatype
    if SHARED_MEMORY in tensor.parameters:
        raise invalid(f"input {name!r} is in shared memory, which is not supported; send its bytes")
    if datatype not in CONTENTS:
        raise invalid(f"input {name!r} has datatype {datatype!r}; {_instead_of(datatype)}")
    field, _ = CONTENTS[datatype]
    values = getattr(tensor.contents, field)
    # Its values in another field would be left unread: not what its client means.
    others = [each.name for each, _ in tensor.contents.ListFields() if each.name != field]
    if others:
        raise invalid(f"input {name!r} has {others[0]}, and {datatype} is sent in {field}")
    expected = prod(tensor.shape)
    if len(values) != expected:
        raise invalid(
            f"input {name!r} has {len(values)} values in {field}, its shape {list(tensor.shape)} needs {expected}"
        )
    if datatype == BYTES:
        return b"".join(map(_packed, _parts(values)))
    numpy_type = NUMPY[datatype]
    try:
        return b"".join(np.fromiter(part, numpy_type, len(part)).tobytes() for part in _parts(values))
    except OverflowError:
        limits = np.iinfo(numpy_type)
        wrong = next(each for each in values if not limits.min <= each <= limits.max)
        raise invalid(f"input {name!r} holds {wrong}, and {datatype} goes from {limits.min} to {limits.max}") from None


def invalid(message: str) -> ApiError:
    """What is said of tensors that can't be understood."""
    return ApiError(400, "invalid_inputs", message)


def _parts(values: Any) -> Iterator[list[Any]]:
    return (values[at : at + _PART] for at in range(0, len(values), _PART))


def _packed(values: list[bytes]) -> bytes:
    return b"".join(part for value in values for part in (_LENGTH.pack(len(value)), value))


def _instead_of(datatype: str) -> str:
    if datatype == "FP16":
        return "FP16 has no contents of its own: send it in raw_input_contents"
    return f"send one of {', '.join(NUMPY)}"
