"""The session that is examined: opened as a worker opens it, run on one feed at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from inference_site.lib.datatypes import ONNX
from worker_app.doctor.compare import Array
from worker_app.doctor.feeds import Feed
from worker_app.doctor.report import Tensor
from worker_app.providers import (
    CPU,
    CUDA,
    cores,
    create_cpu_sessions,
    create_session,
    cuda_providers,
    open_session,
)
from worker_app.signature import Signature, SignatureError


class Patient:
    """One model in one session; `outputs` are those that can be served, which are what runs.

    `batch` holds the names of the first sizes if they count rows, as a worker sees it; else it is empty.
    """

    def __init__(self, path: Path, *, threads: int = 0, on_cpu: bool = False) -> None:
        """Loads the file, on `threads` threads (0: all cores), on CUDA if that works unless `on_cpu`.

        Raises worker_app.providers.ModelError.
        """
        began = time.perf_counter()
        if on_cpu:
            (self.session,), self.fallback_reason = create_cpu_sessions(path, 1, threads=threads or cores()), ""
        else:
            self.session, self.fallback_reason = create_session(path, threads=threads or cores())
        self.load_s = time.perf_counter() - began
        self.provider: str = self.session.get_providers()[0]
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.inputs = tuple(map(_tensor, inputs))
        self.all_outputs = tuple(map(_tensor, outputs))
        self.outputs = tuple(each for each in self.all_outputs if each.datatype in ONNX.values())
        self.signature: Signature | None = None  # None if a worker can't serve it
        self.batch: frozenset[str] = frozenset()
        try:
            self.signature = Signature.of(inputs, outputs)
        except SignatureError:
            return
        if self.signature.batch_axis:
            first = (each.symbols[0] for each in (*self.inputs, *self.outputs))
            self.batch = frozenset(symbol for symbol in first if symbol)

    @property
    def cuda(self) -> bool:
        return self.provider == CUDA

    def run(self, feed: Feed) -> list[Array]:
        outputs: list[Array] = self.session.run([each.name for each in self.outputs], feed)
        return outputs


def profiled(path: Path, prefix: Path, *, cuda: bool) -> ort.InferenceSession:
    """A session, opened on CUDA or on the CPU as a worker opens it, whose profile, a file that begins with `prefix`,
    tells where each node runs. Raises worker_app.providers.ModelError."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    return open_session(path, options, cuda_providers(0) if cuda else [CPU])


def _tensor(node: Any) -> Tensor:
    sizes: Sequence[Any] = node.shape or ()
    fixed = [isinstance(size, int) and size >= 0 for size in sizes]
    return Tensor(
        node.name,
        ONNX.get(node.type, node.type),
        tuple(size if known else -1 for size, known in zip(sizes, fixed, strict=True)),
        tuple(
            None if known else size if _is_name(size) else f"?{node.name}.{axis}"
            for axis, (size, known) in enumerate(zip(sizes, fixed, strict=True))
        ),
    )


def _is_name(size: Any) -> bool:
    # What exporters make up for a dimension without a name is none.
    return isinstance(size, str) and bool(size) and not size.startswith("unk__")
