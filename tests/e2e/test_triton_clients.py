"""Clients of the Open Inference Protocol as their users have them, unmodified, on a gateway and on a worker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.support.cluster import Cluster
from tests.support.repository import STEP, TYPES, every_type, marked, publish, sample_of

VALUES = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], np.float32)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers that serve `adds`, version 3, and `types`."""
    directory = tmp_path_factory.mktemp("served")
    publish(directory / "models", "adds", 3, marked(3))
    publish(directory / "models", "types", 1, every_type)
    arguments = ("--repository", str(directory / "models"))
    with Cluster(directory / "cluster", workers=2, arguments=arguments) as running:
        yield running


@pytest.fixture(params=["gateway", "worker"])
def address(request: pytest.FixtureRequest, served: Cluster) -> str:
    url = served.gateway_url if request.param == "gateway" else served.worker_urls["worker_1"]
    return url.removeprefix("http://")


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as made:
        yield made


def tensor(name: str, values: NDArray[Any], datatype: str, *, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def test_what_a_client_asks_of_the_server(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("adds")
    assert client.is_model_ready("adds", "3")
    assert not client.is_model_ready("nobody")
    server = client.get_server_metadata()
    assert set(server["extensions"]) >= {"binary_tensor_data", "statistics", "model_configuration", "model_repository"}
    model = client.get_model_metadata("adds")
    assert model["name"] == "adds"
    assert model["versions"] == ["3"]
    assert model["platform"] == "onnxruntime_onnx"
    assert model["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert model["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 4]}]
    config = client.get_model_config("adds")
    assert config["max_batch_size"] == 32
    assert [each["name"] for each in config["input"]] == ["input"]
    assert [each["name"] for each in config["output"]] == ["output"]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 20_000
    assert config["response_cache"]["enable"] is True
    index = client.get_model_repository_index()
    assert sorted((each["name"], each["version"], each["state"]) for each in index) == [
        ("adds", "3", "READY"),
        ("types", "1", "READY"),
    ]


@pytest.mark.parametrize("sent", ["json", "binary"])
@pytest.mark.parametrize("taken", ["json", "binary"])
def test_every_datatype(client: triton.InferenceServerClient, sent: str, taken: str) -> None:
    rng = np.random.default_rng(1)
    samples = {name: sample_of(name, (3, 5), rng) for name in TYPES}
    inputs = [
        # Half floats have no text in this client.
        tensor(f"in_{name}", values, name, binary=sent == "binary" or name == "FP16")
        for name, values in samples.items()
    ]
    outputs = [
        triton.InferRequestedOutput(f"out_{name}", binary_data=taken == "binary" or name == "FP16")
        for name in reversed(TYPES)
    ]
    answer = client.infer("types", inputs, outputs=outputs, request_id="every type")
    said = answer.get_response()
    assert said["id"] == "every type"
    assert [each["name"] for each in said["outputs"]] == [f"out_{name}" for name in reversed(TYPES)]
    for name, values in samples.items():
        got = answer.as_numpy(f"out_{name}")
        if name == "BYTES" and taken == "json":
            got = np.array([text.encode() for text in got.ravel()], np.object_).reshape(got.shape)
        np.testing.assert_array_equal(got, values, err_msg=name)


