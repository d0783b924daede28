"""Models of other kinds than the bundled one, and processes that must find out who the other one is."""

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from inference_site.lib import frames, handshake
from inference_site.lib.frames import Ask
from tests.support import onnx_models
from tests.support.cluster import Server, environment, manage, run_cluster
from tests.support.http import get, request
from tests.support.load import Load, Oracle
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S

VALUES = [1.0, 2.0, 3.0, 4.0]


def infer(url: str, values: list[float]) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"request_id": "it", "input_data": values}).encode()
    status, answer = request("POST", f"{url}/infer", body)
    return status, json.loads(answer)


def stats(url: str) -> dict[str, Any]:
    return json.loads(get(f"{url}/stats")[1])


def health(server: Server) -> dict[str, Any]:
    return json.loads(get(f"{server.url}/health")[1])


def test_a_classifier_answers_its_probabilities(make_cluster, tmp_path):
    model = onnx_models.classifier(tmp_path / "classifier.onnx")
    running = make_cluster(workers=1, model=model)
    status, answer = running.infer(VALUES)
    assert status == 200
    powers = np.exp(VALUES[:3])
    assert answer["output_data"] == pytest.approx((powers / powers.sum()).tolist(), abs=1e-5)
    assert running.health("worker_1")["model"]["output"] == "probabilities"
    # Too few values are refused: this model has no record that says otherwise.
    assert running.infer(VALUES[:3])[0] == 422
    cases = Oracle(model).random_cases(300, seed=1, low=-3.0, high=3.0)
    with Load(running.gateway_url, cases, connections=20, total=600) as load:
        load.finish().assert_no_failure()


def test_a_model_without_a_batch_dimension_runs_one_by_one(make_cluster, tmp_path):
    model = onnx_models.fixed_batch(tmp_path / "fixed.onnx")
    running = make_cluster(workers=2, model=model)
    cases = Oracle(model).random_cases(1_000, seed=1)
    with Load(running.gateway_url, cases, connections=50, total=1_500) as load:
        report = load.finish()
    report.assert_no_failure()
    assert set(report.nodes()) == {"worker_1", "worker_2"}
    for name in running.names:
        assert running.health(name)["model"]["batches"] is False
        assert running.health(name)["errors"] == 0


def test_the_record_may_choose_the_output(make_cluster, tmp_path):
    model = onnx_models.classifier(tmp_path / "classifier.onnx")
    model.with_suffix(".json").write_text('{"name": "which of three", "output": "label", "pad_with_zeros": true}')
    running = make_cluster(workers=1, model=model)
    assert running.infer([0.0, 5.0])[1]["output_data"] == [1]
    # In a form that a path can hold.
    assert running.stats()["workers"][0]["node"]["model"] == "which-of-three"


@pytest.mark.parametrize(
    ("make", "record", "sentence"),
    [
        (onnx_models.linear, '{"output": "answers"}', "has no output 'answers', as its record says; it has ['output']"),
        (onnx_models.linear, '{"output": 7}', "correct the record or remove it"),
    ],
)
def test_a_model_that_cannot_be_served_ends_it_with_the_reason(tmp_path, make, record, sentence):
    model = make(tmp_path / "model.onnx")
    if record is not None:
        model.with_suffix(".json").write_text(record)
    ended = run_cluster("--model", str(model), env=environment(tmp_path / "state"))
    assert ended.returncode == 1
    assert "times before the cluster was ready" in ended.stderr  # it does not wait until its time is over
    assert sentence in ended.stderr
    assert "model." in ended.stderr  # the file
    assert "Traceback" not in ended.stderr
    assert not any(line.startswith("ready ") for line in ended.stdout.splitlines())


def test_bare_addresses_get_the_names_that_the_workers_say(tmp_path):
    """From the first request on, though rows and ring change under way."""
    model = onnx_models.linear(tmp_path / "linear.onnx")
    names = ["north", "south", "west"]
    first, second, third = (Server.worker(tmp_path / name, name, str(model)) for name in names)
    with first, second, third:
        addresses = [each.wait_ready().url.removeprefix("http://") for each in (first, second, third)]
        with Server.gateway(tmp_path / "gateway", *addresses) as gateway:
            gateway.wait_ready()
            cases = Oracle(model).random_cases(1_000, seed=1)
            with Load(gateway.url, cases, connections=10, rate=500) as load:
                wait_until(
                    "the names are known", lambda: {e["name"] for e in stats(gateway.url)["workers"]} == set(names)
                )
                for name in names:
                    load.wait_for_node(name)
            load.report.assert_no_failure()
            by_name = {each["name"]: each["address"] for each in stats(gateway.url)["workers"]}
            assert by_name == dict(zip(names, addresses, strict=True))
            rows = [[name, True, True] for name in names]
            wait_until("rows have these names", lambda: worker_rows(tmp_path / "gateway") == rows)
            assert gateway.terminate() == 0
        # Named once, known from then on: the same rows, nothing to adopt.
        with Server.gateway(tmp_path / "gateway", *addresses[:2]) as gateway:
            gateway.wait_ready()
            assert {each["name"] for each in stats(gateway.url)["circuit_breakers"]} == {"north", "south"}
            assert worker_rows(tmp_path / "gateway") == [[name, True, name != "west"] for name in names]
            wait_until("it answers", lambda: infer(gateway.url, VALUES)[0] == 200)


