"""What a model's form holds as text, as values and back: versions, buckets, fill values, shapes to warm up with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import isfinite

# Beside a larger one every shorter input would be filled up to it; and a model is run with each shape before it serves.
MAX_BUCKET, MAX_BUCKETS, MAX_WARM_UPS = 1_048_576, 32, 32
# Of one input: a typing error must not take all memory.
MAX_ELEMENTS = 2**28

Shapes = Mapping[str, tuple[int, ...]]


def read_versions(text: str) -> tuple[str, ...]:
    """`1, 3` as ("1", "3"), each once. Raises ValueError with the value and the fix."""
    found = _items(text, "1, 3")
    for version in found:
        if not re.fullmatch(r"[1-9][0-9]{0,17}", version):
            raise ValueError(f"{version!r} is no version. Write the numbers of folders, as in 1, 3.")
    return tuple(dict.fromkeys(found))


def read_buckets(text: str) -> tuple[int, ...]:
    """`16, 32, 64` as numbers, each larger than the one before. Raises ValueError."""
    found = []
    for item in _items(text, "16, 32, 64"):
        if not re.fullmatch(r"[0-9]{1,7}", item) or not 1 <= int(item) <= MAX_BUCKET:
            raise ValueError(f"{item!r} is no length. Write whole numbers from 1 to {MAX_BUCKET:,}, as in 16, 32, 64.")
        found.append(int(item))
    for smaller, larger in pairwise(found):
        if smaller >= larger:
            raise ValueError(f"{larger} follows {smaller}. Write each length once, the smallest first.")
    if len(found) > MAX_BUCKETS:
        raise ValueError(f"These are {len(found)} lengths. Write {MAX_BUCKETS} at the most.")
    return tuple(found)


def read_fill_values(text: str) -> dict[str, float]:
    """`input_ids = 1, type_ids = 0` as numbers by input. Raises ValueError."""
    found: dict[str, float] = {}
    for item in _items(text, "input_ids = 1"):
        name, value = _pair(item, "input_ids = 1")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not isfinite(number):
            raise ValueError(f"{value!r} is no number. Write what {name} is filled up with, as in {name} = 0.")
        if name in found:
            raise ValueError(f"{name} has two values. Write one.")
        found[name] = number
    return found


def read_warm_up(text: str) -> tuple[dict[str, tuple[int, ...]], ...]:
    """Each line one run: `input_ids = 8x128, mask = 8x128` as shapes by input. Raises ValueError."""
    runs = []
    for line in text.splitlines():
        shapes: dict[str, tuple[int, ...]] = {}
        for item in _items(line, "input_ids = 8x128"):
            name, value = _pair(item, "input_ids = 8x128")
            if name in shapes:
                raise ValueError(f"{name} has two shapes in the line {line.strip()!r}. Write one per line.")
            shapes[name] = _shape(name, value)
        if shapes:
            runs.append(shapes)
    if len(runs) > MAX_WARM_UPS:
        raise ValueError(f"These are {len(runs)} lines. Write {MAX_WARM_UPS} at the most, as each is run.")
    return tuple(runs)


def write_list(values: Iterable[object]) -> str:
    """What `read_versions` and `read_buckets` read."""
    return ", ".join(str(value) for value in values)


def write_fill_values(values: Mapping[str, float]) -> str:
    """What `read_fill_values` reads."""
    return ", ".join(f"{name} = {value:g}" for name, value in values.items())


def write_warm_up(runs: Iterable[Shapes]) -> str:
    """What `read_warm_up` reads."""
    return "\n".join(
        ", ".join(f"{name} = {'x'.join(map(str, shape))}" for name, shape in shapes.items()) for shapes in runs
    )


def _items(text: str, example: str) -> list[str]:
    found = [item.strip() for item in text.split(",") if item.strip()]
    if not found and text.strip():
        raise ValueError(f"{text.strip()!r} holds nothing but commas. Write values, as in {example}, or nothing.")
    return found


def _pair(item: str, example: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in item.rpartition("="))
    if not (name and equals and value):
        raise ValueError(f"{item!r} lacks the name or the value. Write them as in {example}.")
    return name, value


def _shape(name: str, text: str) -> tuple[int, ...]:
    sizes = [size.strip() for size in text.lower().replace("×", "x").split("x")]
    shape = tuple(int(size) if re.fullmatch(r"[0-9]{1,9}", size) else 0 for size in sizes)
    if 0 in shape:
        raise ValueError(f"{text!r} is no shape of {name}. Write every size, the batch first, as in 1x128.")
    elements = 1
    for size in shape:
        elements *= size
    if elements > MAX_ELEMENTS:
        raise ValueError(f"{text} of {name} has {elements:,} elements. Choose a shape of {MAX_ELEMENTS:,} at the most.")
    return shape
