"""From a model's outputs to the result of an ask."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec
import numpy as np
import orjson

from inference_site.lib.asks import pack_v2_result
from inference_site.lib.datatypes import BYTES
from worker_app.signature import Tensor
from worker_app.v2ask import View, pack_strings

_SMALL_BYTES = 2**16
_NUMPY = orjson.OPT_SERIALIZE_NUMPY


def encode_text(array: np.ndarray) -> bytes:
    """A flat JSON list, as /infer answers; null for what is no number."""
    if array.dtype == object:
        return orjson.dumps(array.reshape(-1).tolist())
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.ndim != 1 or not array.flags.c_contiguous:
        array = np.ascontiguousarray(array).reshape(-1)
    return orjson.dumps(array, option=_NUMPY)


def encode_v2(view: View, outputs: Mapping[int, np.ndarray], specs: tuple[Tensor, ...]) -> bytes:
    """The result of a V2 ask: the outputs of the view, by their places in the model.

    In JSON what is no number is NaN, Infinity or -Infinity, as other servers of this protocol write it.
    """
    heads: list[bytes] = []
    tensors: list[bytes | memoryview] = []
    for index, binary in view or ():
        spec, array = specs[index], outputs[index]
        head = _head(spec.name, spec.datatype, array.shape)
        if binary:
            if spec.datatype == BYTES:
                tensors.append(data := pack_strings(array))
                size = len(data)
            else:
                size = array.nbytes
                # Below that a copy is quicker than a view.
                small = size <= _SMALL_BYTES
                tensors.append(
                    array.tobytes() if small else np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                )
            heads.append(head + b'"parameters":{"binary_data_size":%d}}' % size)
        else:
            heads.append(head + b'"data":%b}' % _numbers(array))
    return pack_v2_result(b"[%b]" % b",".join(heads), *tensors)


@lru_cache(maxsize=1024)
def _head(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    return b'{"name":%b,"datatype":"%b","shape":%b,' % (
        msgspec.json.encode(name),
        datatype.encode(),
        orjson.dumps(shape),
    )


def _numbers(array: np.ndarray) -> bytes:
    text = encode_text(array)
    if array.dtype.kind != "f" or b"null" not in text:
        return text
    flat = array.reshape(-1)
    items = text[1:-1].split(b",")
    for index in np.flatnonzero(~np.isfinite(flat)).tolist():
        items[index] = b"NaN" if np.isnan(flat[index]) else b"Infinity" if flat[index] > 0 else b"-Infinity"
    return b"[%b]" % b",".join(items)
