"""gRPC through a real cluster: the same answers, the same models, and no connection that holds up its end."""

import asyncio
import json
import queue
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.support.cluster import Cluster
from tests.support.ports import free_ports
from tests.support.processes import ROOT, wait_until
from tests.support.unhurried import unhurry
from tests.support.waiting import PATIENCE_S

DIGITS = ROOT / "models" / "digits.onnx"


class GrpcCluster(Cluster):
    """`grpc_url` is where it serves; it has the digits' model in a repository."""

    def __init__(self, directory: Path, workers: int = 2) -> None:
        self.repository = directory / "repository"
        (self.repository / "digits" / "1").mkdir(parents=True)
        shutil.copy(DIGITS, self.repository / "digits" / "1" / "model.onnx")
        shutil.copy(DIGITS.with_suffix(".json"), self.repository / "digits" / "model.json")
        port = free_ports(1)[0]
        self.grpc_url = f"127.0.0.1:{port}"
        arguments = ["--repository", str(self.repository), "--grpc-port", str(port)]
        super().__init__(directory, workers=workers, arguments=arguments)


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[GrpcCluster]:
    with GrpcCluster(tmp_path_factory.mktemp("grpc-cluster")) as made:
        unhurry(made, hedging=False)
        made.wait_until_connected()
        yield made


