"""Each model builder of the tests shows the trait that its docstring claims."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from tests.support import onnx_models


def load(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, **inputs: NDArray[np.generic]) -> list[NDArray[Any]]:
    return [np.asarray(output) for output in session.run(None, inputs)]


def floats(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32)


TRIES = 50
SAMPLES = np.random.default_rng(1).standard_normal((32, 4)).astype(np.float32)


def test_linear_is_its_weights(tmp_path: Path) -> None:
    weights, bias = onnx_models.linear_weights()
    (output,) = run(load(onnx_models.linear(tmp_path / "m.onnx")), input=SAMPLES)
    np.testing.assert_allclose(output, SAMPLES @ weights + bias, atol=1e-5)


def test_linear_takes_other_sizes_and_a_fixed_batch(tmp_path: Path) -> None:
    session = load(onnx_models.linear(tmp_path / "m.onnx", n_in=2, n_out=5, batch=7))
    assert session.get_inputs()[0].shape == [7, 2]
    assert session.get_outputs()[0].shape == [7, 5]
    assert run(session, input=np.ones((7, 2), dtype=np.float32))[0].shape == (7, 5)


def test_the_same_builder_gives_the_same_bytes(tmp_path: Path) -> None:
    first = onnx_models.mlp(tmp_path / "m.onnx", sizes=(64, 128, 10)).read_bytes()
    assert onnx_models.mlp(tmp_path / "m.onnx", sizes=(64, 128, 10)).read_bytes() == first


def test_fixed_batch_refuses_two_samples(tmp_path: Path) -> None:
    session = load(onnx_models.fixed_batch(tmp_path / "m.onnx"))
    assert session.get_inputs()[0].shape == [1, 4]
    assert run(session, input=SAMPLES[:1])[0].shape == (1, 3)
    with pytest.raises(InvalidArgument):
        run(session, input=SAMPLES[:2])


def test_classifier_answers_its_label_first(tmp_path: Path) -> None:
    session = load(onnx_models.classifier(tmp_path / "m.onnx"))
    assert [(out.name, out.type) for out in session.get_outputs()] == [
        ("label", "tensor(int64)"),
        ("probabilities", "tensor(float)"),
    ]
    label, probabilities = run(session, input=SAMPLES)
    np.testing.assert_array_equal(label, SAMPLES[:, :3].argmax(axis=1))
    weights = np.exp(SAMPLES[:, :3])
    np.testing.assert_allclose(probabilities, weights / weights.sum(axis=1, keepdims=True), atol=1e-5)


def test_gather_raises_for_one_bad_sample_among_many(tmp_path: Path) -> None:
    session = load(onnx_models.gather(tmp_path / "m.onnx"))
    rows = np.arange(10, dtype=np.float32).reshape(10, 1)
    np.testing.assert_array_equal(run(session, input=rows)[0], np.arange(30).reshape(10, 3))
    rows[4] = 10
    with pytest.raises(InvalidArgument, match="out of data bounds"):
        run(session, input=rows)


def test_integer_input_takes_int64_only(tmp_path: Path) -> None:
    session = load(onnx_models.integer_input(tmp_path / "m.onnx"))
    assert session.get_inputs()[0].type == "tensor(int64)"
    np.testing.assert_array_equal(run(session, input=np.array([[1, 2, 3, 4], [0, 0, 0, 9]]))[0], [[10], [9]])
    with pytest.raises(InvalidArgument):
        run(session, input=SAMPLES)


@pytest.mark.parametrize("sizes", [(512, 2048, 2048, 100), (64, 128, 10)])
def test_mlp_has_its_sizes_and_batches(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    session = load(onnx_models.mlp(tmp_path / "m.onnx", sizes=sizes))
    assert session.get_inputs()[0].shape == ["batch", sizes[0]]
    assert session.get_outputs()[0].shape == ["batch", sizes[-1]]
    samples = np.random.default_rng(2).random((8, sizes[0]), dtype=np.float32)
    (together,) = run(session, input=samples)
    assert np.isfinite(together).all()
    assert len({row.tobytes() for row in together}) == 8
    (alone,) = run(session, input=samples[3:4])
    np.testing.assert_allclose(alone[0], together[3], atol=1e-4)


def test_slow_takes_longer_with_more_work_not_with_the_batch_and_answers_like_linear_plus_a_constant(
    tmp_path: Path,
) -> None:
    quick = load(onnx_models.slow(tmp_path / "quick.onnx", work=100))
    long = load(onnx_models.slow(tmp_path / "long.onnx", work=10_000))

    def took_s(session: ort.InferenceSession, batch: int = 1) -> float:
        started = time.perf_counter()
        run(session, input=SAMPLES[:batch])
        return time.perf_counter() - started

    assert took_s(long) > 0.005
    # 100 and 1 times as long in a quiet moment. One of some moments is quiet for as long as two runs take.
    assert any(took_s(long) > 10 * took_s(quick) for _ in range(TRIES))
    assert any(took_s(long, batch=32) < 4 * took_s(long) for _ in range(TRIES))
    weights, bias = onnx_models.linear_weights()
    (together,) = run(long, input=SAMPLES)
    constant = together - (SAMPLES @ weights + bias)
    np.testing.assert_allclose(constant, np.broadcast_to(constant[0], constant.shape), atol=1e-5)
    np.testing.assert_allclose(run(long, input=SAMPLES[5:6])[0][0], together[5], atol=1e-5)


@pytest.mark.parametrize("length", [1, 3, 1000])
def test_dynamic_takes_any_length(tmp_path: Path, length: int) -> None:
    session = load(onnx_models.dynamic(tmp_path / "m.onnx"))
    assert session.get_inputs()[0].shape == ["batch", "n"]
    (output,) = run(session, input=np.ones((2, length), dtype=np.float32))
    np.testing.assert_array_equal(output, [[length], [length]])


def test_nan_gives_nan_and_infinity_for_finite_input(tmp_path: Path) -> None:
    (output,) = run(load(onnx_models.nan(tmp_path / "m.onnx")), input=floats([1.0, 0.0, -1.0, 1.0]))
    assert output[0, 0] == 0.0
    assert output[0, 1] == -np.inf
    assert np.isnan(output[0, 2])


def test_two_inputs_needs_both(tmp_path: Path) -> None:
    session = load(onnx_models.two_inputs(tmp_path / "m.onnx"))
    np.testing.assert_array_equal(run(session, a=SAMPLES, b=SAMPLES)[0], np.zeros_like(SAMPLES))
    with pytest.raises(ValueError, match="b"):
        run(session, a=SAMPLES)
