"""The engine with the real ONNX Runtime: batches equal singles, a bad sample harms nobody."""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
import pytest
from numpy.typing import NDArray

from inference_site.lib.errors import ApiError
from tests.support import onnx_models, onnx_types
from tests.support.engines import answers, binary_ask, json_ask, load
from tests.support.waiting import PATIENCE_S
from worker_app.engine import CPU, Engine, EngineError, Result

Samples = NDArray[Any]
RNG = np.random.default_rng(3)


def asks(rows: Samples) -> list[bytes]:
    return [orjson.dumps(row.reshape(-1).tolist()) for row in rows]


def run(engine: Engine, payloads: Sequence[bytes]) -> list[Result]:
    return engine.run([engine.read(payload) for payload in payloads]).results


def values(result: Result) -> list[float | None]:
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
    payloads = asks(rows)
    together = run(engine, payloads)
    alone = [run(engine, [payload])[0] for payload in payloads]
    assert [len(values(result)) for result in together] == [len(values(result)) for result in alone]
    expected = direct(engine.path, rows, output)
    np.testing.assert_allclose(np.array(list(map(values, together)), "f8"), expected, atol=1e-5)
    np.testing.assert_allclose(np.array(list(map(values, alone)), "f8"), expected, atol=1e-5)


def test_a_batch_of_any_size_keeps_its_order(tmp_path: Path) -> None:
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    weights, bias = onnx_models.linear_weights()
    for count in (1, 2, 31, 33, 200):
        rows = RNG.standard_normal((count, 4)).astype("f4")
        found = np.array(list(map(values, run(engine, asks(rows)))), "f8")
        np.testing.assert_allclose(found, rows @ weights + bias, atol=1e-5)
    assert engine.run([]).results == []


@pytest.mark.parametrize("place", [0, 13, 31])
def test_one_bad_sample_among_32_is_the_only_one_refused(tmp_path: Path, place: int) -> None:
    engine = load(onnx_models.gather(tmp_path / "m.onnx"))
    rows = (np.arange(32) % 10).astype("f4").reshape(32, 1)
    expected = run(engine, asks(rows))
    rows[place] = 10
    results = run(engine, asks(rows))
    for index, result in enumerate(results):
        if index == place:
            assert isinstance(result, ApiError)
            assert (result.status, result.code) == (422, "model_refused_input")
            assert "indices element out of data bounds" in result.message
        else:
            assert result == expected[index]
    # The next batch runs together again.
    assert engine.batches
    assert run(engine, asks(rows[:place] if place else rows[1:])) == (expected[:place] if place else expected[1:])


def test_of_a_clients_mistake_onnx_runtime_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = load(onnx_models.gather(tmp_path / "m.onnx"))
    capfd.readouterr()
    (result,) = run(engine, asks(np.array([[10]], "f4")))
    assert isinstance(result, ApiError)
    assert "onnxruntime:" not in capfd.readouterr().err


def test_a_bad_sample_alone_is_refused_too(tmp_path: Path) -> None:
    engine = load(onnx_models.gather(tmp_path / "m.onnx"))
    (result,) = run(engine, [b"[-11]"])
    assert isinstance(result, ApiError)
    assert result.status == 422


class SickSession:
    """A session that fails on everything, as one on a broken GPU does."""

    def run(self, outputs: list[str], inputs: dict[str, Any], options: object = None) -> list[Any]:
        raise RuntimeError("CUDA error 700: illegal address")


@pytest.mark.parametrize("count", [1, 32])
def test_a_sick_engine_blames_itself_for_every_sample(tmp_path: Path, count: int) -> None:
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    engine._sessions = [SickSession()]
    results = run(engine, asks(FLOATS[:count]))
    assert len(results) == count
    for result in results:
        assert isinstance(result, EngineError)
        assert "CUDA error 700" in str(result)


class OddSession:
    """A session whose output loses the batch when there is more than one sample."""

    def __init__(self, real: ort.InferenceSession) -> None:
        self.real = real
        self.sizes: list[int] = []

    def run(self, outputs: list[str], inputs: dict[str, Any], options: object = None) -> list[Any]:
        self.sizes.append(len(next(iter(inputs.values()))))
        found: list[Any] = self.real.run(outputs, inputs)
        return [found[0].sum(axis=0, keepdims=True)]


def test_an_output_that_does_not_follow_the_batch_ends_batching(tmp_path: Path) -> None:
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    alone = [run(engine, [payload])[0] for payload in asks(FLOATS[:5])]
    session = OddSession(engine._sessions[0])
    engine._sessions = [session]
    assert run(engine, asks(FLOATS[:5])) == alone
    assert not engine.batches
    session.sizes.clear()
    assert run(engine, asks(FLOATS[:5])) == alone
    assert session.sizes == [1] * 5


