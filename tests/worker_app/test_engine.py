"""The engine with the real ONNX Runtime: batches equal singles, a bad sample harms nobody, a bad model is named."""

import ctypes
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from inference_site.lib.errors import ApiError
from tests.support import onnx_models
from worker_app.engine import CPU, Engine, EngineError, ModelError

Samples = NDArray[Any]
RNG = np.random.default_rng(3)


def load(path: Path) -> Engine:
    return Engine(path, warm_up_batch=4)


def sample_bytes(rows: Samples) -> list[bytes]:
    return [row.tobytes() for row in rows]


def values(result: bytes | ApiError | EngineError) -> list[float | None]:
    assert isinstance(result, bytes), result
    found: list[float | None] = json.loads(result)
    return found


def direct(path: Path, rows: Samples, output: str = "output") -> Samples:
    """What ONNX Runtime itself answers, one row at a time."""
    session = ort.InferenceSession(path, providers=[CPU])
    name = session.get_inputs()[0].name
    return np.concatenate([np.atleast_2d(session.run([output], {name: row[None]})[0]) for row in rows])


def small_slow(path: Path) -> Path:
    return onnx_models.slow(path, work=5)


def small_mlp(path: Path) -> Path:
    return onnx_models.mlp(path, (64, 128, 10))


FLOATS = RNG.standard_normal((32, 4)).astype("f4")


@pytest.mark.parametrize(
    ("build", "rows", "output"),
    [
        (onnx_models.linear, FLOATS, "output"),
        (onnx_models.fixed_batch, FLOATS, "output"),
        (onnx_models.classifier, FLOATS, "probabilities"),
        (onnx_models.gather, RNG.integers(-10, 10, (32, 1)).astype("f4"), "output"),
        (onnx_models.integer_input, RNG.integers(-1000, 1000, (32, 4)), "output"),
        (small_mlp, RNG.standard_normal((32, 64)).astype("f4"), "output"),
        (small_slow, FLOATS, "output"),
        (onnx_models.dynamic, RNG.standard_normal((32, 7)).astype("f4"), "output"),
        (onnx_models.nan, np.abs(FLOATS) + 0.1, "output"),
    ],
)
def test_a_batch_answers_what_each_sample_alone_does(
    tmp_path: Path, build: Callable[[Path], Path], rows: Samples, output: str
) -> None:
    engine = load(build(tmp_path / "m.onnx"))
    samples = sample_bytes(rows)
    together = engine.run(samples)
    alone = [engine.run([sample])[0] for sample in samples]
    assert [len(values(result)) for result in together] == [len(values(result)) for result in alone]
    expected = direct(engine.path, rows, output)
    np.testing.assert_allclose(np.array(list(map(values, together)), "f8"), expected, atol=1e-5)
    np.testing.assert_allclose(np.array(list(map(values, alone)), "f8"), expected, atol=1e-5)


def test_a_batch_of_any_size_keeps_its_order(tmp_path: Path) -> None:
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    weights, bias = onnx_models.linear_weights()
    for count in (1, 2, 31, 33, 200):
        rows = RNG.standard_normal((count, 4)).astype("f4")
        found = np.array(list(map(values, engine.run(sample_bytes(rows)))), "f8")
        np.testing.assert_allclose(found, rows @ weights + bias, atol=1e-5)
    assert engine.run([]) == []


def test_a_fixed_batch_runs_one_by_one(tmp_path: Path) -> None:
    engine = load(onnx_models.fixed_batch(tmp_path / "m.onnx"))
    assert not engine.batches
    assert engine.input.values == 4
    assert engine.describe()["input_shape"] == [1, 4]
    assert load(onnx_models.linear(tmp_path / "n.onnx")).describe()["input_shape"] == ["batch", 4]


def test_a_classifier_answers_its_probabilities(tmp_path: Path) -> None:
    engine = load(onnx_models.classifier(tmp_path / "m.onnx"))
    assert engine.output.name == "probabilities"
    (result,) = engine.run([np.array([5, 0, 0, 0], "f4").tobytes()])
    assert sum(value or 0 for value in values(result)) == pytest.approx(1, abs=1e-5)
    assert len(values(result)) == 3


