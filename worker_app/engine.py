"""One loaded version of a model: reads asks, runs batches of samples in ONNX Runtime, writes their results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime as ort

from inference_site.lib.catalog import TensorInfo
from inference_site.lib.datatypes import BYTES
from inference_site.lib.errors import ApiError
from inference_site.lib.record import Record
from worker_app.batch import Batch, NotABatch, Serving
from worker_app.padding import Padder
from worker_app.providers import CPU, CUDA, ModelError, create_sessions
from worker_app.reader import Reader
from worker_app.record import digest_of
from worker_app.samples import Sample
from worker_app.signature import Signature, SignatureError
from worker_app.warmup import WarmUp

__all__ = ["CPU", "CUDA", "Engine", "EngineError", "ModelError", "Result", "Run"]

logger = logging.getLogger(__name__)

_WARM_UP_BYTES = 2**28  # of the inputs and outputs of one batch


class EngineError(Exception):
    """The engine failed on input that is not to blame: the worker is sick."""


Result = bytes | ApiError | EngineError


class Run(NamedTuple):
    """What became of a batch, in the order of its samples, and the nanoseconds that each part of the work took."""

    results: list[Result]
    input_ns: int
    infer_ns: int
    output_ns: int


class Engine:
    """One version of one model, in one session or several; each of them runs in any one thread at a time.

    Samples of one group run as one batch if every input and output of the model has a symbolic first dimension and the
    record does not forbid it, else one by one; so does a batch that fails, so that one bad sample never fails its
    neighbours.
    """

    def __init__(
        self,
        path: Path,
        record: Record,
        *,
        name: str,
        version: str,
        threads: int = 1,
        device: int = 0,
        warm_up_rows: int = 32,
    ) -> None:
        """Loads, chooses the output, warms up; that takes seconds, and lets other threads work. Raises ModelError.

        `threads` are those of one session; `device` is the number of the GPU; `warm_up_rows` the size of the batch that
        tells what a batch costs.
        """
        self.path, self.record, self.name, self.version = path, record, name, version
        if not path.is_file():
            raise ModelError(f"there is no model at {path}; set MODEL_PATH or name an .onnx file")
        self._device = device
        self._sessions, self.fallback_reason = create_sessions(
            path, record.sessions or 1, threads=threads, device=device
        )
        self.provider: str = self._sessions[0].get_providers()[0]
        try:
            self.digest = digest_of(path, record)
            signature = Signature.of(self._sessions[0].get_inputs(), self._sessions[0].get_outputs())
            padder = Padder(signature, record.padding) if record.padding else None
            served = signature.output_of(record.output)
            warm_up = WarmUp(signature, record, padder)
        except (SignatureError, OSError) as error:
            raise ModelError(f"{path}: {error}") from error
        self._serving = Serving(signature, signature.outputs.index(served), padder)
        self.inputs: tuple[TensorInfo, ...] = tuple(each.info for each in signature.inputs)
        self.outputs: tuple[TensorInfo, ...] = tuple(each.info for each in signature.outputs)
        self.output = served.name  # that /infer serves
        self.batches = signature.batch_axis and record.batches is not False
        reader = Reader(signature, padder=padder, pad_with_zeros=bool(record.pad_with_zeros))
        # Quick enough for the loop. Raises ApiError: 400 for what is malformed, 422 for what the model does not take.
        self.read: Callable[[bytes], Sample] = reader.read
        self.typical_s = 0.0  # smoothed duration of one run
        self.fixed_s = 0.0  # what the warm-up took, whatever the batch's size
        self.each_s = 0.0  # and for each row in it
        self.probe = self._warm_up(warm_up, warm_up_rows)  # an ask of the input that it is warmed up with
        self._probe = self.read(self.probe)

    @property
    def sessions(self) -> int:
        """How many runs there may be at the same time."""
        return len(self._sessions)

    def run(self, samples: Sequence[Sample], session: int = 0) -> Run:
        """The result of each sample, or why there is none. The samples are of one group."""
        batch = Batch(self._serving, self._sessions[session])
        began = time.perf_counter()
        if len(samples) > 1 and self.batches:
            results = self._run_together(samples, batch)
        else:
            results = [self._run_alone(sample, batch) for sample in samples]
        if samples:
            self.typical_s += 0.2 * (time.perf_counter() - began - self.typical_s)
        return Run(results, batch.input_ns, batch.infer_ns, batch.output_ns)

    def shrink(self) -> None:
        """Gives memory that is held for the largest batches so far back. Takes as long as a run of one sample."""
        options = ort.RunOptions()
        arenas = "cpu:0" if self.provider == CPU else f"cpu:0;gpu:{self._device}"
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)
        for session in self._sessions:
            Batch(self._serving, session, options).infer([self._probe])

    def describe(self) -> dict[str, Any]:
        """What `/health` says of the model; `input` and its type and shape are those of the first one."""
        signature = self._serving.signature
        first = signature.inputs[0] if signature.inputs else None
        dims = list(first.dims) if first else []
        if signature.batch_axis:
            dims[0] = "batch"
        return {
            "name": self.name,
            "version": self.version,
            "file": self.path.name,
            "input": first.name if first else "",
            "input_shape": ["n" if dim is None else dim for dim in dims],
            "input_type": "" if first is None else "string" if first.datatype == BYTES else first.dtype.name,
            "inputs": [_describe(each) for each in self.inputs],
            "pad_with_zeros": bool(self.record.pad_with_zeros),
            "output": self.output,
            "output_shape": list(signature.outputs[self._serving.output].dims),
            "outputs": [_describe(each) for each in self.outputs],
            "batches": self.batches,
            "sessions": self.sessions,
            "provider": self.provider,
            "digest": self.digest,
        }

    def _run_together(self, samples: Sequence[Sample], batch: Batch) -> list[Result]:
        try:
            outputs = batch.infer(samples, must_batch=True)
        except NotABatch as error:
            logger.warning("%s %s, so it runs one by one from now on", self.path.name, error)
            self.batches = False
            return [self._run_alone(sample, batch) for sample in samples]
        except Exception:  # whichever sample is to blame, each one alone finds out
            return [self._run_alone(sample, batch) for sample in samples]
        return list(batch.encode(samples, outputs))

    def _run_alone(self, sample: Sample, batch: Batch) -> Result:
        try:
            return batch.encode_alone(sample, batch.infer([sample]))
        except Exception as error:
            logger.warning("%s failed on an input, which is tried once more: %s", self.path.name, error)
            return self._try_again(sample, batch)

    def _try_again(self, sample: Sample, batch: Batch) -> Result:
        """A sample failed alone: its own fault if it fails again and the probe does not, else the engine's."""
        try:
            batch.infer([self._probe])
        except Exception as error:
            return EngineError(f"{self.path.name} fails on its warm-up input too: {error}")
        try:
            return batch.encode_alone(sample, batch.infer([sample]))
        except Exception as error:
            return ApiError(422, "model_refused_input", f"the model can't run on this input: {_reason(error)}")

    def _warm_up(self, warm_up: WarmUp, rows: int) -> bytes:
        """Runs what will be met first, so that no request pays for the first allocation. Gives the first ask."""
        probe = sample = None
        errors, size = [], 0
        for probe in warm_up.probes():
            try:
                sample = self.read(probe)
                outputs = Batch(self._serving, self._sessions[0]).infer([sample])
                size = sum(each.nbytes for each in (*sample.arrays, *outputs.values()))
                break
            except Exception as error:
                sample = None
                errors.append(_reason(error))
        if probe is None or sample is None:
            raise ModelError(
                f"{self.path} loads but does not run on zeros: {errors[0]}; if it needs inputs of other sizes, name "
                'them in its record: "warm_up": [{"input": [1, 3, 224, 224]}]'
            )
        # A batch whose outputs are enormous would take all memory.
        rows = min(rows, max(1, _WARM_UP_BYTES // max(1, size)))
        took = {}
        for session in self._sessions:
            batch = Batch(self._serving, session)
            for count in (1, rows, 1, 1) if self.batches and rows > 1 else (1, 1, 1):
                began = time.perf_counter()
                try:
                    batch.infer([sample] * count, must_batch=count > 1)
                except Exception as error:
                    if count == 1:
                        raise ModelError(f"{self.path} fails on zeros once in a while: {_reason(error)}") from error
                    logger.warning("%s can't run %d at once, so it runs one by one: %s", self.path.name, count, error)
                    self.batches = False
                took[count] = time.perf_counter() - began
            for ask in warm_up.asked_for():
                try:
                    batch.infer([self.read(ask)])
                except Exception as error:
                    raise ModelError(f"{self.path} does not run on its warm-up shapes: {_reason(error)}") from error
            if self._serving.padder is not None:
                self._try_lengths(self._serving.padder, warm_up, sample, session)
        self.typical_s = took[1]
        # Without batches a second sample costs as much as the first.
        several = self.batches and rows in took and rows > 1
        self.each_s = max(0.0, took[rows] - took[1]) / (rows - 1) if several else took[1]
        self.fixed_s = max(0.0, took[1] - self.each_s)
        return probe

    def _try_lengths(self, padder: Padder, warm_up: WarmUp, probe: Sample, session: ort.InferenceSession) -> None:
        """Runs each bucket, and beside it what is not filled up, which tells where outputs are to be cut."""
        options = ort.RunOptions()
        options.log_severity_level = 4  # a model need not take all lengths
        batch = Batch(self._serving, session, options)
        shapes: dict[int, list[tuple[int, ...]]] = {}
        for length in padder.lengths_to_try:
            try:
                outputs = batch.infer([warm_up.of_length(probe, length)])
            except Exception as error:
                if length not in padder.buckets:
                    continue
                raise ModelError(
                    f"{self.path} does not run where {padder.dimension!r} is {length}, a bucket of its padding: "
                    f"{_reason(error)}"
                ) from error
            shapes[length] = [outputs[index].shape for index in range(len(outputs))]
        try:
            padder.learn(shapes)
        except SignatureError as error:
            raise ModelError(f"{self.path}: {error}") from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:300]


def _describe(each: TensorInfo) -> dict[str, Any]:
    return {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}
