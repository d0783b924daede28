"""Tensors between the messages of gRPC and the asks of this system: both carry them as raw little-endian bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from gateway_app.rpc import open_inference_pb2 as pb
from gateway_app.rpc.contents import SHARED_MEMORY, bytes_of, invalid
from inference_site.lib.asks import pack_v2, unpack_v2_result
from inference_site.lib.catalog import ModelInfo
from inference_site.lib.errors import ApiError

# Of a request, and of the shape of one input: what no model has is not worth a look at each.
MAX_TENSORS, MAX_DIMS = 1024, 32


class _Parameters(msgspec.Struct):
    binary_data_size: int


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: _Parameters


_decode_outputs = msgspec.json.Decoder(list[_Output]).decode


def check(request: pb.ModelInferRequest) -> None:
    """Quickly, whatever it is: raises ApiError 400 for a request that is not worth a closer look."""
    raw, inputs = request.raw_input_contents, request.inputs
    if not inputs:
        raise invalid("the request has no inputs; send each input of the model")
    for what, count in (("inputs", len(inputs)), ("outputs", len(request.outputs))):
        if count > MAX_TENSORS:
            raise invalid(f"the request has {count} {what}; send those of the model, {MAX_TENSORS} at the most")
    for each in inputs:
        if len(each.shape) > MAX_DIMS:
            raise invalid(f"the shape of input {each.name!r} has {len(each.shape)} sizes; send {MAX_DIMS} at the most")
    if raw and len(raw) != len(inputs):
        raise invalid(
            f"raw_input_contents has {len(raw)} tensors and inputs {len(inputs)}; send the bytes of each input in order"
        )


def ask_of(request: pb.ModelInferRequest, limit_bytes: int) -> bytes:
    """The ask of a request that was checked; every output is wanted as raw bytes.

    Large typed contents take long: in a thread they leave the others their turn. Raises ApiError 400, and 413 for an
    ask beyond the limit, which a small message may become.
    """
    raw, inputs = request.raw_input_contents, request.inputs
    tensors = [_raw(each, raw[at]) for at, each in enumerate(inputs)] if raw else [bytes_of(each) for each in inputs]
    heads = orjson.dumps(
        [
            {
                "name": each.name,
                "shape": list(each.shape),
                "datatype": each.datatype,
                "parameters": {"binary_data_size": len(tensor)},
            }
            for each, tensor in zip(inputs, tensors, strict=True)
        ]
    )
    outputs = orjson.dumps([_wanted(each) for each in request.outputs]) if request.outputs else None
    require_size(len(heads) + len(outputs or b"") + sum(map(len, tensors)), limit_bytes)
    return pack_v2(heads, outputs, outputs is None, *tensors)


def require_size(size_bytes: int, limit_bytes: int) -> None:
    """Raises ApiError 413 for a request that is larger than its worker would take."""
    if size_bytes > limit_bytes:
        message = (
            f"the request is {size_bytes} bytes once its contents are raw tensors, the limit is {limit_bytes};"
            " send less, or raise MAX_BODY_BYTES"
        )
        raise ApiError(413, "body_too_large", message)


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
        raise invalid(f"input {tensor.name!r} has contents beside raw_input_contents; send it in one of the two")
    return data


def _wanted(output: Any) -> dict[str, Any]:
    if SHARED_MEMORY in output.parameters:
        raise invalid(f"output {output.name!r} is wanted in shared memory, which is not supported; leave that out")
    parameters = {name: getattr(each, each.WhichOneof("parameter_choice")) for name, each in _set(output.parameters)}
    return {"name": output.name, "parameters": {**parameters, "binary_data": True}}


def _set(parameters: Any) -> list[tuple[str, Any]]:
    return sorted((name, each) for name, each in parameters.items() if each.WhichOneof("parameter_choice"))
