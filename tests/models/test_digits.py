"""The bundled model classifies digits that it has not seen as well as the library that trained it."""

import copy
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from sklearn.pipeline import Pipeline

from models import train_digits

MODELS = Path(train_digits.__file__).parent
MODEL = MODELS / "digits.onnx"
RECORD = json.loads((MODELS / "digits.json").read_text(encoding="utf-8"))


def accuracy(path: Path) -> float:
    pixels, truth = train_digits.heldout()
    return float(np.mean(train_digits.answers(path, pixels)[0] == truth))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """Trained anew."""
    return train_digits.train()


def test_a_fresh_training_exports_the_librarys_answers_and_the_bundled_file_is_as_good(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pixels, truth = train_digits.heldout()
    fresh = tmp_path / "digits.onnx"
    train_digits.export(pipeline, fresh)

    labels, probabilities = train_digits.answers(fresh, pixels)
    np.testing.assert_array_equal(labels, pipeline.predict(pixels))
    np.testing.assert_allclose(probabilities, pipeline.predict_proba(pixels), atol=1e-5)
    # Another processor may train other last bits: a few digits of 450, no more.
    assert accuracy(MODEL) >= float(pipeline.score(pixels, truth)) - 0.01


def test_the_record_states_the_accuracy_that_the_file_has() -> None:
    _, truth = train_digits.heldout()
    assert RECORD["accuracy"]["samples"] == len(truth) == 450
    assert round(accuracy(MODEL), 4) == RECORD["accuracy"]["heldout"] >= 0.97


def test_the_record_is_what_the_script_writes() -> None:
    assert train_digits.record(RECORD["accuracy"]["heldout"]) == RECORD


def test_the_record_describes_the_file() -> None:
    session = ort.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    inputs = [(value.name, value.type, value.shape) for value in session.get_inputs()]
    outputs = [(value.name, value.type, value.shape) for value in session.get_outputs()]
    assert inputs == [("input", "tensor(float)", ["batch", 64])]
    assert outputs == [("label", "tensor(int64)", ["batch"]), ("probabilities", "tensor(float)", ["batch", 10])]
    assert RECORD["pad_with_zeros"] is True
    assert len(RECORD["classes"]) == 10
    assert RECORD["name"] == MODEL.stem
    assert MODEL.stat().st_size < 500_000


def test_training_and_heldout_digits_do_not_overlap() -> None:
    train_x, heldout_x, _, _ = train_digits.split()
    assert len(train_x) + len(heldout_x) == 1797
    assert not {row.tobytes() for row in train_x} & {row.tobytes() for row in heldout_x}


def test_a_digit_has_the_same_answer_alone_and_in_a_batch() -> None:
    pixels, _ = train_digits.heldout()
    _, together = train_digits.answers(MODEL, pixels[:32])
    for index in range(32):
        _, alone = train_digits.answers(MODEL, pixels[index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e6, -1e6, 3.4e38, -3.4e38])
def test_no_finite_input_gives_anything_but_probabilities(value: float) -> None:
    _, probabilities = train_digits.answers(MODEL, np.full((1, 64), value, dtype=np.float32))
    assert np.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-5)


def test_verify_refuses_an_export_that_differs_from_the_library(pipeline: Pipeline, tmp_path: Path) -> None:
    export = tmp_path / "digits.onnx"
    train_digits.export(pipeline, export)
    other = copy.deepcopy(pipeline)
    other[-1].intercepts_[-1] = other[-1].intercepts_[-1] + np.eye(10)[3] * 100
    with pytest.raises(SystemExit, match="labels differ"):
        train_digits.verify(other, export)
