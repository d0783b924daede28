"""Requests of the Open Inference Protocol with binary tensors, for wrk and one at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.yardstick import BenchError, write_bodies
from tests.support.cluster import Cluster
from tests.support.http import request

HEAD_BYTES = 512
TOLERANCE = 1e-4  # of an answer, beside ONNX Runtime's own
NOTHING_KEPT: Mapping[str, object] = {"cached": False}  # in a model's record


def binary_body(tensors: Mapping[str, NDArray[Any]], output: str, ident: str, head_bytes: int) -> bytes:
    """A request with these tensors, for one output; its JSON is filled up to `head_bytes`, so that one header fits all
    bodies."""
    types = {"float32": "FP32", "int64": "INT64"}
    inputs = [
        {
            "name": name,
            "shape": list(values.shape),
            "datatype": types[values.dtype.name],
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, values in tensors.items()
    ]
    outputs = [{"name": output, "parameters": {"binary_data": True}}]
    head = json.dumps({"id": ident, "inputs": inputs, "outputs": outputs}).encode()
    if len(head) > head_bytes:
        raise BenchError(f"the head of a request has {len(head)} bytes, more than {head_bytes}")
    return head.ljust(head_bytes) + b"".join(values.tobytes() for values in tensors.values())


def write_binary(directory: Path, requests: Iterable[Mapping[str, NDArray[Any]]], output: str = "output") -> Path:
    """A wrk script that posts these in turn."""
    bodies = (binary_body(tensors, output, f"r{number}", HEAD_BYTES) for number, tensors in enumerate(requests))
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(HEAD_BYTES)}
    return write_bodies(directory, bodies, headers)


def infer_url(cluster: Cluster, model: str) -> str:
    return f"{cluster.gateway_url}/v2/models/{model}/infer"


def ask(url: str, tensors: Mapping[str, NDArray[Any]], output: str) -> NDArray[np.float32]:
    """One answer's output."""
    body = binary_body(tensors, output, "check", HEAD_BYTES)
    status, answer = request("POST", url, body, {"Inference-Header-Content-Length": str(HEAD_BYTES)})
    if status != 200:
        raise BenchError(f"{url} answered {status}: {answer[:300]!r}")
    # This helper keeps no headers: the raw tensor is what follows the JSON.
    head, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    return np.frombuffer(answer[end:], np.float32).reshape(head["outputs"][0]["shape"])


def linked(file: Path) -> Callable[[Path], Path]:
    """For repository.publish: the same file once more."""

    def make(path: Path) -> Path:
        os.link(file, path)
        return path

    return make
