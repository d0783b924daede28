"""Real models through a gateway and two workers, asked by an unmodified client: what comes back is what ONNX Runtime
gives for each input alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.data.light as light
import onnxruntime as ort
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.support import minilm, onnx_types
from tests.support.cluster import Cluster
from tests.support.repository import publish
from tests.support.waiting import PATIENCE_S

LIGHT = Path(next(iter(light.__path__)))
NAMES = {np.dtype("f2"): "FP16", np.dtype("f4"): "FP32", np.dtype("i8"): "INT64"}
TEXTS = [
    "A man is playing a guitar.",
    "Cats sleep.",
    "Shares lost value.",
    "The stock market fell sharply today, and nobody at the bank had an explanation for it.",
]
BUCKETS = {"dimension": "sequence", "buckets": [8, 16, 32], "mask": "attention_mask"}
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, minilm_path: Path) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("served")
    models = directory / "models"
    publish(models, "sentences", 1, lambda path: _copy(minilm_path, path), {"padding": BUCKETS})
    publish(models, "resnet", 1, lambda path: _copy(LIGHT / "light_resnet50.onnx", path), {"sessions": 2})
    publish(models, "half", 1, onnx_types.half)
    publish(models, "quantized", 1, onnx_types.quantized, {"sessions": 2})
    with Cluster(directory / "cluster", workers=2, arguments=("--repository", str(models)), calm=True) as running:
        yield running


@pytest.fixture
def client(served: Cluster) -> Iterator[triton.InferenceServerClient]:
    patient = {"connection_timeout": PATIENCE_S, "network_timeout": PATIENCE_S}
    with triton.InferenceServerClient(served.gateway_url.removeprefix("http://"), concurrency=8, **patient) as made:
        yield made


def _copy(source: Path, path: Path) -> Path:
    return Path(shutil.copy(source, path))


def _inputs(arrays: Arrays) -> list[triton.InferInput]:
    made = []
    for name, array in arrays.items():
        made.append(triton.InferInput(name, list(array.shape), NAMES[array.dtype]))
        made[-1].set_data_from_numpy(array)
    return made


def _ask(client: triton.InferenceServerClient, model: str, samples: list[Arrays], output: str) -> list[NDArray[Any]]:
    """The output of each sample; all are asked for at once."""
    asked = [client.async_infer(model, _inputs(sample)) for sample in samples]
    answers = [each.get_result().as_numpy(output) for each in asked]
    return [np.asarray(each) for each in answers]


def _alone(path: Path, samples: list[Arrays], output: str) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [np.asarray(session.run([output], sample)[0]) for sample in samples]


def test_sentences_of_all_lengths_share_buckets(client: triton.InferenceServerClient, minilm_path: Path) -> None:
    samples: list[Arrays] = []
    for text in TEXTS * 6:
        ids = np.array([minilm.tokens(f"{text} {len(samples)}")], np.int64)  # each another one, so that none is cached
        zeros = np.zeros_like(ids)
        samples.append({"input_ids": ids, "attention_mask": zeros + 1, "token_type_ids": zeros})
    found = _ask(client, "sentences", samples, "sentence_embedding")
    expected = _alone(minilm_path, samples, "sentence_embedding")
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=5e-5)


def test_a_residual_network_in_two_sessions(client: triton.InferenceServerClient) -> None:
    path = LIGHT / "light_resnet50.onnx"
    (taken,) = client.get_model_metadata("resnet")["inputs"]
    (given,) = client.get_model_metadata("resnet")["outputs"]
    count = int(np.prod(taken["shape"]))
    image = (np.arange(count).reshape(taken["shape"]) / count).astype("f4")  # as the onnx package makes it
    samples = [{taken["name"]: image * np.float32(share)} for share in (1, 0.9, 0.8, 0.7)]
    found = _ask(client, "resnet", samples, given["name"])
    known = numpy_helper.to_array(onnx.load_tensor(LIGHT / "light_resnet50_output_0.pb"))
    np.testing.assert_allclose(found[0], known, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found, _alone(path, samples, given["name"]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "make", "dtype"), [("half", onnx_types.half, "f2"), ("quantized", onnx_types.quantized, "f4")]
)
def test_fp16_and_int8(client: triton.InferenceServerClient, tmp_path: Path, model: str, make: Any, dtype: str) -> None:
    rows = (np.random.default_rng(9).integers(-64, 64, (24, 1, 4)) / 16).astype(dtype)  # that INT8 holds exactly
    samples = [{"input": row} for row in rows]
    found = _ask(client, model, samples, "output")
    assert {each.dtype for each in found} == {np.dtype(dtype)}
    expected = _alone(make(tmp_path / "m.onnx"), samples, "output")
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=5e-3, atol=5e-3)
