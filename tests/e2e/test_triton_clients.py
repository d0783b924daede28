"""Clients of the Open Inference Protocol as their users have them, unmodified, on a gateway and on a worker."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.support.cluster import Cluster
from tests.support.onnx_types import ELEMENTS
from tests.support.processes import wait_until
from tests.support.repository import STEP, every_type, marked, publish, sample_of

VALUES = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], np.float32)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers that serve `adds`, version 3, `types`, and two models for whoever counts."""
    directory = tmp_path_factory.mktemp("served")
    publish(directory / "models", "adds", 3, marked(3))
    publish(directory / "models", "types", 1, every_type)
    for number in (1, 2):
        publish(directory / "models", f"counted-{number}", 1, marked(number))
    arguments = ("--repository", str(directory / "models"))
    with Cluster(directory / "cluster", workers=2, arguments=arguments, calm=True) as running:
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
    # A batch starts when the model is free.
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 0
    assert config["response_cache"]["enable"] is True
    index = client.get_model_repository_index()
    assert [(each["name"], each["version"], each["state"]) for each in index] == [
        ("adds", "3", "READY"),
        ("counted-1", "1", "READY"),
        ("counted-2", "1", "READY"),
        ("types", "1", "READY"),
    ]


@pytest.mark.parametrize("sent", ["json", "binary"])
@pytest.mark.parametrize("taken", ["json", "binary"])
def test_every_datatype(client: triton.InferenceServerClient, sent: str, taken: str) -> None:
    rng = np.random.default_rng(1)
    samples = {name: sample_of(name, (3, 5), rng) for name in ELEMENTS}
    inputs = [
        # Half floats have no text in this client.
        tensor(f"in_{name}", values, name, binary=sent == "binary" or name == "FP16")
        for name, values in samples.items()
    ]
    outputs = [
        triton.InferRequestedOutput(f"out_{name}", binary_data=taken == "binary" or name == "FP16")
        for name in reversed(ELEMENTS)
    ]
    answer = client.infer("types", inputs, outputs=outputs, request_id="every type")
    said = answer.get_response()
    assert said["id"] == "every type"
    assert [each["name"] for each in said["outputs"]] == [f"out_{name}" for name in reversed(ELEMENTS)]
    for name, values in samples.items():
        got = answer.as_numpy(f"out_{name}")
        if name == "BYTES" and taken == "json":
            got = np.array([text.encode() for text in got.ravel()], np.object_).reshape(got.shape)
        np.testing.assert_array_equal(got, values, err_msg=name)


def test_empty_tensors_go_and_come_as_they_are(client: triton.InferenceServerClient) -> None:
    rng = np.random.default_rng(4)
    inputs = [tensor(f"in_{name}", sample_of(name, (2, 0), rng), name) for name in ELEMENTS]
    answer = client.infer("types", inputs)
    assert {answer.as_numpy(f"out_{name}").shape for name in ELEMENTS} == {(2, 0)}


def test_without_names_of_outputs_all_come(client: triton.InferenceServerClient) -> None:
    rng = np.random.default_rng(2)
    inputs = [tensor(f"in_{name}", sample_of(name, (1, 2), rng), name) for name in ELEMENTS]
    said = client.infer("types", inputs).get_response()
    assert [each["name"] for each in said["outputs"]] == [f"out_{name}" for name in ELEMENTS]
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


def test_statistics_count_what_was_done(served: Cluster) -> None:
    """Each door on a model that nobody else asks. The gateway hears from its workers twice a second."""
    for url, model in ((served.gateway_url, "counted-1"), (served.worker_urls["worker_2"], "counted-2")):
        with triton.InferenceServerClient(url.removeprefix("http://")) as client:
            for _ in range(3):
                client.infer(model, [tensor("input", VALUES, "FP32")])
            with pytest.raises(InferenceServerException):
                client.infer(model, [tensor("input", VALUES[:, :3], "FP32")])
            wait_until("all has been counted", partial(counted, client, model, success=3, fail=1))
            (found,) = client.get_inference_statistics(model)["model_stats"]
        stats = found["inference_stats"]
        assert {name: each["count"] for name, each in stats.items()} == {
            "success": 3,
            "fail": 1,
            "queue": 3,  # as Triton has it: hits too
            "compute_input": 1,
            "compute_infer": 1,
            "compute_output": 1,
            "cache_hit": 2,
            "cache_miss": 1,
        }
        assert stats["compute_infer"]["ns"] > 0
        assert (found["execution_count"], found["inference_count"]) == (1, 2)
        assert [(each["batch_size"], each["compute_infer"]["count"]) for each in found["batch_stats"]] == [(2, 1)]
        assert found["last_inference"] > 0


def counted(client: triton.InferenceServerClient, model: str, **counts: int) -> bool:
    (found,) = client.get_inference_statistics(model)["model_stats"]
    return all(found["inference_stats"][name]["count"] == count for name, count in counts.items())


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
        assert {each["name"] for each in await client.get_model_repository_index()} >= {"adds", "types"}
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


def test_a_timeout_in_microseconds(client: triton.InferenceServerClient) -> None:
    values = np.random.default_rng().standard_normal((1, 4)).astype(np.float32)
    answer = client.infer("adds", [tensor("input", values, "FP32")], timeout=60_000_000)
    np.testing.assert_allclose(answer.as_numpy("output"), values + 3 * STEP)