@pytest.fixture
def client(running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(running.grpc_url) as made:
        wait_until("the model is ready", lambda: made.is_model_ready("digits"))
        yield made


def digits(*rows: list[float], name: str = "input") -> list[triton.InferInput]:
    array = np.array(rows, np.float32)
    made = triton.InferInput(name, list(array.shape), "FP32")
    made.set_data_from_numpy(array)
    return [made]


def image(seed: int) -> list[float]:
    found: list[float] = np.random.default_rng(seed).integers(0, 17, 64).astype(float).tolist()
    return found


@pytest.fixture
def input_name(client) -> str:
    name: str = client.get_model_metadata("digits").inputs[0].name
    return name


@pytest.fixture
def output_name(client, running, input_name) -> str:
    """The output that /infer serves."""
    expected = running.infer(image(0))[1]["output_data"]
    response = client.infer("digits", digits(image(0), name=input_name))
    for each in response.get_response().outputs:
        if np.allclose(np.ravel(response.as_numpy(each.name)).astype(float)[:10], expected[:10], atol=1e-6):
            return str(each.name)
    raise AssertionError(f"no output is {expected}: {response.get_response()}")


def test_the_answers_are_those_of_infer(client, running, input_name, output_name):
    for seed in range(20):
        expected = running.infer(image(seed))[1]["output_data"]
        found = client.infer("digits", digits(image(seed), name=input_name)).as_numpy(output_name)
        assert np.allclose(found[0], expected, atol=1e-5)


def test_a_batch_is_its_rows(client, input_name, output_name):
    rows = [image(seed) for seed in range(5)]
    found = client.infer("digits", digits(*rows, name=input_name)).as_numpy(output_name)
    for row, expected in zip(rows, found, strict=True):
        alone = client.infer("digits", digits(row, name=input_name)).as_numpy(output_name)
        assert np.allclose(alone[0], expected, atol=1e-5)


def test_who_answered_and_from_which_cache(running, client, input_name):
    request = triton._utils._get_inference_request(
        "digits", digits(image(77), name=input_name), "", "", None, 0, False, False, 0, None, None
    )
    seen = []
    for _ in range(4):
        _, call = client._client_stub.ModelInfer.with_call(request)
        seen.append(dict(call.trailing_metadata()))
    assert seen[0]["x-node"] in running.names and seen[0]["x-cache"] == "miss" and seen[0]["x-attempts"] == "1"
    assert seen[-1]["x-cache"] in ("hit", "gateway")


def test_how_it_went_if_asked(running, client, input_name):
    def asked(model: str, inputs: list[triton.InferInput]) -> object:
        return triton._utils._get_inference_request(model, inputs, "", "", None, 0, False, False, 0, None, None)

    infer, explain = client._client_stub.ModelInfer, [("x-explain", "1")]
    _, call = infer.with_call(asked("digits", digits(image(78), name=input_name)), metadata=explain)
    told = json.loads(dict(call.trailing_metadata())["x-explain"])
    assert (told["status"], told["cache"], told["model"]) == (200, "miss", "digits")
    assert sum(told["parts_ms"].values()) == pytest.approx(told["total_ms"], rel=0.05)
    for model, inputs, status in (("nothing", digits(image(1)), 404), ("digits", digits([1.0]), 422)):
        with pytest.raises(grpc.RpcError) as caught:
            infer(asked(model, inputs), metadata=explain)
        assert json.loads(dict(caught.value.trailing_metadata())["x-explain"])["status"] == status
    with pytest.raises(grpc.RpcError) as caught:
        infer(asked("digits", digits(image(78), name=input_name)), metadata=[("x-explain", "yes")])
    assert dict(caught.value.trailing_metadata())["x-error-code"] == "invalid_explain"


def refusal(of):
    with pytest.raises(InferenceServerException) as caught:
        of()
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_what_does_not_fit_is_refused(client, input_name):
    assert refusal(lambda: client.infer("nope", digits(image(1))))[0] == "NOT_FOUND"
    assert (
        refusal(lambda: client.infer("digits", digits(image(1), name=input_name), model_version="9"))[0] == "NOT_FOUND"
    )
    for wrong in (digits(image(1), name="nope"), digits([1.0, 2.0], name=input_name)):
        code, message = refusal(lambda w=wrong: client.infer("digits", w))
        assert code == "INVALID_ARGUMENT" and message
    outputs = [triton.InferRequestedOutput("nope")]
    code, message = refusal(lambda: client.infer("digits", digits(image(1), name=input_name), outputs=outputs))
    assert code == "INVALID_ARGUMENT" and "nope" in message


def test_reports(client, input_name):
    assert client.is_server_ready()
    assert not client.is_model_ready("nope")
    for seed in range(200, 210):
        client.infer("digits", digits(image(seed), name=input_name))
    config = client.get_model_config("digits").config
    assert config.max_batch_size > 0 and config.input[0].name == input_name and list(config.input[0].dims) == [64]
    index = client.get_model_repository_index().models
    assert [(each.name, each.version, each.state) for each in index] == [("digits", "1", "READY")]

    def counted() -> bool:  # the workers' counts come once in a while
        (stats,) = client.get_inference_statistics("digits").model_stats
        return bool(stats.inference_count >= 10 and stats.inference_stats.success.count >= 10)

    wait_until("they are counted", counted)


def test_health(running):
    with grpc.insecure_channel(running.grpc_url) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"


async def test_many_at_once_each_get_their_own(running, input_name, output_name):
    expected = {seed: running.infer(image(seed))[1]["output_data"] for seed in range(300, 340)}
    async with triton_aio.InferenceServerClient(running.grpc_url) as many:

        async def one(seed: int) -> None:
            answer = await many.infer("digits", digits(image(seed), name=input_name), request_id=str(seed))
            assert answer.get_response().id == str(seed)
            assert np.allclose(answer.as_numpy(output_name)[0], expected[seed], atol=1e-5)

        for _ in range(5):
            await asyncio.gather(*map(one, list(expected) * 3))


PAUSE_S = 0.1


class Asking(threading.Thread):
    """Asks for one image after the other, and keeps what fails."""

    def __init__(self, url: str, name: str, first: int) -> None:
        super().__init__(daemon=True)
        self._url, self._name, self._seed = url, name, first
        self._stop_asked = threading.Event()
        self.failures: list[str] = []
        self.answered = 0

    def run(self) -> None:
        with triton.InferenceServerClient(self._url) as client:
            while not self._stop_asked.is_set():
                self._seed += 1
                try:
                    client.infer("digits", digits(image(self._seed), name=self._name))
                    self.answered += 1
                except InferenceServerException as error:
                    self.failures.append(error.status())
                    # A channel whose connection was refused fails all calls of the next second: who asks on and on
                    # would count how quick the machine is.
                    self._stop_asked.wait(PAUSE_S)

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(timeout=PATIENCE_S)


def test_a_worker_that_dies_costs_no_answer(running, input_name):
    asking = [Asking(running.grpc_url, input_name, 1000 * (number + 1)) for number in range(4)]
    for each in asking:
        each.start()
    try:
        wait_until("all have asked", lambda: all(each.answered > 20 for each in asking))
        running.kill_worker(0)
        before = [each.answered for each in asking]
        wait_until("all go on", lambda: all(e.answered > b + 20 for e, b in zip(asking, before, strict=True)))
    finally:
        for each in asking:
            each.stop()
    assert [each.failures for each in asking] == [[]] * 4
    running.wait_until_connected()


def test_models_are_unloaded_and_loaded(running, client, input_name):
    client.unload_model("digits")
    assert not client.is_model_ready("digits")
    assert refusal(lambda: client.infer("digits", digits(image(1), name=input_name)))[0] in ("NOT_FOUND", "UNAVAILABLE")
    client.load_model("digits")
    assert client.is_model_ready("digits")
    client.infer("digits", digits(image(1), name=input_name))
    version = running.repository / "digits" / "2"
    shutil.copytree(running.repository / "digits" / "1", version)
    client.load_model("digits")
    assert client.infer("digits", digits(image(1), name=input_name)).get_response().model_version == "2"
    (version / "model.onnx").write_bytes(b"no model")
    code, message = refusal(lambda: client.load_model("digits"))
    assert code == "INVALID_ARGUMENT" and message
    client.infer("digits", digits(image(2), name=input_name))
    shutil.rmtree(version)
    client.load_model("digits")
    assert client.infer("digits", digits(image(1), name=input_name)).get_response().model_version == "1"


def go_on(asking: list[Asking]) -> None:
    answered = [each.answered for each in asking]
    wait_until("all go on", lambda: all(e.answered > b + 50 for e, b in zip(asking, answered, strict=True)))


def test_restarts_and_the_end(tmp_path):
    """A call that meets the very end of its connection hears so and is not begun, and the channel connects anew."""
    with GrpcCluster(tmp_path / "own") as own, triton.InferenceServerClient(own.grpc_url) as client:
        unhurry(own, hedging=False)
        wait_until("the model is ready", lambda: client.is_model_ready("digits"))
        name = client.get_model_metadata("digits").inputs[0].name
        before = own.pids()
        asking = [Asking(own.grpc_url, name, 1000 * (number + 1)) for number in range(4)]
        for each in asking:
            each.start()
        try:
            own.process.send_signal(signal.SIGHUP)
            own.wait_for_line("all have been restarted, in", 2 * PATIENCE_S)
            assert not set(own.pids().values()) & set(before.values())
            go_on(asking)
            alone = own.kill("gateway", signal.SIGTERM)  # its successor is not there yet
            wait_until("another gateway", lambda: own.pid("gateway") != alone)
            own.wait_for_line(rf"gateway ended, pid {alone}: ended with status 0")
            go_on(asking)
            failed = [len(each.failures) for each in asking]
            go_on(asking)
            assert [len(each.failures) for each in asking] == failed  # who is connected again stays so
        finally:
            for each in asking:
                each.stop()
        failures = [status for each in asking for status in each.failures]
        assert set(failures) <= {"StatusCode.CANCELLED", "StatusCode.UNAVAILABLE"}
        answers: queue.Queue = queue.Queue()
        client.start_stream(lambda result, error: answers.put(error))
        client.async_stream_infer("digits", digits(image(1), name=name))
        assert answers.get(timeout=PATIENCE_S) is None
        own.stop()
        assert answers.get(timeout=PATIENCE_S).status() == "StatusCode.UNAVAILABLE"
        client.stop_stream()


def test_a_taken_port_is_named(tmp_path):
    with GrpcCluster(tmp_path / "one", workers=1) as one:
        port = one.grpc_url.rpartition(":")[2]
        run = one.manage("rungateway", "--port", str(free_ports(1)[0]), "--grpc-port", port)
        assert run.returncode != 0 and f"port {port}" in run.stderr and "--grpc-port" in run.stderr
