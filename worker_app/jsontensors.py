"""From JSON lists to tensors: exact or refused, never bent."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, NoReturn

import msgspec
import numpy as np

from inference_site.lib.datatypes import BYTES, NUMPY
from inference_site.lib.errors import ApiError

# Python floats beyond a float32 become infinite here; `_floats` looks for that itself.
np.seterr(over="ignore", invalid="ignore")

MAX_DEPTH = 16
_LONG_BYTES = 2**16
_NO_MARKS = bytes(each for each in range(256) if each not in b"[],")
_MISPLACED = re.compile(rb"[^\[,]\[|\][^\],]|[\[,][\],]")
_BRACKETS = re.compile(rb"(?:[ \t\n\r]*\[)+")
_ITEMS = {"f": float, "i": int | float, "b": bool | int | float, "s": str}
_WANTED = {"f": "a finite number", "i": "a finite number", "b": "true, false, 0 or 1", "s": "a string"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a list comes from, for messages: "input_data", "inputs.tokens"; `code` is that of what can't be read."""

    name: str
    code: str = "invalid_inputs"


INPUT_DATA = Place("input_data", "invalid_input_data")


def kind_of(datatype: str, *, strict: bool = False) -> str:
    """How items of a datatype are read; `strict`: true is no number."""
    if datatype == BYTES:
        return "s"
    kind = NUMPY[datatype].kind
    return "f" if kind == "f" else "i" if kind != "b" or strict else "b"


def depth_of(text: bytes) -> int:
    """How deep a list is nested, going by its first items."""
    found = _BRACKETS.match(text)
    return found[0].count(b"[") if found else 0


def decode(text: bytes, kind: str, depth: int, place: Place) -> list[Any]:
    """Lists in lists, `depth` deep, of items of a kind. Raises ApiError 400 for anything else."""
    if depth > MAX_DEPTH:
        raise ApiError(400, "nested_too_deep", f"{place.name} is nested {depth} deep; {MAX_DEPTH} is the limit")
    try:
        found: list[Any] = _decoder(kind, depth).decode(text)
    except RecursionError:
        raise ApiError(400, "nested_too_deep", f"{place.name} is nested too deep") from None
    except (msgspec.DecodeError, ValueError) as error:
        _refuse(error, kind, place)
    return found


def flatten(nested: list[Any], depth: int, place: Place) -> tuple[list[Any], tuple[int, ...]]:
    """The items row by row, and the shape. Raises ApiError 400 if lists that lie side by side differ in length."""
    level, shape = nested, [len(nested)]
    for _ in range(depth - 1):
        sizes = set(map(len, level))
        if len(sizes) > 1:
            raise ApiError(
                400,
                place.code,
                f"{place.name} is ragged: lists of {min(sizes)} and of {max(sizes)} items lie side by side; "
                "make them equal",
            )
        shape.append(sizes.pop() if sizes else 0)
        level = list(chain.from_iterable(level))
    return level, tuple(shape)


def decode_nested(text: bytes, kind: str, depth: int, place: Place) -> tuple[list[Any], tuple[int, ...]]:
    """`decode` and `flatten` in one; what is long is never made into lists of lists, which takes many seconds."""
    if len(text) <= _LONG_BYTES or depth == 1 or depth > MAX_DEPTH or kind == "s":
        return flatten(decode(text, kind, depth, place), depth, place)
    shape = _regular_shape(text, depth)
    if shape is None:
        raise ApiError(
            400,
            place.code,
            f"{place.name} is ragged, or is not nested {depth} deep everywhere; make lists that lie side by side equal",
        )
    return decode(b"[%b]" % text.translate(None, b"[]"), kind, 1, place), shape


def _regular_shape(text: bytes, depth: int) -> tuple[int, ...] | None:
    """The shape of lists of numbers in lists, from their brackets and commas; None if they have none."""
    if _MISPLACED.search(text.translate(None, b" \t\n\r")):
        return None
    marks = text.translate(None, _NO_MARKS)
    shape, level = [], b""
    for number in range(1, depth + 1):
        end = marks.find(b"]" * number)
        whole = marks[depth - number : end + number]
        if end < 0 or not whole.startswith(b"["):
            return None
        count = (len(whole) - 1) // (len(level) + 1)
        level = b"[%b]" % b",".join([level] * count)
        if level != whole:
            return None
        shape.append(count)
    return tuple(reversed(shape)) if level == marks else None


def array_of(items: list[Any], datatype: str, place: Place, shape: tuple[int, ...] = ()) -> np.ndarray:
    """A flat tensor of items as `decode` gives them. Raises ApiError 422 for what the datatype can't hold; `shape` is
    that of the list they were in, if it was not flat."""
    dtype = NUMPY[datatype]
    if dtype.kind == "f":
        return _floats(items, dtype, place, shape)
    if datatype == BYTES:
        array = np.empty(len(items), object)
        array[:] = items
        return array
    # What was written with a point or an exponent is a float here, even if it is whole.
    if set(map(type, items)) <= {int, bool} and dtype.kind != "b":
        try:
            return np.array(items, dtype)
        except OverflowError:
            pass
    return _integers(items, dtype, place, shape)


def _floats(items: list[float], dtype: np.dtype[Any], place: Place, shape: tuple[int, ...]) -> np.ndarray:
    array = np.array(items, dtype)
    # The dot product is finite only if every value is; it may overflow on large ones, so look closer then.
    if not math.isfinite(array.dot(array)):
        for index in np.flatnonzero(~np.isfinite(array))[:1].tolist():
            raise ApiError(
                422,
                "value_out_of_range",
                f"{_at(place, index, shape)} is {items[index]!r}, beyond what the model's {dtype.name} input can hold",
            )
    return array


def _integers(items: list[Any], dtype: np.dtype[Any], place: Place, shape: tuple[int, ...]) -> np.ndarray:
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    for index, number in enumerate(items):
        # What was written with a point or an exponent may have been another number from 2^53 on.
        exact = isinstance(number, int) or (number == int(number) and abs(number) < 2**53)
        if not exact or not low <= number <= high:
            raise ApiError(
                422,
                "value_out_of_range",
                f"{_at(place, index, shape)} is {number!r}; the model's {dtype.name} input takes whole numbers "
                f"from {low} to {high}",
            )
    return np.array([int(number) for number in items], dtype)


def _at(place: Place, index: int, shape: Sequence[int]) -> str:
    where = [int(each) for each in np.unravel_index(index, shape)] if shape else [index]
    return place.name + "".join(f"[{each}]" for each in where)


@cache
def _decoder(kind: str, depth: int) -> msgspec.json.Decoder[Any]:
    wanted: Any = _ITEMS[kind]
    for _ in range(depth):
        wanted = list[wanted]
    return msgspec.json.Decoder(wanted)


def _refuse(error: Exception, kind: str, place: Place) -> NoReturn:
    text = str(error)
    if isinstance(error, msgspec.ValidationError):
        where = text.rpartition("`$")[2].rstrip("`") if "`$" in text else ""
        what = text.partition(" - at")[0].rpartition("got ")[2].replace("`", "")
        what = "out of range" if "out of range" in what else what
        wanted = f"every item must be {_WANTED[kind]}" if where else f"send a list, each item {_WANTED[kind]}"
        raise ApiError(400, place.code, f"{place.name}{where} is {what}; {wanted}") from None
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError):
        reason = text.removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")
        raise ApiError(400, "invalid_json", f"{place.name} is not valid JSON: {reason}") from None
    # Python itself refuses to read integers of more than 4,300 digits
    raise ApiError(400, place.code, f"{place.name} holds a number that is out of range") from None
