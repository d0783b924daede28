"""Whether a tensor has a shape that the model takes."""

from __future__ import annotations

from collections.abc import Sequence

from inference_site.lib.errors import ApiError
from worker_app.signature import Tensor, size_of

# An empty tensor costs its sender nothing, however many rows it claims; what a model makes of them takes memory.
_MOST_EMPTY = 2**16


def check_shape(spec: Tensor, shape: Sequence[int]) -> None:
    """Raises ApiError 422 for another rank, or a size that differs from a fixed one. A size that varies may be 0, as it
    is of a decoder's past at its first step."""
    if len(shape) != len(spec.dims):
        raise wrong_shape(spec, shape, f"it has rank {len(shape)} instead of {len(spec.dims)}")
    for axis, (dim, size) in enumerate(zip(spec.dims, shape, strict=True)):
        if isinstance(dim, int) and dim != size:
            raise wrong_shape(spec, shape, f"dimension {axis} has to be {dim}")
    if 0 in shape:
        free = size_of(size for dim, size in zip(spec.dims, shape, strict=True) if size and not isinstance(dim, int))
        if free > _MOST_EMPTY:
            why = f"the sizes of an empty tensor that may vary, but for the 0, multiply to {_MOST_EMPTY} at the most"
            raise wrong_shape(spec, shape, why)


def wrong_shape(spec: Tensor, shape: Sequence[int], why: str) -> ApiError:
    """A shape that does not fit."""
    got = ", ".join(str(size)[:20] for size in shape[:16]) + (", ..." if len(shape) > 16 else "")
    return ApiError(
        422, "wrong_shape", f"input {spec.name!r} has shape [{got}], the model takes {spec.shape_text}: {why}"
    )