def worker_rows(directory: Path) -> list[list[Any]]:
    """Name, whether it is one, and enabled, of each row in this gateway's database."""
    script = (
        "import json; from gateway_app.models import Worker;"
        " print(json.dumps(list(map(list, Worker.objects.values_list('name', 'named', 'enabled')))))"
    )
    done = manage("shell", "--verbosity=0", "--command", script, env=environment(directory))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_worker_of_another_name_gets_nothing(tmp_path):
    with Server.worker(tmp_path / "worker", "north") as worker:
        address = worker.wait_ready().url.removeprefix("http://")
        with Server.gateway(tmp_path / "gateway", f"south={address}") as gateway:
            gateway.wait_ready()
            status, answer = infer(gateway.url, VALUES)
            assert (status, answer["code"]) == (503, "no_worker_available")
            gateway.wait_for_line(r"breaker of south: .*there is 'north', not 'south'; correct the address or the name")
            assert "there is 'north', not 'south'" in stats(gateway.url)["workers"][0]["last_error"]
        assert health(worker)["total_requests"] == 0


def test_a_gateway_sends_nothing_to_a_worker_with_another_token(tmp_path):
    with Server.worker(tmp_path / "worker", "north", env={"INFERENCE_TOKEN": "the worker's"}) as worker:
        address = worker.wait_ready().url.removeprefix("http://")
        with Server.gateway(tmp_path / "gateway", address, env={"INFERENCE_TOKEN": "the gateway's"}) as gateway:
            gateway.wait_ready()
            status, answer = infer(gateway.url, VALUES)
            assert (status, answer["code"], answer["request_id"]) == (503, "no_worker_available", "it")
            gateway.wait_for_line(r"did not prove that it holds this gateway's INFERENCE_TOKEN; set the same on both")
            assert not stats(gateway.url)["workers"][0]["connected"]
            assert "the worker's" not in gateway.log
            assert worker_rows(tmp_path / "gateway")[0][1] is False  # a stranger's name is not taken over
        assert health(worker)["total_requests"] == 0
        assert "the gateway's" not in worker.log


def test_a_worker_answers_nothing_to_a_gateway_with_another_token(tmp_path):
    with Server.worker(tmp_path, "north", env={"INFERENCE_TOKEN": "the worker's"}) as worker:
        url = worker.wait_ready().url.replace("http://", "ws://") + "/stream"
        headers = {handshake.CHALLENGE_HEADER: "0" * 32}
        for token, welcome in (("another", False), ("", False), ("the worker's", True)):
            with connect(url, additional_headers=headers, compression=None, open_timeout=PATIENCE_S) as stranger:
                greeting = stranger.recv(timeout=PATIENCE_S)
                assert isinstance(greeting, bytes)
                hello = json.loads(greeting[frames.TELL_HEAD_BYTES :])
                proof = handshake.gateway_proof(token, hello["challenge"]).encode()
                question = frames.ask(Ask.INFER, 1, b"[1.0]", model=1)
                stranger.send(frames.ask(Ask.PROOF, 0, proof) + question)
                if welcome:
                    assert stranger.recv(timeout=PATIENCE_S)
                    wait_until("it counts", lambda: health(worker)["total_requests"] == 1)
                else:
                    with pytest.raises(ConnectionClosed) as closed:
                        stranger.recv(timeout=PATIENCE_S)
                    assert (closed.value.rcvd and closed.value.rcvd.code) == 4401
                    assert health(worker)["total_requests"] == 0
        said = "turned away: it did not prove that it holds this worker's INFERENCE_TOKEN"
        wait_until("it has said so twice", lambda: worker.log.count(said) == 2)


def test_a_stranger_on_a_workers_port_gets_no_data(tmp_path):
    """Something else answers there, as a WebSocket even, and says the right name."""
    received: list[bytes | str] = []
    calls = threading.Event()

    def impostor(connection: ServerConnection) -> None:
        hello = {
            "version": frames.PROTOCOL_VERSION, "node_id": "north", "instance": "x",
            "draining": False, "challenge": "0" * 32, "proof": "0" * 64,
        }  # fmt: skip
        connection.send(frames.tell(frames.Tell.HELLO, 0, json.dumps(hello).encode()))
        with suppress(ConnectionClosed):
            received.extend(connection)
        calls.set()

    with serve(impostor, "127.0.0.1", 0, open_timeout=PATIENCE_S) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            port = server.socket.getsockname()[1]
            with Server.gateway(tmp_path, f"north=127.0.0.1:{port}", env={"INFERENCE_TOKEN": "secret"}) as gateway:
                gateway.wait_ready()
                assert calls.wait(PATIENCE_S)
                assert infer(gateway.url, VALUES)[0] == 503
                gateway.wait_for_line(r"did not prove that it holds this gateway's INFERENCE_TOKEN")
            assert received == []
        finally:
            server.shutdown()
            thread.join()