def test_outputs_that_are_no_numbers_are_null(tmp_path: Path) -> None:
    engine = load(onnx_models.nan(tmp_path / "m.onnx"))
    for count in (1, 5):
        for result in run(engine, [b"[1,0,-1,1]"] * count):
            assert values(result) == [0.0, None, None, 0.0]


def test_a_label_alone_is_a_list_of_one(tmp_path: Path) -> None:
    path = onnx_models.classifier(tmp_path / "m.onnx")
    path.with_suffix(".json").write_text('{"output": "label"}')
    engine = load(path)
    payloads = asks(np.eye(4, dtype="f4")[:3])
    assert list(map(values, run(engine, payloads))) == [[0], [1], [2]]
    assert [values(run(engine, [payload])[0]) for payload in payloads] == [[0], [1], [2]]


def test_asks_of_all_forms_and_of_any_rows_share_a_batch(tmp_path: Path) -> None:
    engine = load(onnx_models.classifier(tmp_path / "m.onnx"))
    rows = RNG.standard_normal((7, 4)).astype("f4")
    expected = direct(engine.path, rows, "probabilities")
    payloads = [
        orjson.dumps(rows[0].tolist()),
        binary_ask({"input": rows[1:4]}),
        b'{"input":%b}' % orjson.dumps(rows[4].tolist()),
        json_ask({"input": rows[5:7]}, [{"name": "probabilities"}]),
    ]
    samples = [engine.read(payload) for payload in payloads]
    assert len({sample.group for sample in samples}) == 1
    assert [sample.rows for sample in samples] == [1, 3, 1, 2]
    sizes = count_runs(engine)
    first, several, named, last = engine.run(samples).results
    assert sizes == [7]
    np.testing.assert_allclose(np.array([values(first), values(named)], "f8"), expected[[0, 4]], atol=1e-6)
    found = answers(several)
    assert list(found) == ["label", "probabilities"]
    np.testing.assert_array_equal(found["label"], expected[1:4].argmax(axis=1))
    np.testing.assert_allclose(found["probabilities"], expected[1:4], atol=1e-6)
    np.testing.assert_allclose(answers(last)["probabilities"], expected[5:7], atol=1e-6)
    assert list(answers(last)) == ["probabilities"]


def count_runs(engine: Engine) -> list[int]:
    """Makes an engine note the rows of each of its runs."""
    sizes: list[int] = []

    class Noting:
        def __init__(self, real: ort.InferenceSession) -> None:
            self.real = real

        def run(self, outputs: list[str], inputs: dict[str, Any], options: object = None) -> Any:
            sizes.append(len(next(iter(inputs.values()))))
            return self.real.run(outputs, inputs)

    engine._sessions = [Noting(session) for session in engine._sessions]
    return sizes


def test_several_sessions_run_at_the_same_time(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    path.with_suffix(".json").write_text('{"sessions": 3}')
    engine = load(path)
    assert engine.sessions == 3
    all_there = threading.Barrier(3)

    class Meeting:
        """Runs once the other sessions run too."""

        def __init__(self, real: ort.InferenceSession) -> None:
            self.real = real

        def run(self, outputs: list[str], inputs: dict[str, Any], options: object = None) -> Any:
            all_there.wait(PATIENCE_S)
            return self.real.run(outputs, inputs)

    engine._sessions = [Meeting(session) for session in engine._sessions]
    sample = engine.read(b"[1,2,3,4]")
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda number: engine.run([sample, sample], number).results, range(3)))
    assert found[0] == found[1] == found[2]
    assert all(isinstance(result, bytes) for result in found[0])


def test_the_record_may_forbid_batches(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    expected = run(load(path), asks(FLOATS[:3]))
    path.with_suffix(".json").write_text('{"batches": false}')
    engine = load(path)
    assert not engine.batches
    sizes = count_runs(engine)
    assert run(engine, asks(FLOATS[:3])) == expected
    assert sizes == [1, 1, 1]
    # What a client sends as a batch is one, as it wants it.
    (result,) = run(engine, [binary_ask({"input": FLOATS[:3]})])
    assert answers(result)["output"].shape == (3, 3)


def test_a_model_that_fails_on_two_rows_runs_one_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = load(onnx_types.only_one_row(tmp_path / "m.onnx"))
    assert not engine.batches
    assert "can't run 4 at once, so it runs one by one" in caplog.text
    assert list(map(values, run(engine, [b"[1,2,3,4]", b"[5,6,7,8]"]))) == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_the_three_parts_of_the_work_are_timed(tmp_path: Path) -> None:
    engine = load(onnx_models.linear(tmp_path / "m.onnx"))
    found = engine.run([engine.read(b"[1,2,3,4]")] * 8)
    assert min(found.input_ns, found.infer_ns, found.output_ns) > 0
    assert engine.typical_s > 0
