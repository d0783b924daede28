"""From the numbers of a request to the bytes of one sample, as the model's input wants it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from inference_site.lib.errors import ApiError
from inference_site.lib.payload import decode_floats, decode_numbers, first_unfit

N = TypeVar("N", float, int | float)

# Python floats beyond a float32 become infinite here; `_float_sample` looks for that itself.
np.seterr(over="ignore", invalid="ignore")

_INTEGERS: dict[str, np.dtype[Any]] = {
    f"tensor({name})": np.dtype(name)
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}
_FLOATS: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype("f4"),
    "tensor(double)": np.dtype("f8"),
    "tensor(float16)": np.dtype("f2"),
}
SERVABLE = _FLOATS | _INTEGERS | {"tensor(bool)": np.dtype("?")}


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One sample of the model's input: its type, its shape (None: the one dimension that may vary), padding."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    pad_with_zeros: bool = False

    @property
    def values(self) -> int | None:
        """Values in one sample; None if it varies."""
        return None if None in self.shape else math.prod(size for size in self.shape if size is not None)

    def sample(self, text: bytes) -> bytes:
        """Row-major bytes of one sample from the text of input_data.

        Raises ApiError 400 for what is no flat list of finite numbers, 422 for numbers that this input can't take.
        """
        if self.dtype.kind == "f":
            return self._floats(self._fit(decode_floats(text)))
        return self._integers(self._fit(decode_numbers(text)))

    def shape_of(self, sample: bytes) -> tuple[int, ...]:
        """The shape of a sample from its bytes."""
        known = math.prod(size for size in self.shape if size is not None)
        return tuple(len(sample) // self.dtype.itemsize // known if size is None else size for size in self.shape)

    def _fit(self, numbers: list[N]) -> list[N]:
        """As many numbers as the input takes, padded if they are too few and the record allows it."""
        expected = self.values
        if len(numbers) == expected:
            return numbers
        if expected is None:
            self._check_variable(len(numbers))
            return numbers
        if len(numbers) < expected and self.pad_with_zeros:
            return numbers + [0] * (expected - len(numbers))
        advice = "" if len(numbers) > expected else ', or set "pad_with_zeros" in the model\'s record'
        raise ApiError(
            422,
            "wrong_input_size",
            f"input_data has {len(numbers)} values, the model's input {self.name!r} takes {expected}; "
            f"send exactly {expected}{advice}",
        )

    def _check_variable(self, count: int) -> None:
        known = math.prod(size for size in self.shape if size is not None)
        if not count or count % known:
            raise ApiError(
                422,
                "wrong_input_size",
                f"input_data has {count} values, the model's input {self.name!r} takes a multiple of {known}",
            )

    def _floats(self, numbers: list[float]) -> bytes:
        array = np.array(numbers, self.dtype)
        # The dot product is finite only if every value is; it may overflow on large ones, so look closer then.
        if not math.isfinite(array.dot(array)):
            bad = first_unfit(numbers, float(np.finfo(self.dtype).max))
            if bad is not None:
                raise ApiError(
                    422,
                    "value_out_of_range",
                    f"input_data[{bad}] is {numbers[bad]!r}, beyond what the model's {self.dtype.name} input can hold",
                )
        return array.tobytes()

    def _integers(self, numbers: list[int | float]) -> bytes:
        low, high = (0, 1) if self.dtype.kind == "b" else (np.iinfo(self.dtype).min, np.iinfo(self.dtype).max)
        for index, number in enumerate(numbers):
            # What was written with a point or an exponent may have been another number from 2^53 on.
            exact = isinstance(number, int) or (number == int(number) and abs(number) < 2**53)
            if not exact or not low <= number <= high:
                raise ApiError(
                    422,
                    "value_out_of_range",
                    f"input_data[{index}] is {number!r}; the model's {self.dtype.name} input takes whole numbers "
                    f"from {low} to {high}",
                )
        return np.array([int(number) for number in numbers], self.dtype).tobytes()
