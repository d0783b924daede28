"""What the server says of itself and of its models."""

import pytest
from tritonclient.utils import InferenceServerException


def test_server(client):
    assert client.is_server_live() and client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name and metadata.version
    assert set(metadata.extensions) == {
        "binary_tensor_data",
        "statistics",
        "model_configuration",
        "model_repository",
    }


def test_model_ready(client):
    assert client.is_model_ready("echo") and client.is_model_ready("echo", "1")
    assert not client.is_model_ready("echo", "9")
    assert not client.is_model_ready("nope")
    assert not client.is_model_ready("soon")
    assert not client.is_model_ready("half")


def test_metadata(client):
    metadata = client.get_model_metadata("echo", as_json=True)
    assert metadata == {
        "name": "echo",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": ["-1", "4"]},
            {"name": "s", "datatype": "BYTES", "shape": ["-1", "-1"]},
        ],
        "outputs": [{"name": "out_x", "datatype": "FP32", "shape": ["-1", "4"]}],
    }


def test_configuration(client):
    config = client.get_model_config("echo").config
    assert (config.name, config.platform, config.backend) == ("echo", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 32
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [("x", 11, [4]), ("s", 13, [-1])]
    assert [(each.name, each.data_type, list(each.dims)) for each in config.output] == [("out_x", 11, [4])]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2500
    assert config.response_cache.enable and not config.model_transaction_policy.decoupled
    assert list(config.version_policy.specific.versions) == [2]


def test_configuration_of_a_model_that_does_not_batch(client):
    config = client.get_model_config("echo", "1").config
    assert config.max_batch_size == 0 and list(config.input[0].dims) == [-1, 4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0 and not config.response_cache.enable


def test_statistics(client):
    (stats,) = client.get_inference_statistics("echo", "2").model_stats
    assert (stats.name, stats.version, stats.last_inference) == ("echo", "2", 1234)
    assert (stats.inference_count, stats.execution_count) == (12, 2)
    durations = {field.name: (value.count, value.ns) for field, value in stats.inference_stats.ListFields()}
    assert durations == {
        "success": (5, 500),
        "fail": (1, 10),
        "queue": (5, 60),
        "compute_input": (3, 70),
        "compute_infer": (3, 80),
        "compute_output": (3, 90),
        "cache_hit": (2, 20),
        "cache_miss": (3, 30),
    }
    batches = [(each.batch_size, each.compute_infer.count, each.compute_infer.ns) for each in stats.batch_stats]
    assert batches == [(4, 1, 30), (8, 1, 50)]


def test_statistics_of_all_versions_and_of_all_models(client):
    versions = [each.version for each in client.get_inference_statistics("echo").model_stats]
    assert versions == ["1", "2"]
    every = {each.name for each in client.get_inference_statistics().model_stats}
    assert every == {"echo", "bug", "later", "never", "refuse"}


@pytest.mark.parametrize("method", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
def test_an_unknown_model_is_not_found(client, method):
    with pytest.raises(InferenceServerException) as caught:
        getattr(client, method)("nope")
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_index(client):
    index = client.get_model_repository_index(as_json=True)["models"]
    assert {"name": "echo", "version": "1", "state": "READY"} in index
    assert {"name": "soon", "version": "1", "state": "LOADING"} in index
    assert {"name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "the file is no model"} in index
