"""Inferences by the client that this protocol is judged by, and by hand where it would not let us."""

import asyncio

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.rpc.asking import CONTENTS, fault, floats, raw_request, refusal, tensor, with_raw

# Every datatype, with its limits and what is easily lost.
ARRAYS = {
    "BOOL": np.array([[True, False, True]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT16": np.array([[0, 65_535]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, 127]], np.int8),
    "INT16": np.array([[-(2**15), 2**15 - 1]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "FP16": np.array([[-0.5, 65_504]], np.float16),
    "FP32": np.array([[-0.0, np.nan, np.inf, 1e-45]], np.float32),
    "FP64": np.array([[-0.0, 5e-324, 1.7e308]], np.float64),
    "BYTES": np.array([["", "ä", "x" * 300]], np.object_),
}


@pytest.mark.parametrize("datatype", ARRAYS)
def test_each_datatype_comes_back_as_it_was(client, datatype):
    array = ARRAYS[datatype]
    answer = client.infer("echo", [tensor("x", array)])
    output = answer.get_output("out_x")
    assert output.datatype == datatype and list(output.shape) == list(array.shape)
    found = answer.as_numpy("out_x")
    if datatype == "BYTES":
        assert [each.decode() for each in found.flat] == list(array.flat)
    else:
        assert found.dtype == array.dtype and found.tobytes() == array.tobytes()


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents_are_the_same_as_raw_ones(stub, datatype):
    array = ARRAYS[datatype]
    request = pb.ModelInferRequest(model_name="echo")
    sent = request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    values = [each.encode() if isinstance(each, str) else each.item() for each in array.flat]
    getattr(sent.contents, CONTENTS[datatype]).extend(values)
    response = stub.ModelInfer(request)
    raw = pb.ModelInferRequest(model_name="echo")
    raw.inputs.add(name="x", datatype=datatype, shape=array.shape)
    raw.raw_input_contents.append(tensor("x", array)._get_content())
    assert response == stub.ModelInfer(raw)
    assert len(response.raw_output_contents) == 1


def test_an_empty_tensor(client):
    empty = np.zeros((0, 4), np.float32)
    assert client.infer("echo", [tensor("x", empty)]).as_numpy("out_x").shape == (0, 4)


def test_several_inputs_of_different_types_and_the_outputs_in_the_order_asked_for(client):
    inputs = [tensor(name, ARRAYS[datatype]) for name, datatype in (("a", "INT64"), ("b", "BYTES"), ("c", "FP16"))]
    every = client.infer("echo", inputs).get_response()
    assert [each.name for each in every.outputs] == ["out_a", "out_b", "out_c"]
    wanted = [triton.InferRequestedOutput("out_c"), triton.InferRequestedOutput("out_a")]
    answer = client.infer("echo", inputs, outputs=wanted)
    assert [each.name for each in answer.get_response().outputs] == ["out_c", "out_a"]
    assert answer.as_numpy("out_a").tolist() == ARRAYS["INT64"].tolist()
    assert answer.as_numpy("out_c").tolist() == ARRAYS["FP16"].tolist()


def test_an_output_that_is_not_there(client):
    wanted = [triton.InferRequestedOutput("nope")]
    code, message = refusal(lambda: client.infer("echo", floats(1), outputs=wanted))
    assert (code, message) == ("INVALID_ARGUMENT", "there is no output 'nope'")


def test_id_name_and_version_are_in_the_answer(client):
    response = client.infer("echo", floats(1), request_id="an id × 1").get_response()
    assert (response.model_name, response.model_version, response.id) == ("echo", "2", "an id × 1")
    response = client.infer("echo", floats(1), model_version="1").get_response()
    assert (response.model_version, response.id) == ("1", "")


def test_how_it_was_answered_is_in_the_trailing_metadata(stub):
    request = raw_request()
    request.raw_input_contents.append(bytes(8))
    _, call = stub.ModelInfer.with_call(request)
    assert dict(call.trailing_metadata()) == {"x-node": "worker_1", "x-cache": "miss", "x-attempts": "1"}


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_messages(client, algorithm):
    zeros = np.zeros((1, 100_000), np.float32)
    answer = client.infer("echo", [tensor("x", zeros)], compression_algorithm=algorithm)
    assert answer.as_numpy("out_x").shape == (1, 100_000)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"),
        (404, "NOT_FOUND"),
        (413, "RESOURCE_EXHAUSTED"),
        (422, "INVALID_ARGUMENT"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (502, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
def test_an_error_has_its_status_and_its_sentence(client, status, code):
    asked = [tensor("x", np.array([status], np.int32))]
    assert refusal(lambda: client.infer("refuse", asked)) == (code, f"status {status} × wanted")


def test_an_error_says_who_when_and_its_code_in_the_trailing_metadata(stub):
    request = pb.ModelInferRequest(model_name="refuse")
    request.inputs.add(name="x", datatype="INT32", shape=[1])
    request.raw_input_contents.append((503).to_bytes(4, "little"))
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert dict(caught.value.trailing_metadata()) == {
        "x-node": "worker_1",
        "x-cache": "miss",
        "x-attempts": "1",
        "retry-after": "7",
        "x-error-code": "code_503",
    }


def test_models_that_are_not_there_or_not_ready(client):
    assert refusal(lambda: client.infer("nope", floats(1))) == ("NOT_FOUND", "there is no model 'nope'")
    assert refusal(lambda: client.infer("echo", floats(1), model_version="9"))[0] == "NOT_FOUND"
    assert refusal(lambda: client.infer("soon", floats(1))) == ("UNAVAILABLE", "soon is LOADING")


def test_a_bug_is_told_as_one_without_its_traceback(client):
    assert refusal(lambda: client.infer("bug", floats(1))) == ("INTERNAL", "a bug: the log of this process says more")


def in_shared_memory():
    request = fault()
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    return request


def output_in_shared_memory():
    request = with_raw(raw_request(), bytes(8))
    request.outputs.add(name="out_x").parameters["shared_memory_region"].string_param = "r"
    return request


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.ModelInferRequest(model_name="echo"), "the request has no inputs"),
        (with_raw(fault(), bytes(8), bytes(8)), "raw_input_contents has 2 tensors and inputs 1"),
        (with_raw(fault(contents={"fp32_contents": [1, 2]}), bytes(8)), "has contents beside raw_input_contents"),
        (fault(), "has 0 values in fp32_contents, its shape [1, 2] needs 2"),
        (fault(contents={"fp32_contents": [1]}), "has 1 values in fp32_contents, its shape [1, 2] needs 2"),
        (fault(shape=[-1, 2], contents={"fp32_contents": [1, 2]}), "its shape [-1, 2] needs -2"),
        (fault(contents={"int_contents": [1, 2]}), "'x' has int_contents, and FP32 is sent in fp32_contents"),
        (fault(datatype="FP16", contents={"fp32_contents": [1, 2]}), "send it in raw_input_contents"),
        (fault(datatype="BF16"), "datatype 'BF16'; send one of BOOL,"),
        (fault(datatype="INT8", contents={"int_contents": [1, 128]}), "holds 128, and INT8 goes from -128 to 127"),
        (fault(datatype="UINT16", contents={"uint_contents": [1, 65_536]}), "UINT16 goes from 0 to 65535"),
        (in_shared_memory(), "input 'x' is in shared memory, which is not supported"),
        (output_in_shared_memory(), "output 'out_x' is wanted in shared memory, which is not supported"),
    ],
)
def test_a_request_that_says_nothing_clear_is_refused_with_the_fix(stub, request_, message):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in caught.value.details()


def test_bytes_that_are_no_message(gateway):
    with grpc.insecure_channel(gateway.url) as channel:
        for method in ("ModelInfer", "ModelReady", "RepositoryIndex"):
            ask = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                ask(b"\xff\xff\xff")
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert f"the message is no {method}Request" in caught.value.details()


def test_what_is_not_offered_says_so(client):
    code, message = refusal(client.get_system_shared_memory_status)
    assert code == "UNIMPLEMENTED" and "shared memory" in message and "ModelInfer" in message


async def test_a_hundred_at_once_each_get_their_own_answer(gateway):
    async with triton_aio.InferenceServerClient(gateway.url) as client:

        async def one(number):
            model = "later" if number % 2 else "echo"
            answer = await client.infer(model, floats(number, -number), request_id=str(number))
            assert answer.get_response().id == str(number)
            assert answer.as_numpy("out_x").tolist() == [[number, -number]]

        for _ in range(3):
            await asyncio.gather(*map(one, range(100)))


@pytest.mark.parametrize(
    "request_",
    [raw_request(model="nope"), raw_request(), fault(contents={"int_contents": [1, 2]})],
    ids=["unknown model", "no values", "wrong contents"],
)
def test_what_is_refused_before_a_model_has_it_is_counted(make_gateway, request_):
    with make_gateway() as own, grpc.insecure_channel(own.url) as channel:
        with pytest.raises(grpc.RpcError):
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request_)
        own.wait_for_line("^refused$")
