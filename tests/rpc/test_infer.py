"""Inferences by the client that this protocol is judged by, and by hand where it would not let us."""

import asyncio
import gc
import random
import re
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.support.processes import wait_until

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
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def floats(*values):
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


@pytest.fixture
def stub(gateway):
    with grpc.insecure_channel(gateway.url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


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


def fault(**input_fields):
    request = pb.ModelInferRequest(model_name="echo")
    contents = input_fields.pop("contents", None)
    sent = request.inputs.add(**{"name": "x", "datatype": "FP32", "shape": [1, 2], **input_fields})
    for field, values in (contents or {}).items():
        getattr(sent.contents, field).extend(values)
    return request


def with_raw(request, *tensors):
    request.raw_input_contents.extend(tensors)
    return request


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


def test_a_message_over_the_limit_compressed_or_not(make_gateway):
    with make_gateway("--max-message", "65536") as small, triton.InferenceServerClient(small.url) as client:
        for algorithm in (None, "gzip"):
            zeros = [tensor("x", np.zeros((1, 100_000), np.float32))]
            code, message = refusal(lambda z=zeros, a=algorithm: client.infer("echo", z, compression_algorithm=a))
            assert code == "RESOURCE_EXHAUSTED" and "larger than max" in message
        assert client.infer("echo", floats(1)).as_numpy("out_x").tolist() == [[1]]


@pytest.mark.parametrize(("datatype", "value"), [("INT64", 1), ("BYTES", b"")])
def test_contents_that_become_more_than_the_limit(make_gateway, datatype, value):
    request = fault(datatype=datatype, shape=[1, 200_000], contents={CONTENTS[datatype]: [value] * 200_000})
    assert request.ByteSize() < 2**19
    with make_gateway("--max-message", str(2**19)) as small, grpc.insecure_channel(small.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "once its contents are raw tensors" in caught.value.details()
        assert ("x-error-code", "body_too_large") in caught.value.trailing_metadata()


def test_what_contents_become_is_counted(make_gateway):
    request = fault(datatype="INT64", shape=[1, 200_000], contents={"int64_contents": [1] * 200_000})
    with make_gateway("--in-flight", "1000000") as small, grpc.insecure_channel(small.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(2):
            with pytest.raises(grpc.RpcError, match="raise MAX_IN_FLIGHT_BYTES"):
                stub.ModelInfer(request)
        assert stub.ModelInfer(fault(contents={"fp32_contents": [1, 2]})).id == ""


@pytest.mark.parametrize(
    ("datatype", "count", "value", "size"), [("BOOL", 6_000_000, True, 1), ("BYTES", 2_000_000, b"", 4)]
)
def test_large_contents_do_not_hold_up_the_others(gateway, client, datatype, count, value, size):
    request = fault(datatype=datatype, shape=[1, count], contents={CONTENTS[datatype]: [value] * count})
    with grpc.insecure_channel(gateway.url, options=[("grpc.max_receive_message_length", -1)]) as channel:
        began, worst = time.monotonic(), 0.0
        large = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request)
        while not large.done():
            asked = time.monotonic()
            client.infer("echo", floats(1))
            worst = max(worst, time.monotonic() - asked)
        assert len(large.result().raw_output_contents[0]) == count * size
    assert worst < (time.monotonic() - began) / 2


def test_more_tensors_or_sizes_than_any_model_has(stub):
    many = raw_request()
    for at in range(2000):
        many.inputs.add(name=f"x{at}", datatype="FP32", shape=[1])
    wanted = raw_request(raw_input_contents=[bytes(8)])
    for at in range(2000):
        wanted.outputs.add(name=f"y{at}")
    for request, message in (
        (many, "the request has 2001 inputs; send those of the model, 1024 at the most"),
        (wanted, "the request has 2000 outputs"),
        (fault(shape=[1] * 1_000_000), "the shape of input 'x' has 1000000 sizes; send 32 at the most"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT and message in caught.value.details()


def test_large_messages_together_have_a_limit_and_give_it_back(make_gateway):
    with make_gateway("--in-flight", "300000") as small, triton.InferenceServerClient(small.url) as client:
        large = [tensor("x", np.zeros((1, 50_000), np.float32))]
        waiting = client.async_infer("never", large, lambda result, error: None)
        small.wait_for_line("^asked never")
        code, message = refusal(lambda: client.infer("echo", large))
        assert code == "UNAVAILABLE" and "MAX_IN_FLIGHT_BYTES" in message
        waiting.cancel()
        small.wait_for_line("^cancelled")
        assert client.infer("echo", large).as_numpy("out_x").shape == (1, 50_000)
        assert client.infer("echo", large).as_numpy("out_x").shape == (1, 50_000)


def test_calls_at_once_have_a_limit(make_gateway):
    with make_gateway("--max-calls", "3") as small, triton.InferenceServerClient(small.url) as client:
        waiting = [client.async_infer("never", floats(1), lambda result, error: None) for _ in range(3)]
        wait_until("all are asked", lambda: small.log.count("asked never") == 3)
        assert refusal(lambda: client.infer("echo", floats(1)))[0] == "RESOURCE_EXHAUSTED"
        for each in waiting:
            each.cancel()
        wait_until("all are cancelled", lambda: small.log.count("cancelled\n") == 3)
        assert client.infer("echo", floats(1)).as_numpy("out_x").tolist() == [[1]]


def test_damaged_messages_are_refused_and_no_bug_of_ours(make_gateway):
    rng = random.Random(7)
    request = raw_request(id="some id", raw_input_contents=[bytes(8)])
    request.parameters["timeout"].int64_param = 10**6
    request.outputs.add(name="out_x").parameters["a"].string_param = "b"
    whole = request.SerializeToString()
    seen = set()
    with make_gateway() as own, grpc.insecure_channel(own.url) as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(1000):
            damaged = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(damaged))
                damaged[at : at + rng.choice([0, 1, 1, 3])] = rng.randbytes(rng.choice([0, 1, 1, 2]))
            try:
                ask(bytes(damaged), timeout=20)
            except grpc.RpcError as error:
                seen.add(error.code())
        assert "Traceback" not in own.log
    assert seen <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND} and seen


def last_timeout(gateway):
    return re.findall(r"^asked \w+ timeout_ms (\w+)$", gateway.log, re.MULTILINE)[-1]


def timeout_of(gateway, ask):
    before = gateway.log.count("timeout_ms")
    ask()
    wait_until("the plane was asked", lambda: gateway.log.count("timeout_ms") > before)
    return last_timeout(gateway)


def test_the_timeout_is_the_smaller_of_parameter_and_deadline(gateway, client):
    x = floats(1)
    assert timeout_of(gateway, lambda: client.infer("echo", x)) == "None"
    assert timeout_of(gateway, lambda: client.infer("echo", x, timeout=2_000_000)) == "2000"
    assert timeout_of(gateway, lambda: client.infer("echo", x, timeout=1)) == "1"
    assert timeout_of(gateway, lambda: client.infer("echo", x, timeout=0)) == "None"
    assert timeout_of(gateway, lambda: client.infer("echo", x, timeout=2_000_000, client_timeout=60)) == "2000"
    assert 50_000 < int(timeout_of(gateway, lambda: client.infer("echo", x, client_timeout=60))) <= 61_000
    assert (
        50_000 < int(timeout_of(gateway, lambda: client.infer("echo", x, timeout=10**8, client_timeout=60))) <= 61_000
    )
    assert timeout_of(gateway, lambda: client.infer("echo", x, client_timeout=5000)) == "600000"


def test_a_timeout_that_is_none_is_refused(client):
    code, message = refusal(lambda: client.infer("echo", floats(1), timeout=-5))
    assert code == "INVALID_ARGUMENT" and "parameters.timeout is -5" in message
    request = with_raw(raw_request(), bytes(8))
    request.parameters["timeout"].string_param = "soon"
    with pytest.raises(grpc.RpcError) as caught:
        client._client_stub.ModelInfer(request)
    assert "parameters.timeout is 'soon'" in caught.value.details()


def test_a_deadline_that_passes_is_told_to_client_and_plane(make_gateway):
    with make_gateway() as own, triton.InferenceServerClient(own.url) as client:
        began = time.monotonic()
        code, _ = refusal(lambda: client.infer("never", floats(1), client_timeout=0.3))
        assert code == "DEADLINE_EXCEEDED" and time.monotonic() - began < 10
        own.wait_for_line("^cancelled$")


def test_a_client_that_cancels_or_vanishes_is_not_waited_for(make_gateway):
    with make_gateway() as own:
        with triton.InferenceServerClient(own.url) as client:
            told = []
            call = client.async_infer("never", floats(1), lambda result, error: told.append(error))
            own.wait_for_line("^asked never")
            call.cancel()
            own.wait_for_line("^cancelled$")
            wait_until("the client heard", lambda: told)
            assert told[0].status() == "StatusCode.CANCELLED"
            client.async_infer("never", floats(1), lambda result, error: None)
            wait_until("it was asked", lambda: own.log.count("asked never") == 2)
        gc.collect()
        wait_until("it was cancelled", lambda: own.log.count("cancelled\n") == 2)
        assert "Traceback" not in own.log


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
