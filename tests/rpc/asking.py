"""Inferences in few words, for the fake gateway."""

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def tensor(name, array):
    """An input of the client's."""
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def floats(*values):
    """Of one sample."""
    return [tensor("x", np.array([values], np.float32))]


def refusal(of):
    """(status, sentence) that the client raised."""
    with pytest.raises(InferenceServerException) as caught:
        of()
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def raw_request(model="echo", **more):
    """One FP32 input of two values."""
    request = pb.ModelInferRequest(model_name=model, **more)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    return request


def fault(**input_fields):
    """A request whose only input has these fields, whatever the client would make of them."""
    request = pb.ModelInferRequest(model_name="echo")
    contents = input_fields.pop("contents", None)
    sent = request.inputs.add(**{"name": "x", "datatype": "FP32", "shape": [1, 2], **input_fields})
    for field, values in (contents or {}).items():
        getattr(sent.contents, field).extend(values)
    return request


def with_raw(request, *tensors):
    """The same request, with the bytes of tensors."""
    request.raw_input_contents.extend(tensors)
    return request
