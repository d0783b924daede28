"""Train the bundled digits classifier, export it to ONNX and check the export against the library.

    python models/train_digits.py            writes digits.onnx and digits.json beside this file
    python models/train_digits.py --out DIR  writes them elsewhere

The data come with scikit-learn (1,797 handwritten digits, 8 x 8 pixels), so nothing is downloaded.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

SEED = 0
HELDOUT_SHARE = 0.25
PIXELS = 64
PIXEL_MAX = 16.0
HIDDEN = 128  # chosen by cross-validation on the training set alone
MIN_ACCURACY = 0.97
PROBABILITY_TOLERANCE = 1e-5
OPSET = 17

Pixels = NDArray[np.float32]
Labels = NDArray[np.int64]


def split() -> tuple[Pixels, Pixels, Labels, Labels]:
    """Training pixels, held-out pixels, training labels, held-out labels: the same at every call."""
    digits = load_digits()
    train_x, heldout_x, train_y, heldout_y = train_test_split(
        digits.data.astype(np.float32),
        digits.target.astype(np.int64),
        test_size=HELDOUT_SHARE,
        random_state=SEED,
        stratify=digits.target,
    )
    return train_x, heldout_x, train_y, heldout_y


def heldout() -> tuple[Pixels, Labels]:
    """Pixels [450, 64] in 0..16 and labels [450] of the digits that the model was not trained on."""
    _, pixels, _, labels = split()
    return pixels, labels


def train() -> Pipeline:
    """The fitted pipeline: pixels clipped and scaled to 0..1, then a network with one hidden layer."""
    pixels, _, labels, _ = split()
    # The limits are those of a pixel, not those seen in training. Clipping to them means that no finite input,
    # however large, overflows to NaN.
    limits = np.array([[0.0] * PIXELS, [PIXEL_MAX] * PIXELS], dtype=np.float32)
    scaler = MinMaxScaler(clip=True).fit(limits)
    network = MLPClassifier(hidden_layer_sizes=(HIDDEN,), max_iter=1000, random_state=SEED)
    # One thread: the order of additions, and with it the weights, must not depend on the number of cores.
    with threadpool_limits(limits=1):
        network.fit(scaler.transform(pixels), labels)
    return Pipeline([("scale", scaler), ("classify", network)])


def export(pipeline: Pipeline, path: Path) -> None:
    """Write `input` float32 [batch, 64] -> `label` int64 [batch], `probabilities` float32 [batch, 10]."""
    model = convert_sklearn(
        pipeline,
        name="digits",
        initial_types=[("input", FloatTensorType([None, PIXELS]))],
        options={id(pipeline): {"zipmap": False}},
        target_opset=OPSET,
    )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def answers(path: Path, pixels: Pixels) -> tuple[Labels, Pixels]:
    """What onnxruntime answers on the CPU for one batch: labels [n] and probabilities [n, 10]."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    labels, probabilities = session.run(["label", "probabilities"], {"input": pixels})
    return np.asarray(labels), np.asarray(probabilities)


def verify(pipeline: Pipeline, path: Path) -> float:
    """Accuracy of the exported file on the held-out digits; SystemExit where it differs from the library or is low."""
    pixels, truth = heldout()
    labels, probabilities = answers(path, pixels)
    differing = int(np.count_nonzero(labels != pipeline.predict(pixels)))
    if differing:
        raise SystemExit(
            f"{path}: {differing} of {len(truth)} labels differ from scikit-learn's; do not ship this file"
        )
    gap = float(np.abs(probabilities - pipeline.predict_proba(pixels)).max())
    if not gap <= PROBABILITY_TOLERANCE:
        raise SystemExit(f"{path}: probabilities are up to {gap:.1e} off, more than {PROBABILITY_TOLERANCE:.0e}")
    accuracy = float(np.mean(labels == truth))
    if accuracy < MIN_ACCURACY:
        raise SystemExit(f"{path}: accuracy {accuracy:.4f} is below {MIN_ACCURACY}; change HIDDEN or the training")
    return accuracy


def record(accuracy: float) -> dict[str, Any]:
    """The model's record: how it is served, and facts about it."""
    train_x, heldout_x, _, _ = split()
    return {
        "name": "digits",
        "description": "Handwritten digit, 8 x 8 pixels of 0 to 16 in row order, to the probabilities of 0 to 9",
        "pad_with_zeros": True,
        "accuracy": {"heldout": round(accuracy, 4), "samples": len(heldout_x), "trained_on": len(train_x)},
        "classes": [str(digit) for digit in range(10)],
        "source": "scikit-learn's digits (UCI Optical Recognition of Handwritten Digits), by models/train_digits.py",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, export and verify the bundled digits model.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: models/)")
    out: Path = parser.parse_args().out
    pipeline = train()
    # Verified under another name, so that a bad training never replaces a good model.
    candidate = out / "digits.onnx.new"
    try:
        export(pipeline, candidate)
        accuracy = verify(pipeline, candidate)
        candidate.replace(out / "digits.onnx")
    finally:
        candidate.unlink(missing_ok=True)
    (out / "digits.json").write_text(json.dumps(record(accuracy), indent=2) + "\n", encoding="utf-8")
    size = (out / "digits.onnx").stat().st_size
    print(f"accuracy on {len(heldout()[1])} held-out digits: {accuracy:.4f} (onnxruntime and scikit-learn agree)")
    print(f"wrote {out / 'digits.onnx'} ({size} bytes) and {out / 'digits.json'}")


if __name__ == "__main__":
    main()
