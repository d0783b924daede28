"""FP16 and INT8 models are served as they are, and so is a residual network of 50 layers."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test.data.light as light
import pytest
from onnx import numpy_helper

from inference_site.lib.record import Record
from tests.support import onnx_models, onnx_types
from tests.support.engines import answers, ask, binary_ask, load
from worker_app.engine import Engine

WEIGHTS, BIAS = onnx_models.linear_weights()
ROWS = (np.random.default_rng(9).integers(-64, 64, (6, 4)) / 16).astype("f4")  # that INT8 holds exactly
LIGHT = Path(next(iter(light.__path__)))


def test_a_model_in_half_precision(tmp_path: Path) -> None:
    engine = load(onnx_types.half(tmp_path / "m.onnx"))
    assert (engine.inputs[0].datatype, engine.outputs[0].datatype) == ("FP16", "FP16")
    expected = (ROWS @ WEIGHTS + BIAS).astype("f2")
    result = answers(ask(engine, binary_ask({"input": ROWS.astype("f2")})))["output"]
    assert result.dtype == np.float16
    np.testing.assert_allclose(result, expected, rtol=5e-3, atol=5e-3)
    listed = json.loads(ask(engine, json.dumps(ROWS[0].tolist()).encode()))  # type: ignore[arg-type]
    assert np.array_equal(np.array(listed, "f2"), result[0])
    together = engine.run([engine.read(binary_ask({"input": row[None].astype("f2")})) for row in ROWS]).results
    np.testing.assert_allclose([answers(each)["output"][0] for each in together], expected, rtol=5e-3, atol=5e-3)


def test_a_quantized_model(tmp_path: Path) -> None:
    engine = load(onnx_types.quantized(tmp_path / "m.onnx"))
    assert engine.batches
    expected = ROWS @ (np.round(WEIGHTS * 127) / 127) + BIAS
    together = engine.run([engine.read(json.dumps(row.tolist()).encode()) for row in ROWS]).results
    found = [json.loads(each) for each in together if isinstance(each, bytes)]
    np.testing.assert_allclose(found, expected, atol=2e-2)
    alone = [json.loads(ask(engine, json.dumps(row.tolist()).encode())) for row in ROWS]  # type: ignore[arg-type]
    np.testing.assert_allclose(found, alone, atol=1e-5)


@pytest.fixture(scope="module")
def resnet() -> Engine:
    return load(LIGHT / "light_resnet50.onnx", Record())


def test_a_residual_network_gives_the_output_of_its_own_test_data(resnet: Engine) -> None:
    (taken,) = resnet.inputs
    assert (taken.shape, resnet.batches) == ((1, 3, 224, 224), False)
    count = int(np.prod(taken.shape))
    image = (np.arange(count).reshape(taken.shape) / count).astype("f4")  # as the onnx package makes it
    expected = numpy_helper.to_array(onnx.load_tensor(LIGHT / "light_resnet50_output_0.pb"))
    found = answers(ask(resnet, binary_ask({taken.name: image})))[resnet.output]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    listed = json.loads(ask(resnet, json.dumps(image.reshape(-1).tolist()).encode()))  # type: ignore[arg-type]
    np.testing.assert_allclose(listed, expected.reshape(-1), rtol=1e-3, atol=1e-6)
    nested = json.dumps({taken.name: image[0].tolist()}).encode()
    assert json.loads(ask(resnet, nested)) == listed  # type: ignore[arg-type]


def test_several_images_run_one_by_one(resnet: Engine) -> None:
    rng = np.random.default_rng(3)
    images = [rng.random((1, 3, 224, 224), "f4") for _ in range(2)]
    asks = [binary_ask({resnet.inputs[0].name: each}) for each in images]
    together = resnet.run([resnet.read(each) for each in asks]).results
    assert together == [ask(resnet, each) for each in asks]
