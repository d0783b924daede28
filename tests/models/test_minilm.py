"""The sentence model answers what its weights say, and like sentences lie near each other."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from inference_site.lib.record import Padding, Record
from tests.support import minilm
from tests.support.engines import answers, binary_ask, load
from tests.support.minilm import EPSILON, HEADS, LAYERS, WIDTH
from worker_app.engine import Engine, Run

Floats = NDArray[np.float32]
SENTENCES = [
    "A man is playing a guitar.",
    "Someone plays the guitar.",
    "The stock market fell sharply today, and nobody at the bank had an explanation for it.",
    "Shares lost value.",
    "Cats sleep.",
]
RECORD = Record(padding=Padding(dimension="sequence", buckets=(8, 16, 32), mask="attention_mask"))


@pytest.fixture(scope="module")
def engine(minilm_path: Path) -> Engine:
    return load(minilm_path, RECORD)


def reference(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """(sentence embeddings, last hidden state), in plain numpy."""
    w = minilm.weights()
    erf = np.vectorize(math.erf, otypes=[np.float64])

    def dense(x: Floats, name: str) -> Floats:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Floats, name: str) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
        return centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]

    words = w["embeddings.word_embeddings.weight"][ids]
    places = w["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm(words + places + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    size = WIDTH // HEADS
    for number in range(LAYERS):
        name = f"encoder.layer.{number}"
        q, k, v = (dense(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        seen = np.empty_like(x)
        for head in range(HEADS):
            own = slice(head * size, (head + 1) * size)
            scores = q[:, :, own] @ k[:, :, own].swapaxes(1, 2) / math.sqrt(size)
            scores = np.where(mask[:, None, :] == 1, scores, -np.inf)
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            seen[:, :, own] = shares / shares.sum(-1, keepdims=True) @ v[:, :, own]
        x = norm(x + dense(seen, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        inner = dense(x, f"{name}.intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = norm(x + dense(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True), x


def ask_of(ids: list[int], *, mask: bool = True) -> bytes:
    row = np.array([ids])
    inputs = {"input_ids": row, "token_type_ids": np.zeros_like(row)}
    return binary_ask(inputs | ({"attention_mask": np.ones_like(row)} if mask else {}))


def test_the_graph_is_what_the_weights_say(minilm_path: Path) -> None:
    plain = load(minilm_path, Record())
    ids = np.random.default_rng(4).integers(1000, 20000, (2, 9))
    mask = np.ones_like(ids)
    mask[1, 5:] = 0
    payload = binary_ask({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
    found = answers(plain.run([plain.read(payload)]).results[0])
    sentence, state = reference(ids, mask)
    np.testing.assert_allclose(found["sentence_embedding"], sentence, atol=1e-5)
    np.testing.assert_allclose(found["last_hidden_state"][mask == 1], state[mask == 1], atol=1e-4)


def test_mixed_lengths_in_buckets_answer_what_they_do_alone(engine: Engine, minilm_path: Path) -> None:
    plain = load(minilm_path, Record())
    payloads = [ask_of(minilm.tokens(each)) for each in SENTENCES]
    groups: dict[object, list[int]] = {}
    for place, payload in enumerate(payloads):
        groups.setdefault(engine.read(payload).group, []).append(place)
    assert len(groups) < len(SENTENCES)
    for places in groups.values():
        together: Run = engine.run([engine.read(payloads[place]) for place in places])
        for place, result in zip(places, together.results, strict=True):
            expected = answers(plain.run([plain.read(payloads[place])]).results[0])
            for name, array in answers(result).items():
                assert array.shape == expected[name].shape
                np.testing.assert_allclose(array, expected[name], atol=2e-5)


def test_like_sentences_lie_near_each_other_and_the_mask_may_be_left_out(engine: Engine) -> None:
    results = [engine.run([engine.read(ask_of(minilm.tokens(each), mask=False))]).results[0] for each in SENTENCES]
    vectors = np.concatenate([answers(each)["sentence_embedding"] for each in results])
    likeness = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(likeness), 1, atol=1e-5)
    assert likeness[0, 1] > 0.7 > 0.3 > likeness[0, 2]
    assert likeness[2, 3] > likeness[2, 0]
    assert likeness[4].argsort()[-1] == 4


def test_it_is_asked_for_by_name(engine: Engine) -> None:
    ids = minilm.tokens(SENTENCES[4])
    named = json.dumps({"input_ids": ids, "token_type_ids": [0] * len(ids)}).encode()
    result = engine.run([engine.read(named)]).results[0]
    assert isinstance(result, bytes)
    expected = answers(engine.run([engine.read(ask_of(ids))]).results[0])["sentence_embedding"]
    np.testing.assert_allclose(json.loads(result), expected[0], atol=1e-6)