def test_the_record_may_choose_another_output(tmp_path: Path) -> None:
    path = onnx_models.classifier(tmp_path / "m.onnx")
    path.with_suffix(".json").write_text('{"name": "chosen", "output": "label", "note": "for people"}')
    engine = load(path)
    assert engine.record.name == "chosen"
    assert [values(result) for result in engine.run(sample_bytes(np.eye(4, dtype="f4")[:3]))] == [[0], [1], [2]]


def test_a_record_that_names_no_output_of_the_model_is_refused(tmp_path: Path) -> None:
    path = onnx_models.classifier(tmp_path / "m.onnx")
    path.with_suffix(".json").write_text('{"output": "logits"}')
    with pytest.raises(ModelError, match=r"'logits'.*\['label', 'probabilities'\]"):
        load(path)


@pytest.mark.parametrize("content", ["{", "[]", '{"pad_with_zeros": "yes"}', '{"output": 5}'])
def test_a_record_that_cannot_be_read_names_its_file(tmp_path: Path, content: str) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    path.with_suffix(".json").write_text(content)
    with pytest.raises((ModelError, ValueError), match=r"m\.json"):
        load(path)


def test_the_record_says_whether_short_inputs_are_padded(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    assert not load(path).input.pad_with_zeros
    path.with_name("m.onnx.json").write_text('{"pad_with_zeros": true}')
    engine = load(path)
    assert engine.record.name == "m"
    assert engine.input.sample(b"[1]") == np.array([1, 0, 0, 0], "f4").tobytes()


def test_samples_of_different_lengths_share_a_batch(tmp_path: Path) -> None:
    engine = load(onnx_models.dynamic(tmp_path / "m.onnx"))
    rows = [RNG.standard_normal(RNG.integers(1, 9)).astype("f4") for _ in range(40)]
    results = engine.run([row.tobytes() for row in rows])
    for row, result in zip(rows, results, strict=True):
        assert values(result) == pytest.approx([float(row.sum())], abs=1e-5)


def test_an_integer_input_takes_whole_numbers(tmp_path: Path) -> None:
    engine = load(onnx_models.integer_input(tmp_path / "m.onnx"))
    (result,) = engine.run([engine.input.sample(b"[1,2.0,-3,40]")])
    assert values(result) == [40.0]
    with pytest.raises(ApiError):
        engine.input.sample(b"[1,2.5,3,4]")


def test_outputs_that_are_no_numbers_are_null(tmp_path: Path) -> None:
    engine = load(onnx_models.nan(tmp_path / "m.onnx"))
    for results in (engine.run([np.array([1, 0, -1, 1], "f4").tobytes()] * count) for count in (1, 5)):
        for result in results:
            assert values(result) == [0.0, None, None, 0.0]


def test_two_inputs_are_refused_with_their_names(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.onnx has 2 inputs \('a', 'b'\)"):
        load(onnx_models.two_inputs(tmp_path / "m.onnx"))


def test_a_text_input_is_refused_with_its_name(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [helper.make_node("Identity", ["words"], ["output"])],
        "text",
        [helper.make_tensor_value_info("words", TensorProto.STRING, ["batch", 1])],
        [helper.make_tensor_value_info("output", TensorProto.STRING, ["batch", 1])],
    )
    path = tmp_path / "m.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ModelError, match=r"'words' is tensor\(string\)"):
        load(path)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model at .*gone\.onnx; set MODEL_PATH"):
        load(tmp_path / "gone.onnx")
    with pytest.raises(ModelError, match="no model at"):
        load(tmp_path)  # a directory


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0" * 1000])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        load(path)


def test_a_model_cut_short_is_named(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "cut.onnx")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        load(path)


def test_without_a_driver_it_says_why_and_runs_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_driver(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    with caplog.at_level(logging.INFO):
        engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    assert engine.provider == CPU
    assert "libcuda.so.1: cannot open" in engine.fallback_reason
    assert sum("CUDA failed to load: no NVIDIA driver" in line for line in caplog.messages) == 1
    assert caplog.messages.count("Falling back to CPU Provider...") == 1


def test_a_build_without_cuda_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    assert (engine.provider, engine.fallback_reason) == (CPU, "this build of ONNX Runtime has no CUDA provider")


def test_cuda_that_fails_at_creation_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ort.InferenceSession

    def session(path: Path, options: ort.SessionOptions, providers: list[str], **more: Any) -> ort.InferenceSession:
        assert more == {"enable_fallback": 0}  # else a failure while serving would move to the CPU unsaid
        if "CUDAExecutionProvider" in providers:
            raise RuntimeError("CUDA error 35: driver too old")
        return real(path, options, providers=providers, **more)

    monkeypatch.setattr("worker_app.engine._why_no_cuda", lambda: "")
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", session)
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    assert engine.provider == CPU
    assert "driver too old" in engine.fallback_reason


@pytest.mark.parametrize("place", [0, 13, 31])
def test_one_bad_sample_among_32_is_the_only_one_refused(tmp_path: Path, place: int) -> None:
    engine = load(onnx_models.gather(tmp_path / "m.onnx"))
    rows = (np.arange(32) % 10).astype("f4").reshape(32, 1)
    expected = engine.run(sample_bytes(rows))
    rows[place] = 10
    results = engine.run(sample_bytes(rows))
    for index, result in enumerate(results):
        if index == place:
            assert isinstance(result, ApiError)
            assert (result.status, result.code) == (422, "model_refused_input")
            assert "indices element out of data bounds" in result.message
        else:
            assert result == expected[index]
    # The next batch runs together again.
    assert engine.batches
    assert engine.run(sample_bytes(rows[:place] if place else rows[1:])) == (
        expected[:place] if place else expected[1:]
    )


def test_a_bad_sample_alone_is_refused_too(tmp_path: Path) -> None:
    engine = load(onnx_models.gather(tmp_path / "m.onnx"))
    (result,) = engine.run([np.array([-11], "f4").tobytes()])
    assert isinstance(result, ApiError)
    assert result.status == 422


class SickSession:
    """A session that fails on everything, as one on a broken GPU does."""

    def run(self, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
        raise RuntimeError("CUDA error 700: illegal address")


@pytest.mark.parametrize("count", [1, 32])
def test_a_sick_engine_blames_itself_for_every_sample(tmp_path: Path, count: int) -> None:
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    engine._session = SickSession()
    results = engine.run(sample_bytes(FLOATS[:count]))
    assert len(results) == count
    for result in results:
        assert isinstance(result, EngineError)
        assert "CUDA error 700" in str(result)


class OddSession:
    """A session whose output loses the batch when there is more than one sample."""

    def __init__(self, real: ort.InferenceSession) -> None:
        self.real = real
        self.sizes: list[int] = []

    def run(self, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
        self.sizes.append(len(next(iter(inputs.values()))))
        found: list[Any] = self.real.run(outputs, inputs)
        return [found[0].sum(axis=0, keepdims=True)]


def test_an_output_that_does_not_follow_the_batch_ends_batching(tmp_path: Path) -> None:
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    alone = [engine.run([sample])[0] for sample in sample_bytes(FLOATS[:5])]
    session = OddSession(engine._session)
    engine._session = session
    assert engine.run(sample_bytes(FLOATS[:5])) == alone
    assert not engine.batches
    session.sizes.clear()
    assert engine.run(sample_bytes(FLOATS[:5])) == alone
    assert session.sizes == [1] * 5
    assert engine.input.values == 4


def test_the_digest_tells_models_apart(tmp_path: Path) -> None:
    one = load(onnx_models.linear(tmp_path / "a.onnx"))
    other = load(onnx_models.linear(tmp_path / "b.onnx", n_out=2))
    assert one.digest != other.digest
    assert len(one.digest) == 64


def test_the_digest_tells_records_apart_for_they_change_the_answers(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "a.onnx")
    plain = load(path)
    path.with_suffix(".json").write_text('{"pad_with_zeros": true}')
    assert load(path).digest != plain.digest
