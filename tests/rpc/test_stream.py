"""ModelStreamInfer: a sequence of inferences on one call."""

import queue

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S


def floats(*values):
    made = triton.InferInput("x", [1, len(values)], "FP32")
    made.set_data_from_numpy(np.array([values], np.float32))
    return [made]


def test_answers_come_in_the_order_of_the_requests_and_an_error_in_its_place(client):
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    models = ["later", "echo", "nope", "bug", "echo"]
    for number, model in enumerate(models):
        client.async_stream_infer(model, floats(number), request_id=str(number))
    found = [answers.get(timeout=PATIENCE_S) for _ in models]
    client.stop_stream()
    assert [None if error else result.get_response().id for result, error in found] == ["0", "1", None, None, "4"]
    assert found[4][0].as_numpy("out_x").tolist() == [[4]]
    assert str(found[2][1]) == "there is no model 'nope'"
    assert "a bug" in str(found[3][1])


def test_a_thousand_on_one_stream(client):
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(1000):
        client.async_stream_infer("echo", floats(number), request_id=str(number))
    for number in range(1000):
        result, error = answers.get(timeout=PATIENCE_S)
        assert error is None and result.as_numpy("out_x").tolist() == [[number]]
    client.stop_stream()


async def test_a_stream_of_the_asyncio_client(gateway):
    async def requests():
        for number in range(20):
            yield {"model_name": "later", "inputs": floats(number), "request_id": str(number)}

    async with triton_aio.InferenceServerClient(gateway.url) as client:
        found = [(result, error) async for result, error in client.stream_infer(requests())]
    assert [result.get_response().id for result, _ in found] == [str(number) for number in range(20)]
    assert all(result.get_response().parameters["triton_final_response"].bool_param for result, _ in found)


def test_an_error_names_the_request(gateway):
    request = pb.ModelInferRequest(model_name="nope", id="7")
    with grpc.insecure_channel(gateway.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        (response,) = stub.ModelStreamInfer(iter([request]))
    assert response.error_message == "there is no model 'nope'"
    assert response.infer_response.id == "7"


def test_a_client_that_leaves_its_stream_is_not_waited_for(make_gateway):
    with make_gateway() as own, triton.InferenceServerClient(own.url) as client:
        client.start_stream(lambda result, error: None)
        for _ in range(3):
            client.async_stream_infer("never", floats(1))
        wait_until("all are asked", lambda: own.log.count("asked never") == 3)
        client.stop_stream(cancel_requests=True)
        wait_until("all are cancelled", lambda: own.log.count("cancelled\n") == 3)
        assert "Traceback" not in own.log


def test_a_stream_has_a_limit_of_what_is_under_way(make_gateway):
    with make_gateway() as own, triton.InferenceServerClient(own.url) as client:
        client.start_stream(lambda result, error: None)
        for _ in range(200):
            client.async_stream_infer("never", floats(1))
        wait_until("some are asked", lambda: own.log.count("asked never") >= 128)
        client.stop_stream(cancel_requests=True)
        wait_until("all are cancelled", lambda: own.log.count("cancelled\n") == own.log.count("asked never"))
        assert (
            own.log.count("asked never") <= 131
        )  # what the answer that is waited for, and who waits to be queued, add
