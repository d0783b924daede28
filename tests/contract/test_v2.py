"""The Open Inference Protocol (V2), asked through every door: by its own client, and as bytes."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.support.doors import Door, assert_error, fresh_values
from tests.support.processes import ROOT
from tests.support.wire import Reply, Wire, request

INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="session")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(ROOT / "models/digits.onnx", providers=["CPUExecutionProvider"])


def client(door: Door) -> Any:
    return triton.InferenceServerClient(door.url.removeprefix("http://"))


def fresh_rows(rows: int) -> np.ndarray[Any, Any]:
    return np.array([fresh_values(64) for _ in range(rows)], np.float32)


def digits_input(array: np.ndarray[Any, Any], binary: bool = True) -> Any:
    made = triton.InferInput("input", list(array.shape), "FP32")
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def body(values: Sequence[float], ident: str | None = "r1", **more: Any) -> bytes:
    tensor = {"name": "input", "shape": [1, len(values)], "datatype": "FP32", "data": list(values)}
    return json.dumps({**({} if ident is None else {"id": ident}), "inputs": [tensor], **more}).encode()


def tensor(**changed: Any) -> bytes:
    whole = {"name": "input", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}
    return json.dumps(
        {"inputs": [{name: value for name, value in (whole | changed).items() if value is not None}]}
    ).encode()


def ask(door: Door, content: bytes, *headers: str) -> Reply:
    return door.ask("POST", INFER, content, [*headers, "Connection: close"])


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_the_real_client_gets_what_the_model_says(
    door: Door, session: onnxruntime.InferenceSession, rows: int, binary: bool, coding: str | None
):
    array = fresh_rows(rows)
    labels, probabilities = session.run(None, {"input": array})
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "label")]
    with client(door) as asking:
        for outputs in (wanted, None):
            reply = asking.infer(
                "digits",
                [digits_input(array, binary)],
                outputs=outputs,
                request_id="any id",
                request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )
            said = reply.get_response()
            assert said["model_name"] == "digits"
            assert said["model_version"] == "1"
            assert said["id"] == "any id"
            names = [each["name"] for each in said["outputs"]]
            assert names == (["probabilities", "label"] if outputs else ["label", "probabilities"])
            np.testing.assert_array_equal(reply.as_numpy("label"), labels)
            np.testing.assert_allclose(reply.as_numpy("probabilities"), probabilities, atol=1e-5)
            assert reply.as_numpy("probabilities").dtype == np.float32


def test_the_second_of_the_same_is_cached_and_near_twins_are_not(door: Door):
    values = [float(value) for value in fresh_rows(1)[0]]
    first, second = (ask(door, body(values, ident)) for ident in ("a", "b"))
    assert [each.headers["x-cache"] for each in (first, second)] == ["miss", "hit"]
    assert first.headers["x-node"] == second.headers["x-node"]
    assert first.headers["x-node"] in door.nodes
    assert [each.json["id"] for each in (first, second)] == ["a", "b"]
    assert first.json["outputs"] == second.json["outputs"]
    one = ask(door, body(values, None, outputs=[{"name": "label"}]))
    assert [each["name"] for each in one.json["outputs"]] == ["label"]
    assert "id" not in one.json
    flat = door.infer(values).json["output_data"]
    np.testing.assert_allclose(flat, first.json["outputs"][1]["data"], atol=1e-5)


def test_what_is_said_about_server_and_model(door: Door):
    with client(door) as asking:
        assert asking.is_server_live()
        assert asking.is_server_ready()
        assert asking.is_model_ready("digits")
        assert asking.is_model_ready("digits", "1")
        assert not asking.is_model_ready("digits", "2")
        assert not asking.is_model_ready("nowhere")
        assert "binary_tensor_data" in asking.get_server_metadata()["extensions"]
        assert asking.get_model_metadata("digits", "1") == {
            "name": "digits",
            "versions": ["1"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}],
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            ],
        }
        config = asking.get_model_config("digits")
        assert config["max_batch_size"] == 32
        assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [64]}]
        assert config["output"][1] == {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [10]}
        assert config["dynamic_batching"]["max_queue_delay_microseconds"] in range(20_001)
        assert config["response_cache"]["enable"] is True
        (entry,) = [each for each in asking.get_model_repository_index() if each["name"] == "digits"]
        assert (entry["version"], entry["state"]) == ("1", "READY")


def test_the_statistics_count_rows_and_leave_out_hits(worker: Door):
    def statistics() -> dict[str, Any]:
        with client(worker) as asking:
            (found,) = asking.get_inference_statistics("digits", "1")["model_stats"]
            (same,) = asking.get_inference_statistics()["model_stats"]
        assert same["name"] == "digits"
        result: dict[str, Any] = found
        return result

    before = statistics()
    array = fresh_rows(5)
    with client(worker) as asking:
        for _ in range(3):
            asking.infer("digits", [digits_input(array)])
    after = statistics()
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    grown = {
        name: after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"]
        for name in after["inference_stats"]
    }
    assert grown["success"] == 3
    assert grown["fail"] == 0
    assert grown["cache_hit"] == 2
    assert grown["queue"] == 3
    assert grown["compute_infer"] == 1
    assert after["last_inference"] > 1_700_000_000_000


@pytest.mark.parametrize(
    "kind", ["", "text/html", "application/x-www-form-urlencoded", "application/octet-stream", "a;;="]
)
def test_headers_decide_nothing(door: Door, kind: str):
    reply = ask(door, body([0.5] * 64), f"Content-Type: {kind}", f"Accept: {kind}")
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/json"


def test_one_connection_takes_one_after_the_other(door: Door):
    with Wire.to(door.url) as asking:
        for number in range(5):
            assert asking.ask(request("POST", INFER, body(fresh_values(64), f"r{number}"))).json["id"] == f"r{number}"
            assert asking.ask(request("GET", "/v2/models/digits")).json["name"] == "digits"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{}", 400),
        (b"[]", 400),
        (b'{"inputs":[]}', 400),
        (b'{"inputs":[5]}', 400),
        (tensor(name=None), 400),
        (tensor(name="x"), 400),
        (tensor(shape=None), 400),
        (tensor(shape="x"), 400),
        (tensor(shape=[-1, 64]), 400),
        (tensor(shape=[1, 2**70]), 400),
        (tensor(datatype=None), 400),
        (tensor(datatype="FP7"), 400),
        (tensor(data=None), 400),
        (tensor(data=["a"] * 64), 400),
        (tensor(data=[None] * 64), 400),
        (tensor(data=[0.0] * 63), 400),
        (tensor(data=[0.0] * 65), 400),
        (tensor(data=[[[0.0] * 32]]), 400),
        (tensor(parameters={"binary_data_size": 256}, data=None), 400),
        (tensor(datatype="INT64", data=[0] * 64), 422),
        (tensor(shape=[1, 63], data=[0.0] * 63), 422),
        (tensor(shape=[64]), 422),
        (tensor(data=[1e300] * 64), 422),
        (body([0.0] * 64, outputs=[{"name": "nothing"}]), 400),
        (body([0.0] * 64, outputs=[5]), 400),
        (body([0.0] * 64, outputs={}), 400),
        (body([0.0] * 64, parameters={"timeout": "x"}), 400),
        (b'{"inputs":' + b"[" * 100_000, 400),
    ],
)
def test_what_is_wrong_is_400_or_422(door: Door, content: bytes, status: int):
    reply = ask(door, content)
    assert reply.status in (status, 400 if status == 422 else 422), reply.body
    ident = reply.json.get("request_id")
    assert_error(reply, reply.status, ident)
    assert ident in (None, "r1")


def test_the_client_reads_its_errors(door: Door):
    array = fresh_rows(1)
    with client(door) as asking:
        for call, status in (
            (lambda: asking.infer("nowhere", [digits_input(array)]), "404"),
            (lambda: asking.infer("digits", [digits_input(array)], model_version="7"), "404"),
            (lambda: asking.get_model_config("nowhere"), "404"),
            (lambda: asking.get_inference_statistics("nowhere"), "404"),
            (lambda: asking.get_log_settings(), "404"),
            (lambda: asking.load_model("digits", headers={"Origin": "http://elsewhere.example"}), "403"),
        ):
            with pytest.raises(InferenceServerException) as caught:
                call()
            assert caught.value.status() == status
            assert len(caught.value.message()) > 10


@pytest.mark.parametrize("path", ["/v2/", "/v2/x", "/v2/models/digits/", "/v2/models//infer", "/v2/health/live/"])
def test_an_unknown_path_is_404(door: Door, path: str):
    for method in ("GET", "POST"):
        assert_error(door.ask(method, path, b"{}" if method == "POST" else None), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", INFER), ("PUT", INFER), ("POST", "/v2"), ("POST", "/v2/health/live"), ("GET", "/v2/repository/index"),
     ("DELETE", "/v2/models/digits"), ("GET", "/v2/repository/models/digits/load")],
)  # fmt: skip
def test_the_wrong_verb_is_405(door: Door, method: str, path: str):
    reply = door.ask(method, path, b"{}" if method != "GET" else None)
    assert_error(reply, 405)
    assert reply.headers["allow"] in ("GET", "POST")


@pytest.mark.parametrize("path", [INFER, "/infer"])
def test_compressed_bodies(door: Door, path: str):
    content = body(fresh_values(64)) if path == INFER else json.dumps({"request_id": "r", "input_data": [1.5]}).encode()
    plain = door.ask("POST", path, content)
    for coding, packed in (("gzip", gzip.compress(content)), ("deflate", zlib.compress(content))):
        reply = door.ask("POST", path, packed, [f"Content-Encoding: {coding}", "Connection: close"])
        assert reply.status == plain.status == 200
    bomb = gzip.compress(bytes(2**24))
    assert_error(door.ask("POST", path, bomb, ["Content-Encoding: gzip", "Connection: close"]), 413)
    assert_error(door.ask("POST", path, b"x", ["Content-Encoding: gzip", "Connection: close"]), 400)
    assert_error(door.ask("POST", path, b"x", ["Content-Encoding: br", "Connection: close"]), 415)


@pytest.mark.parametrize("timeout", [{"timeout": 1}, {"timeout": 1, "priority": 3, "mine": [1]}])
def test_a_timeout_in_microseconds_counts(door: Door, timeout: dict[str, Any]):
    # A millisecond may well be enough; what must not be is another answer than these.
    reply = ask(door, body(fresh_values(64), parameters=timeout))
    assert reply.status in (200, 503, 504)
    assert ask(door, body(fresh_values(64), parameters={**timeout, "timeout": 60_000_000})).status == 200


def test_inputs_by_name_on_infer(door: Door):
    values = fresh_values(64)
    flat = door.infer(values)
    named = door.post(json.dumps({"request_id": "r", "inputs": {"input": values}, "model": "digits"}).encode())
    assert named.status == 200, named.body
    np.testing.assert_allclose(named.json["output_data"], flat.json["output_data"], atol=1e-5)
    for content, status in (
        ({"inputs": {"x": values}}, 422),
        ({"inputs": {}}, 422),
        ({"inputs": {"input": values}, "input_data": values}, 400),
        ({"inputs": [values]}, 400),
        ({"input_data": values, "model": "nowhere"}, 404),
        ({"input_data": values, "model": 5}, 400),
    ):
        reply = door.post(json.dumps({"request_id": "r", **content}).encode())
        assert reply.status in (status, 400 if status == 422 else status), reply.body
        assert_error(reply, reply.status, "r")


def test_a_model_is_loaded_again_while_it_serves(gateway: Door):
    for _ in range(2):
        with client(gateway) as asking:
            asking.load_model("digits")
            assert asking.is_model_ready("digits")
            with pytest.raises(InferenceServerException) as caught:
                asking.load_model("nowhere")
            assert caught.value.status() in ("400", "404")
            assert "nowhere" in caught.value.message()
        assert gateway.infer(fresh_values()).status == 200


def test_a_worker_that_has_gateways_leaves_its_models_to_them(worker: Door):
    reply = worker.ask("POST", "/v2/repository/models/digits/unload")
    assert reply.status in range(400, 500), reply.body
    assert_error(reply, reply.status)
    assert worker.infer(fresh_values()).status == 200
