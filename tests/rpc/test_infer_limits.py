"""What is too large, too much at once or damaged, and how long a call may take."""

import gc
import random
import re
import time
from functools import partial

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.rpc.asking import CONTENTS, fault, floats, raw_request, refusal, tensor, with_raw
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S


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

    def longest_wait():
        """Of the others, as a part of the time that the large one takes."""
        began, longest_s = time.monotonic(), 0.0
        large = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request)
        while not large.done():
            asked = time.monotonic()
            client.infer("echo", floats(1))
            longest_s = max(longest_s, time.monotonic() - asked)
        assert len(large.result().raw_output_contents[0]) == count * size
        return longest_s / (time.monotonic() - began)

    with grpc.insecure_channel(gateway.url, options=[("grpc.max_receive_message_length", -1)]) as channel:
        # A busy machine may make one wait for something else; a reader on the loop would make one wait each time.
        assert any(longest_wait() < 0.5 for _ in range(10))


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

        def answered():
            try:
                return client.infer("echo", floats(1)).as_numpy("out_x").tolist() == [[1]]
            except InferenceServerException as error:  # their calls end a moment later
                assert error.status() == "StatusCode.RESOURCE_EXHAUSTED"

        wait_until("there is room again", answered)


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
                ask(bytes(damaged), timeout=PATIENCE_S)
            except grpc.RpcError as error:
                seen.add(error.code())
        assert "Traceback" not in own.log
    assert seen <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND} and seen


def test_the_timeout_is_the_smaller_of_parameter_and_deadline(make_gateway):
    x, timeouts = floats(1), re.compile(r"^asked \w+ timeout_ms (\w+)$", re.MULTILINE)
    with make_gateway() as own, triton.InferenceServerClient(own.url) as client:
        asked = 0

        def timeout_of(**limits):
            nonlocal asked
            asked += 1
            client.infer("echo", x, **limits)
            wait_until("the plane was asked", lambda: len(timeouts.findall(own.log)) == asked)
            return timeouts.findall(own.log)[-1]

        assert timeout_of() == "None"
        assert timeout_of(timeout=2_000_000) == "2000"
        assert timeout_of(timeout=1) == "1"
        assert timeout_of(timeout=0) == "None"
        assert timeout_of(timeout=2_000_000, client_timeout=200) == "2000"
        assert 100_000 < int(timeout_of(client_timeout=200)) <= 201_000
        assert 100_000 < int(timeout_of(timeout=10**9, client_timeout=200)) <= 201_000
        assert timeout_of(client_timeout=5000) == "600000"


def test_a_timeout_that_is_none_is_refused(client):
    code, message = refusal(lambda: client.infer("echo", floats(1), timeout=-5))
    assert code == "INVALID_ARGUMENT" and "parameters.timeout is -5" in message
    request = with_raw(raw_request(), bytes(8))
    request.parameters["timeout"].string_param = "soon"
    with pytest.raises(grpc.RpcError) as caught:
        client._client_stub.ModelInfer(request)
    assert "parameters.timeout is 'soon'" in caught.value.details()


def has_asked(own, model, times):
    return own.log.count(f"asked {model}") == times


def test_a_deadline_that_passes_is_told_to_client_and_plane(make_gateway):
    with make_gateway() as own, triton.InferenceServerClient(own.url) as client:
        for times, deadline_s in enumerate((0.3, 3, 30), 1):  # on a busy machine it may pass before the plane is asked
            code, _ = refusal(lambda limit=deadline_s: client.infer("never", floats(1), client_timeout=limit))
            assert code == "DEADLINE_EXCEEDED"
            client.infer("echo", floats(1))
            wait_until("what came after it is asked", partial(has_asked, own, "echo", times))
            if "asked never" in own.log:
                break
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
