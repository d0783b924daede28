"""One run of one session: inputs put together, the run, the outputs taken apart, and the time that each part took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from worker_app.padding import Padder
from worker_app.results import encode_text, encode_v2
from worker_app.samples import Sample
from worker_app.signature import Signature

# What it logs when a run fails, its exception says as well; an input that a model can't take is a client's mistake.
_QUIET = ort.RunOptions()
_QUIET.log_severity_level = 4


class NotABatch(Exception):
    """Outputs that do not have a row for each row of the inputs."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served of a model: `output`, the place of the one that a plain /infer answers with, and its padding."""

    signature: Signature
    output: int
    padder: Padder | None

    def wanted(self, sample: Sample) -> tuple[int, ...]:
        """The outputs that a sample asks for, by their places in the model."""
        return (self.output,) if sample.view is None else tuple(index for index, _ in sample.view)

    def feed(self, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        """The inputs of samples of one group, filled up, as one batch."""
        inputs, padder = self.signature.inputs, self.padder
        bucket = samples[0].bucket
        if padder is not None and any(each.length != bucket for each in samples):
            rows = sum(each.rows for each in samples) if self.signature.batch_axis else None
            return {
                spec.name: padder.stack(index, [each.arrays[index] for each in samples], bucket, rows)
                for index, spec in enumerate(inputs)
            }
        if len(samples) == 1:
            return {spec.name: array for spec, array in zip(inputs, samples[0].arrays, strict=True)}
        return {
            spec.name: np.concatenate([each.arrays[index] for each in samples]) for index, spec in enumerate(inputs)
        }

    def encode(self, sample: Sample, outputs: dict[int, np.ndarray]) -> bytes:
        """The result of a sample from its own outputs."""
        padder = self.padder
        if padder is not None and sample.length != sample.bucket:
            outputs = {index: padder.cut(index, each, sample.length) for index, each in outputs.items()}
        if sample.view is None:
            return encode_text(outputs[self.output])
        return encode_v2(sample.view, outputs, self.signature.outputs)


class Batch:
    """The runs of one call in one session; `input_ns`, `infer_ns` and `output_ns` add up what they took."""

    def __init__(self, serving: Serving, session: ort.InferenceSession, options: ort.RunOptions | None = None) -> None:
        self._serving = serving
        self._session = session
        self._options = options or _QUIET
        self.input_ns = self.infer_ns = self.output_ns = 0

    def infer(self, samples: Sequence[Sample], *, must_batch: bool = False) -> dict[int, np.ndarray]:
        """All outputs that any of the samples wants, by their places in the model.

        Raises NotABatch if they do not have a row for each row and `must_batch`, and whatever ONNX Runtime does.
        """
        serving, specs = self._serving, self._serving.signature.outputs
        began = time.perf_counter_ns()
        feed = serving.feed(samples)
        wanted = list(dict.fromkeys(index for each in samples for index in serving.wanted(each)))
        ready = time.perf_counter_ns()
        self.input_ns += ready - began
        found = self._session.run([specs[index].name for index in wanted], feed, self._options)
        self.infer_ns += time.perf_counter_ns() - ready
        outputs = {index: np.asarray(each) for index, each in zip(wanted, found, strict=True)}
        rows = sum(each.rows for each in samples)
        for index, each in outputs.items():
            if must_batch and (each.ndim == 0 or each.shape[0] != rows):
                raise NotABatch(f"gave {specs[index].name!r} {each.shape} for a batch of {rows}")
        return outputs

    def encode_alone(self, sample: Sample, outputs: dict[int, np.ndarray]) -> bytes:
        """The result of a sample that ran alone."""
        began = time.perf_counter_ns()
        result = self._serving.encode(sample, outputs)
        self.output_ns += time.perf_counter_ns() - began
        return result

    def encode(self, samples: Sequence[Sample], outputs: dict[int, np.ndarray]) -> list[bytes]:
        """The result of each sample of a batch."""
        began = time.perf_counter_ns()
        serving = self._serving
        plain = serving.padder is None and len(outputs) == 1 and all(each.view is None for each in samples)
        if plain:  # the quick way for what is most often met: one row each
            found = outputs[serving.output]
            results = list(map(encode_text, found if found.ndim > 1 else found[:, None]))
        else:
            results, place = [], 0
            for sample in samples:
                rows = slice(place, place := place + sample.rows)
                results.append(serving.encode(sample, {index: each[rows] for index, each in outputs.items()}))
        self.output_ns += time.perf_counter_ns() - began
        return results
