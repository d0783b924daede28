"""Whether a tensor has a shape that the model takes."""

from __future__ import annotations

from collections.abc import Sequence

from inference_site.lib.errors import ApiError
from worker_app.signature import Tensor


def check_shape(spec: Tensor, shape: Sequence[int]) -> None:
    """Raises ApiError 422 for another number of dimensions, an empty one, or one that differs from a fixed size."""
    if len(shape) != len(spec.dims):
        raise wrong_shape(spec, shape, f"it has {len(shape)} dimensions instead of {len(spec.dims)}")
    for axis, (dim, size) in enumerate(zip(spec.dims, shape, strict=True)):
        if size == 0:
            raise wrong_shape(spec, shape, "an empty tensor can't be run")
        if isinstance(dim, int) and dim != size:
            raise wrong_shape(spec, shape, f"dimension {axis} has to be {dim}")


def wrong_shape(spec: Tensor, shape: Sequence[int], why: str) -> ApiError:
    """A shape that does not fit."""
    got = ", ".join(str(size)[:20] for size in shape[:16]) + (", ..." if len(shape) > 16 else "")
    return ApiError(
        422, "wrong_shape", f"input {spec.name!r} has shape [{got}], the model takes {spec.shape_text}: {why}"
    )
