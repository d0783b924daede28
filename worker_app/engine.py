"""The ONNX Runtime session: loads a model on CUDA or the CPU, warms it up, runs batches of samples."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # recent wheels open a telemetry database otherwise

import msgspec
import numpy as np
import onnxruntime as ort
import orjson

from inference_site.lib.errors import ApiError
from worker_app.record import Record, load_record
from worker_app.samples import SERVABLE, InputSpec

logger = logging.getLogger(__name__)

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_FLOAT_OUTPUTS = ("tensor(float)", "tensor(double)", "tensor(float16)")


class ModelError(Exception):
    """A model that can't be served; the message names the file, the cause and the fix."""


class EngineError(Exception):
    """The engine failed on input that is not to blame: the worker is sick."""


class Engine:
    """One model in one session. `run` may be called from any one thread at a time.

    A sample is the row-major bytes of one request's input. Samples run as one batch if every input and output of the
    model has a symbolic first dimension, else one by one; so does a batch that fails, so that one bad sample never
    fails its neighbours.
    """

    def __init__(self, path: Path, *, threads: int = 1, warm_up_batch: int = 32) -> None:
        """Loads, chooses the output, warms up. Raises ModelError."""
        self.path = path
        self.record = _record(path)
        self.digest = _digest(path, self.record)
        self.fallback_reason = _why_no_cuda()
        self._session = self._create_session(threads)
        self.provider = self._session.get_providers()[0]
        self.input, self._has_batch_axis = self._describe_input()
        self.batches = self._has_batch_axis
        self.output = self._choose_output()
        self.zeros = self._zeros(1)[0]  # the sample that it is warmed up with
        self.typical_s = 0.0  # smoothed duration of one run
        self.fixed_s = 0.0  # what the warm-up took, whatever the batch's size
        self.each_s = 0.0  # and for each sample in it
        self._warm_up(warm_up_batch)

    def run(self, samples: Sequence[bytes]) -> list[bytes | ApiError | EngineError]:
        """The encoded output (a JSON list) of each sample, or why there is none, in the order of the samples."""
        began = time.perf_counter()
        shapes = [self.input.shape_of(sample) for sample in samples] if self.input.values is None else None
        if not self.batches or len(samples) == 1:
            results = [self._run_alone(sample) for sample in samples]
        elif shapes is None or len(set(shapes)) == 1:
            results = self._run_together(samples)
        else:
            results = self._run_by_shape(samples, shapes)
        self.typical_s += 0.2 * (time.perf_counter() - began - self.typical_s)
        return results

    def describe(self) -> dict[str, Any]:
        """What `/health` says of the model."""
        return {
            "name": self.record.name,
            "file": self.path.name,
            "input": self.input.name,
            "input_shape": [*(["batch"] if self._has_batch_axis else []), *(size or "n" for size in self.input.shape)],
            "input_type": self.input.dtype.name,
            "pad_with_zeros": self.input.pad_with_zeros,
            "output": self.output.name,
            "output_shape": list(self.output.shape),
            "batches": self.batches,
            "digest": self.digest,
        }

    def _run_together(self, samples: Sequence[bytes]) -> list[bytes | ApiError | EngineError]:
        try:
            output = self._infer(b"".join(samples), (len(samples), *self.input.shape_of(samples[0])))
        except Exception:  # whichever sample is to blame, each one alone finds out
            return [self._run_alone(sample) for sample in samples]
        if output.ndim == 0 or output.shape[0] != len(samples):
            logger.warning(
                "%s gave %s for a batch of %d, so it runs one by one from now on",
                self.path.name,
                output.shape,
                len(samples),
            )
            self.batches = False
            return [self._run_alone(sample) for sample in samples]
        return [_encode(row) for row in output]

    def _run_by_shape(
        self, samples: Sequence[bytes], shapes: Sequence[tuple[int, ...]]
    ) -> list[bytes | ApiError | EngineError]:
        results: list[bytes | ApiError | EngineError] = [b""] * len(samples)
        for shape in dict.fromkeys(shapes):
            places = [place for place, other in enumerate(shapes) if other == shape]
            for place, result in zip(places, self._run_together([samples[place] for place in places]), strict=True):
                results[place] = result
        return results

    def _run_alone(self, sample: bytes) -> bytes | ApiError | EngineError:
        shape = self.input.shape_of(sample)
        shape = (1, *shape) if self._has_batch_axis else shape
        try:
            return _encode(self._infer(sample, shape))
        except Exception as error:
            logger.warning("%s failed on an input, which is tried once more: %s", self.path.name, error)
            return self._try_again(sample, shape)

    def _infer(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        tensor = np.frombuffer(data, self.input.dtype).reshape(shape)
        output: np.ndarray = self._session.run([self.output.name], {self.input.name: tensor})[0]
        return output

    def _try_again(self, sample: bytes, shape: tuple[int, ...]) -> bytes | ApiError | EngineError:
        """A sample failed alone: its own fault if it fails again and zeros do not, else the engine's."""
        try:
            self._infer(*self._zeros(1))
        except Exception as error:
            return EngineError(f"{self.path.name} fails on its warm-up input too: {error}")
        try:
            return _encode(self._infer(sample, shape))
        except Exception as error:
            reason = str(error).strip().splitlines()[-1][:300]
            return ApiError(422, "model_refused_input", f"the model can't run on this input: {reason}")

    def _zeros(self, batch: int) -> tuple[bytes, tuple[int, ...]]:
        shape = tuple(size or 1 for size in self.input.shape)
        shape = (batch, *shape) if self._has_batch_axis else shape
        return np.zeros(shape, self.input.dtype).tobytes(), shape

    def _warm_up(self, batch: int) -> None:
        """Runs the sizes that will be met first, so that no request pays for the first allocation."""
        took: dict[int, float] = {}
        try:
            for size in (1, batch, 1, 1) if self.batches else (1, 1, 1):
                began = time.perf_counter()
                self._infer(*self._zeros(size))
                took[size] = time.perf_counter() - began
        except Exception as error:
            raise ModelError(f"{self.path} loads but does not run on zeros: {error}") from error
        self.typical_s = took[1]
        # Without batches a second sample costs as much as the first.
        several = self.batches and batch > 1
        self.each_s = max(0.0, took[batch] - took[1]) / (batch - 1) if several else took[1]
        self.fixed_s = max(0.0, took[1] - self.each_s)

    def _create_session(self, threads: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        session = None
        if not self.fallback_reason:
            try:
                ort.preload_dlls()
                session = self._open(options, [CUDA, CPU])
                if CUDA not in session.get_providers():
                    self.fallback_reason = f"ONNX Runtime chose {session.get_providers()[0]}; its log says why"
            except ModelError as error:
                self.fallback_reason = str(error)
        if self.fallback_reason:
            logger.warning("CUDA failed to load: %s", self.fallback_reason)
            logger.warning("Falling back to CPU Provider...")
            session = self._open(options, [CPU])
        assert session is not None
        logger.info("%s runs on %s", self.path.name, session.get_providers()[0])
        return session

    def _open(self, options: ort.SessionOptions, providers: list[str]) -> ort.InferenceSession:
        try:
            # Without enable_fallback=0 a GPU failure in the middle of serving would silently move to the CPU.
            return ort.InferenceSession(self.path, options, providers=providers, enable_fallback=0)
        except Exception as error:
            raise ModelError(f"{self.path} can't be loaded on {providers[0]}: {error}") from error

    def _describe_input(self) -> tuple[InputSpec, bool]:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1:
            names = ", ".join(repr(each.name) for each in inputs)
            raise ModelError(f"{self.path} has {len(inputs)} inputs ({names}); /infer serves models with one input")
        first = inputs[0]
        if first.type not in SERVABLE:
            raise ModelError(
                f"{self.path}: input {first.name!r} is {first.type}; /infer takes numbers: {sorted(SERVABLE)}"
            )
        batches = all(each.shape and not isinstance(each.shape[0], int) for each in (*inputs, *outputs))
        shape = [size if isinstance(size, int) else None for size in first.shape]
        if batches:
            shape = shape[1:]
        elif shape and shape[0] is None:
            shape[0] = 1  # some output does not follow the batch, so each sample runs as a batch of one
        if shape.count(None) > 1:
            raise ModelError(
                f"{self.path}: input {first.name!r} has shape {first.shape}; only one size besides the first may vary"
            )
        return InputSpec(first.name, SERVABLE[first.type], tuple(shape), self.record.pad_with_zeros), batches

    def _choose_output(self) -> Any:
        outputs = {each.name: each for each in self._session.get_outputs()}
        if self.record.output is not None:
            if self.record.output not in outputs:
                raise ModelError(
                    f"{self.path} has no output {self.record.output!r}, as its record says; it has {sorted(outputs)}"
                )
            return outputs[self.record.output]
        # A classifier as scikit-learn exports it puts its label first; what clients want is the probabilities.
        for types in (_FLOAT_OUTPUTS, tuple(SERVABLE)):
            for each in outputs.values():
                if each.type in types:
                    return each
        types_found = {name: each.type for name, each in outputs.items()}
        raise ModelError(f"{self.path} has no output of numbers; it has {types_found}")


def _encode(row: np.ndarray) -> bytes:
    if row.dtype == np.float16:
        row = row.astype(np.float32)
    return orjson.dumps(np.ascontiguousarray(row).reshape(-1), option=orjson.OPT_SERIALIZE_NUMPY)


def _record(path: Path) -> Record:
    if not path.is_file():
        raise ModelError(f"there is no model at {path}; set MODEL_PATH or name an .onnx file")
    return load_record(path)


def _digest(path: Path, record: Record) -> str:
    """Of the file and of what its record says: workers with the same digest give the same answers."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
    found.update(msgspec.json.encode(record))
    return found.hexdigest()


def _why_no_cuda() -> str:
    """Why CUDA need not be tried at all; "" if it may work."""
    if CUDA not in ort.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"no NVIDIA driver: {error}"
    return ""
