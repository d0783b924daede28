"""tritonclient.http as it is, both of them, for every call that it has."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import tritonclient.http as sync_http
import tritonclient.http.aio as aio_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from inference_site.lib.datatypes import BYTES, NUMPY
from tests.support.v2_server import V2Server

CODINGS = [None, "gzip", "deflate"]


def values(kind: str, rows: int = 2, columns: int = 3) -> np.ndarray[Any, Any]:
    """Among them the ends of the type."""
    if kind == BYTES:
        words = [b"", b"a", "ü".encode(), b"x" * 300, b"\n", b'"']
        return np.array([words[i % len(words)] for i in range(rows * columns)], object).reshape(rows, columns)
    dtype = NUMPY[kind]
    if kind == "BOOL":
        return np.arange(rows * columns).reshape(rows, columns) % 2 == 0
    info: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    flat = np.array([0, 1, 2, 3, 4, 5] * (rows * columns // 6 + 1), dtype)[: rows * columns]
    flat[:2] = info.min, info.max
    return flat.reshape(rows, columns)


def infer_input(name: str, array: np.ndarray[Any, Any], binary: bool, module: Any = sync_http) -> Any:
    made = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_an_inference_of_every_datatype_both_ways(v2: V2Server):
    with sync_http.InferenceServerClient(v2.url) as client:
        for kind in NUMPY:
            array = values(kind)
            for binary in (True, False):
                if kind == "FP16" and not binary:
                    continue  # its client can't put the ends of the type in JSON
                wanted = [sync_http.InferRequestedOutput("OUT0", binary_data=binary)]
                reply = client.infer(kind.lower(), [infer_input("IN0", array, binary)], outputs=wanted)
                found = reply.as_numpy("OUT0")
                if kind == BYTES:
                    assert [x if isinstance(x, bytes) else x.encode() for x in found.ravel()] == list(array.ravel())
                else:
                    np.testing.assert_array_equal(found, array)
                    assert found.dtype == array.dtype
                assert reply.get_response()["model_name"] == kind.lower()
                assert reply.get_response()["model_version"] == "1"


@pytest.mark.parametrize("sent", CODINGS)
@pytest.mark.parametrize("got", CODINGS)
@pytest.mark.parametrize("columns", [3, 2_000, 20_000])
def test_compression_either_way(v2: V2Server, sent: str | None, got: str | None, columns: int):
    array = np.random.default_rng(1).random((2, columns), np.float32)  # the last stay large when they are packed
    with sync_http.InferenceServerClient(v2.url) as client:
        for _ in range(2):  # the head of the second is known
            reply = client.infer(
                "fp32",
                [infer_input("IN0", array, True)],
                request_compression_algorithm=sent,
                response_compression_algorithm=got,
            )
            np.testing.assert_array_equal(reply.as_numpy("OUT0"), array)


def test_two_inputs_one_output_and_what_is_said_about_it(v2: V2Server):
    first, second = values("FP32"), values("INT64")
    with sync_http.InferenceServerClient(v2.url) as client:
        reply = client.infer(
            "pair",
            [infer_input("IN0", first, True), infer_input("IN1", second, False)],
            model_version="1",
            outputs=[sync_http.InferRequestedOutput("OUT1", binary_data=True)],
            request_id="r ü 1",
            timeout=1_500_001,
            headers={"X-Request-Timeout-Ms": "9000"},
            parameters={"mine": 5},
        )
        assert reply.get_response()["id"] == "r ü 1"
        assert reply.get_response()["model_version"] == "1"
        assert [each["name"] for each in reply.get_response()["outputs"]] == ["OUT1"]
        np.testing.assert_array_equal(reply.as_numpy("OUT1"), second)
        assert v2.v2.timeouts == [1501]
        # Of two inputs in binary, with the newest version.
        reply = client.infer("pair", [infer_input("IN0", first, True), infer_input("IN1", second, True)])
        assert reply.get_response()["model_version"] == "2"
        assert "id" not in reply.get_response()
        np.testing.assert_array_equal(reply.as_numpy("OUT0"), first)
        np.testing.assert_array_equal(reply.as_numpy("OUT1"), second)


def test_every_call_about_server_and_models(v2: V2Server):
    with sync_http.InferenceServerClient(v2.url) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("pair")
        assert client.is_model_ready("pair", "1")
        assert not client.is_model_ready("pair", "9")
        assert not client.is_model_ready("broken")
        server = client.get_server_metadata(query_params={"x": 1})
        assert set(server) == {"name", "version", "extensions"}
        assert set(server["extensions"]) == {
            "binary_tensor_data", "statistics", "model_configuration", "model_repository",
        }  # fmt: skip
        assert client.get_model_metadata("pair") == {
            "name": "pair",
            "versions": ["1", "2"],
            "platform": "onnxruntime_onnx",
            "inputs": [
                {"name": "IN0", "datatype": "FP32", "shape": [-1, -1]},
                {"name": "IN1", "datatype": "INT64", "shape": [-1, -1]},
            ],
            "outputs": [
                {"name": "OUT0", "datatype": "FP32", "shape": [-1, -1]},
                {"name": "OUT1", "datatype": "INT64", "shape": [-1, -1]},
            ],
        }
        config = client.get_model_config("bytes")
        assert config["name"] == "bytes"
        assert config["max_batch_size"] == 8
        assert config["input"] == [{"name": "IN0", "data_type": "TYPE_STRING", "dims": [-1]}]
        assert config["output"] == [{"name": "OUT0", "data_type": "TYPE_STRING", "dims": [-1]}]
        assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 20_000
        assert config["response_cache"] == {"enable": True}
        assert client.get_model_metadata("with space ü")["name"] == "with space ü"
        (statistics,) = client.get_inference_statistics("fp32")["model_stats"]
        assert statistics["inference_count"] == 4
        assert statistics["execution_count"] == 2
        assert statistics["inference_stats"]["success"] == {"count": 5, "ns": 500}
        assert statistics["inference_stats"]["queue"] == {"count": 5, "ns": 30}
        assert statistics["inference_stats"]["compute_infer"] == {"count": 3, "ns": 300}
        assert statistics["inference_stats"]["cache_hit"]["count"] == 2
        assert [each["batch_size"] for each in statistics["batch_stats"]] == [1, 3]
        assert len(client.get_inference_statistics()["model_stats"]) == len(v2.v2.infos) - 1
        assert len(client.get_inference_statistics("pair")["model_stats"]) == 2
        assert len(client.get_inference_statistics("pair", "1")["model_stats"]) == 1
        index = client.get_model_repository_index()
        assert {"name": "pair", "version": "1", "state": "READY", "reason": ""} in index
        assert {"name": "broken", "version": "3", "state": "UNAVAILABLE", "reason": "no such operator"} in index
        client.load_model("pair")
        client.unload_model("pair", unload_dependents=True)
        assert v2.v2.changes == [("load", "pair"), ("unload", "pair")]
        v2.v2.draining = True
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("pair")


def test_errors_are_the_clients_own(v2: V2Server):
    array = values("FP32")
    with sync_http.InferenceServerClient(v2.url) as client:
        for call, status, says in (
            (lambda: client.infer("nowhere", [infer_input("IN0", array, True)]), 404, "nowhere"),
            (lambda: client.infer("broken", [infer_input("IN0", array, True)]), 503, "no such operator"),
            (lambda: client.infer("int64", [infer_input("IN0", array, True)]), 422, "FP32"),
            (lambda: client.infer("pair", [infer_input("INX", array, True)]), 400, "INX"),
            (lambda: client.get_model_metadata("nowhere"), 404, "nowhere"),
            (lambda: client.get_model_config("broken"), 503, "no such operator"),
            (lambda: client.get_system_shared_memory_status(), 404, "extension"),
            (lambda: client.register_cuda_shared_memory("x", b"y", 0, 8), 404, "extension"),
            (lambda: client.get_trace_settings("pair"), 404, "extension"),
            (lambda: client.update_log_settings({"log_info": True}), 404, "extension"),
            (lambda: client.load_model("pair", config="{}"), 400, "config"),
            (lambda: client.load_model("pair", headers={"Origin": "http://elsewhere.example"}), 403, "origin"),
            (lambda: client.unload_model("pair", headers={"X-Forwarded-For": "1.2.3.4"}), 403, "MODEL_CONTROL_TOKEN"),
        ):
            with pytest.raises(InferenceServerException) as caught:
                call()
            assert caught.value.status() == str(status)
            assert says in caught.value.message()
    assert v2.v2.changes == []


async def test_the_asynchronous_client(v2: V2Server):
    array, text = values("FP32", 2, 5_000), values(BYTES)
    async with aio_http.InferenceServerClient(v2.url) as client:
        assert await client.is_server_live()
        assert (await client.get_model_metadata("pair"))["versions"] == ["1", "2"]
        assert (await client.get_model_config("pair"))["max_batch_size"] == 8
        assert len(await client.get_model_repository_index()) == len(v2.v2.infos)
        await client.load_model("pair")
        for sent in CODINGS:
            for got in CODINGS:
                reply = await client.infer(
                    "fp32",
                    [infer_input("IN0", array, True, aio_http)],
                    request_compression_algorithm=sent,
                    response_compression_algorithm=got,
                )
                np.testing.assert_array_equal(reply.as_numpy("OUT0"), array)
        replies = await asyncio.gather(
            *(
                client.infer("bytes", [infer_input("IN0", text, n % 2 == 0, aio_http)], request_id=f"r{n}")
                for n in range(50)
            )
        )
        assert [each.get_response()["id"] for each in replies] == [f"r{n}" for n in range(50)]
        with pytest.raises(InferenceServerException):
            await client.infer("nowhere", [infer_input("IN0", array, True, aio_http)])


def test_many_requests_in_flight_on_few_connections(v2: V2Server):
    with sync_http.InferenceServerClient(v2.url, concurrency=4) as client:
        arrays = [np.full((1, 4), n, np.float32) for n in range(60)]
        pending = [client.async_infer("fp32", [infer_input("IN0", each, True)]) for each in arrays]
        for each, one in zip(arrays, pending, strict=True):
            np.testing.assert_array_equal(one.get_result().as_numpy("OUT0"), each)