def test_without_names_of_outputs_all_come(client: triton.InferenceServerClient) -> None:
    rng = np.random.default_rng(2)
    inputs = [tensor(f"in_{name}", sample_of(name, (1, 2), rng), name) for name in TYPES]
    said = client.infer("types", inputs).get_response()
    assert [each["name"] for each in said["outputs"]] == [f"out_{name}" for name in TYPES]
    assert (said["model_name"], said["model_version"]) == ("types", "1")


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_both_ways(client: triton.InferenceServerClient, algorithm: str, binary: bool) -> None:
    values = np.repeat(VALUES, 500, axis=0)
    answer = client.infer(
        "adds",
        [tensor("input", values, "FP32", binary=binary)],
        outputs=[triton.InferRequestedOutput("output", binary_data=binary)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(answer.as_numpy("output"), values + 3 * STEP)


def test_a_version_by_its_number(client: triton.InferenceServerClient) -> None:
    answer = client.infer("adds", [tensor("input", VALUES, "FP32")], model_version="3")
    np.testing.assert_array_equal(answer.as_numpy("output"), VALUES + 3 * STEP)
    with pytest.raises(InferenceServerException, match="2") as refused:
        client.infer("adds", [tensor("input", VALUES, "FP32")], model_version="2")
    assert refused.value.status() == "404"


@pytest.mark.parametrize(
    ("model", "name", "values", "datatype", "status", "words"),
    [
        ("nobody", "input", VALUES, "FP32", "404", "nobody"),
        ("adds", "inptu", VALUES, "FP32", "422", "inptu"),
        ("adds", "input", VALUES[:, :3], "FP32", "422", "3"),
        ("adds", "input", VALUES.astype(np.float64), "FP64", "422", "FP64"),
        ("types", "in_BOOL", VALUES > 2, "BOOL", "422", "in_"),
    ],
)
def test_a_request_that_does_not_fit_is_told_why(
    client: triton.InferenceServerClient,
    model: str,
    name: str,
    values: NDArray[Any],
    datatype: str,
    status: str,
    words: str,
) -> None:
    with pytest.raises(InferenceServerException, match=words) as refused:
        client.infer(model, [tensor(name, values, datatype)])
    assert refused.value.status() in (status, "400")


def test_an_unknown_output_is_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="outptu") as refused:
        client.infer("adds", [tensor("input", VALUES, "FP32")], outputs=[triton.InferRequestedOutput("outptu")])
    assert refused.value.status() == "400"


def test_statistics_count_what_was_done(client: triton.InferenceServerClient) -> None:
    def stats() -> dict[str, Any]:
        (found,) = client.get_inference_statistics("adds")["model_stats"]
        return found

    before = stats()
    values = np.random.default_rng().standard_normal((2, 4)).astype(np.float32)
    for _ in range(3):
        client.infer("adds", [tensor("input", values, "FP32")])
    after = stats()
    done = {
        name: after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"]
        for name in after["inference_stats"]
    }
    assert done["success"] == 3
    assert done["cache_hit"] == 2
    assert done["cache_miss"] == 1
    assert done["compute_infer"] == 1
    assert done["fail"] == 0
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_count"] - before["inference_count"] == 2


def test_many_at_once(address: str) -> None:
    with triton.InferenceServerClient(address, concurrency=16) as client:
        rng = np.random.default_rng(3)
        samples = [rng.standard_normal((2, 4)).astype(np.float32) for _ in range(200)]
        under_way = [client.async_infer("adds", [tensor("input", values, "FP32")]) for values in samples]
        for values, each in zip(samples, under_way, strict=True):
            np.testing.assert_allclose(each.get_result().as_numpy("output"), values + 3 * STEP)


async def test_the_asyncio_client(address: str) -> None:
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready("types")
        assert [each["name"] for each in await client.get_model_repository_index()] == ["adds", "types"]
        for binary in (True, False):
            answer = await client.infer(
                "adds",
                [tensor("input", VALUES, "FP32", binary=binary)],
                outputs=[triton.InferRequestedOutput("output", binary_data=binary)],
                request_compression_algorithm="gzip",
                response_compression_algorithm="deflate",
            )
            np.testing.assert_array_equal(answer.as_numpy("output"), VALUES + 3 * STEP)
        with pytest.raises(InferenceServerException):
            await client.infer("nobody", [tensor("input", VALUES, "FP32")])


def test_a_timeout_that_has_passed(client: triton.InferenceServerClient, tmp_path: Path) -> None:
    """In microseconds. What is answered from a cache needs no time, so the input is a new one."""
    values = np.random.default_rng().standard_normal((1, 4)).astype(np.float32)
    answer = client.infer("adds", [tensor("input", values, "FP32")], timeout=5_000_000)
    np.testing.assert_allclose(answer.as_numpy("output"), values + 3 * STEP)
