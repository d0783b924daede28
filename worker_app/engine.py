"""One loaded version of a model: reads asks, runs batches of samples in ONNX Runtime, writes their results."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime as ort

from inference_site.lib.catalog import TensorInfo
from inference_site.lib.datatypes import BYTES
from inference_site.lib.errors import ApiError
from inference_site.lib.record import Record
from worker_app.batch import Batch, NotABatch, Serving
from worker_app.firstruns import FirstRuns, reason_of
from worker_app.padding import Padder
from worker_app.providers import CPU, CUDA, ModelError, create_cpu_sessions, create_sessions, say_fallback
from worker_app.reader import Reader
from worker_app.record import digest_of, state_of
from worker_app.samples import Sample
from worker_app.signature import Signature, SignatureError
from worker_app.warmup import WarmUp, ask_of

__all__ = ["CPU", "CUDA", "Engine", "EngineError", "ModelError", "Result", "Run"]

logger = logging.getLogger(__name__)

_PROBE_BYTES = 2**20  # of an input that a model is checked with again and again


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

    Samples of one group run as one batch if every input and output of the model has a symbolic first dimension, a look
    at two rows does not show that they are mixed, and the record does not forbid it; else one by one. So does a batch
    that fails, so that one bad sample never fails its neighbours.
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
        try:
            before = state_of(path)
            self.digest = digest_of(path, record)
        except OSError as error:
            raise ModelError(f"{path}: {error}") from error
        self._sessions, self.fallback_reason = create_sessions(
            path, record.sessions or 1, threads=threads, device=device
        )
        try:
            signature = Signature.of(self._sessions[0].get_inputs(), self._sessions[0].get_outputs())
            padder = Padder(signature, record.padding) if record.padding else None
            served = signature.output_of(record.output)
            warm_up = WarmUp(signature, record, padder)
            if state_of(path) != before:  # the digest might be of other weights than the sessions are
                raise ModelError(f"{path} was changed while it was loaded; load it again once it is written")
        except (SignatureError, OSError) as error:
            raise ModelError(f"{path}: {error}") from error
        self._serving = Serving(signature, signature.outputs.index(served), padder)
        self.inputs: tuple[TensorInfo, ...] = tuple(each.info for each in signature.inputs)
        self.outputs: tuple[TensorInfo, ...] = tuple(each.info for each in signature.outputs)
        self.output = served.name  # that /infer serves
        self.batches = signature.batch_axis and record.batches is not False
        reader = Reader(signature, padder=padder, pad_with_zeros=bool(record.pad_with_zeros))
        # Raises ApiError: 400 for what is malformed, 422 for what the model does not take.
        self.read: Callable[[bytes], Sample] = reader.read
        # Whether `read` is, for this ask; it may be called in any thread.
        self.is_quick: Callable[[bytes], bool] = reader.is_quick
        runs = FirstRuns(path, self._serving, self.read, self.batches)
        if not runs.find_probe(self._sessions[0], warm_up) and not self._move_to_cpu(runs, warm_up, threads):
            runs.stay_cold(warm_up)
        self.provider: str = self._sessions[0].get_providers()[0]
        logger.info("%s %s runs on %s", name, version, self.provider)
        self.probe = runs.probe  # an ask of the input that it is warmed up with
        self.cold = runs.cold  # no input is known that it runs on, so that `probe` tells nothing of its health
        if not self.cold and record.batches is None:  # True: its owner knows that rows stay apart
            runs.check_rows(self._sessions[0], warm_up)
        # Whether rows stay apart is looked at with the first input that it runs on; until then it runs one by one.
        self._unchecked = (runs, warm_up) if self.cold and runs.batches and record.batches is None else None
        for session in self._sessions if not self.cold else ():
            runs.warm_up(session, warm_up, warm_up_rows)
        self._probe = self.read(self.probe)
        self.batches = runs.batches and self._unchecked is None
        self.typical_s = runs.one_s  # smoothed duration of one run
        self.fixed_s = runs.fixed_s  # what the warm-up took, whatever the batch's size
        self.each_s = runs.each_s  # and for each row in it

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
        if self.cold:
            self._learn(samples, results, session)
        return Run(results, batch.input_ns, batch.infer_ns, batch.output_ns)

    def shrink(self) -> None:
        """Gives memory that is held for the largest batches so far back. Takes as long as a run of one sample."""
        options = ort.RunOptions()
        arenas = "cpu:0" if self.provider == CPU else f"cpu:0;gpu:{self._device}"
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)
        for session in self._sessions if not self.cold else ():
            Batch(self._serving, session, options).infer([self._probe])
        # Large tensors come from the heap, too, which by itself only gives back what lies at its end.
        with suppress(AttributeError, OSError):  # a C library without it
            ctypes.CDLL(None).malloc_trim(0)

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

    def _move_to_cpu(self, runs: FirstRuns, warm_up: WarmUp, threads: int) -> bool:
        """Whether what opens on CUDA and does not run there, as without cuDNN or on a GPU that is too old, runs on the
        CPU, which it does from now on. What does not run there either does not because of its input."""
        if self._sessions[0].get_providers()[0] != CUDA:
            return False
        on_cuda = runs.errors
        try:
            first = create_cpu_sessions(self.path, 1, threads=threads)
            if not runs.find_probe(first[0], warm_up):
                runs.errors = [f"{on_cuda[0]} (on the CPU: {runs.errors[0]})"]
                return False
            self._sessions = first + create_cpu_sessions(self.path, self.sessions - 1, threads=threads)
        except ModelError as error:
            logger.warning("%s", error)
            runs.errors = on_cuda
            return False
        # Of the ask that runs on the CPU: those before it may have failed for a reason of their own.
        self.fallback_reason = f"{self.path.name} opens on CUDA but does not run there: {on_cuda[len(runs.errors)]}"
        say_fallback(self.fallback_reason)
        return True

    def _learn(self, samples: Sequence[Sample], results: Sequence[Result], session: int) -> None:
        """Finds an input that it runs on."""
        for sample, result in zip(samples, results, strict=True):
            if isinstance(result, bytes) and sum(map(len, sample.parts)) <= _PROBE_BYTES:
                self._probe, self.probe = sample, ask_of(self._serving.signature.inputs, sample)
                self.cold = False
                if self._unchecked is not None:
                    runs, warm_up = self._unchecked
                    self._unchecked = None
                    runs.check_rows(self._sessions[session], warm_up, sample)
                    self.batches = runs.batches
                logger.info("%s %s has run on an input, which it is checked with from now on", self.name, self.version)
                return

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
            if not self.cold:
                batch.infer([self._probe])
        except Exception as error:
            return EngineError(f"{self.path.name} fails on its warm-up input too: {error}")
        try:
            return batch.encode_alone(sample, batch.infer([sample]))
        except Exception as error:
            return ApiError(422, "model_refused_input", f"the model can't run on this input: {reason_of(error)}")


def _describe(each: TensorInfo) -> dict[str, Any]:
    return {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}
