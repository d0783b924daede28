"""Tensors between the messages of gRPC and the asks of this system: both carry them as raw little-endian bytes."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from struct import Struct
from typing import Any

import msgspec
import numpy as np
import orjson

from gateway_app.rpc import open_inference_pb2 as pb
from inference_site.lib.asks import pack_v2, unpack_v2_result
from inference_site.lib.catalog import ModelInfo
from inference_site.lib.datatypes import BYTES, NUMPY
from inference_site.lib.errors import ApiError

# Where a message has the values of a datatype if they are not raw.
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
SHARED_MEMORY = "shared_memory_region"
_LENGTH = Struct("<I")


class _Parameters(msgspec.Struct):
    binary_data_size: int


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: _Parameters


_decode_outputs = msgspec.json.Decoder(list[_Output]).decode


def ask_of(request: pb.ModelInferRequest) -> bytes:
    """The ask of a request; every output is wanted as raw bytes. Raises ApiError 400."""
    raw = request.raw_input_contents
    inputs = request.inputs
    if not inputs:
        raise _invalid("the request has no inputs; send each input of the model")
    if raw and len(raw) != len(inputs):
        raise _invalid(
            f"raw_input_contents has {len(raw)} tensors and inputs {len(inputs)}; send the bytes of each input in order"
        )
    tensors = [_raw(each, raw[at]) for at, each in enumerate(inputs)] if raw else [_typed(each) for each in inputs]
    heads = [
        {
            "name": each.name,
            "shape": list(each.shape),
            "datatype": each.datatype,
            "parameters": {"binary_data_size": len(tensor)},
        }
        for each, tensor in zip(inputs, tensors, strict=True)
    ]
    outputs = orjson.dumps([_wanted(each) for each in request.outputs]) if request.outputs else None
    return pack_v2(orjson.dumps(heads), outputs, outputs is None, *tensors)


def response_of(result: bytes, info: ModelInfo, ident: str) -> pb.ModelInferResponse:
    """The response with the tensors of a model's result. Raises ValueError if that is none."""
    text, tensors = unpack_v2_result(result)
    response = pb.ModelInferResponse(model_name=info.name, model_version=info.version, id=ident)
    at = 0
    for output in _decode_outputs(text):
        end = at + output.parameters.binary_data_size
        if end > len(tensors):
            raise ValueError(f"output {output.name!r} ends at byte {end} of {len(tensors)}")
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        response.raw_output_contents.append(bytes(tensors[at:end]))
        at = end
    return response


def _raw(tensor: Any, data: bytes) -> bytes:
    if tensor.HasField("contents"):
        raise _invalid(f"input {tensor.name!r} has contents beside raw_input_contents; send it in one of the two")
    return data


def _typed(tensor: Any) -> bytes:
    name, datatype = tensor.name, tensor.datatype
    if SHARED_MEMORY in tensor.parameters:
        raise _invalid(f"input {name!r} is in shared memory, which is not supported; send its bytes")
    field = CONTENTS.get(datatype)
    if field is None:
        raise _invalid(f"input {name!r} has datatype {datatype!r}; {_instead_of(datatype)}")
    values = getattr(tensor.contents, field)
    # Its values in another field would be left unread: not what its client means.
    others = [each.name for each, _ in tensor.contents.ListFields() if each.name != field]
    if others:
        raise _invalid(f"input {name!r} has {others[0]}, and {datatype} is sent in {field}")
    expected = prod(tensor.shape)
    if len(values) != expected:
        raise _invalid(
            f"input {name!r} has {len(values)} values in {field}, its shape {list(tensor.shape)} needs {expected}"
        )
    if datatype == BYTES:
        return _packed(values)
    try:
        return np.fromiter(values, NUMPY[datatype], expected).tobytes()
    except OverflowError:
        limits = np.iinfo(NUMPY[datatype])
        wrong = next(each for each in values if not limits.min <= each <= limits.max)
        raise _invalid(f"input {name!r} holds {wrong}, and {datatype} goes from {limits.min} to {limits.max}") from None


def _instead_of(datatype: str) -> str:
    if datatype == "FP16":
        return "FP16 has no contents of its own: send it in raw_input_contents"
    return f"send one of {', '.join(NUMPY)}"


def _packed(values: Iterable[bytes]) -> bytes:
    return b"".join(part for value in values for part in (_LENGTH.pack(len(value)), value))


def _wanted(output: Any) -> dict[str, Any]:
    if SHARED_MEMORY in output.parameters:
        raise _invalid(f"output {output.name!r} is wanted in shared memory, which is not supported; leave that out")
    parameters = {name: getattr(each, each.WhichOneof("parameter_choice")) for name, each in _set(output.parameters)}
    return {"name": output.name, "parameters": {**parameters, "binary_data": True}}


def _set(parameters: Any) -> list[tuple[str, Any]]:
    return sorted((name, each) for name, each in parameters.items() if each.WhichOneof("parameter_choice"))


def _invalid(message: str) -> ApiError:
    return ApiError(400, "invalid_inputs", message)
