"""Engines of small models, and asks of the Open Inference Protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_site.lib.asks import pack_v2, unpack_v2_result
from inference_site.lib.datatypes import NUMPY
from inference_site.lib.record import Record
from worker_app.engine import Engine, Result
from worker_app.record import load_record

Array = NDArray[Any]


def load(path: Path, record: Record | None = None, *, rows: int = 4) -> Engine:
    """The engine of a model, with the record beside it unless another is given."""
    record = record or load_record(path)
    return Engine(path, record, name=record.name or path.stem, version="1", warm_up_rows=rows)


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's type."""
    if array.dtype.kind in "OSU":
        return "BYTES"
    return next(name for name, dtype in NUMPY.items() if dtype == array.dtype)


def raw(array: Array) -> bytes:
    """An array as the protocol has it in binary."""
    if array.dtype.kind not in "OSU":
        return array.tobytes()
    items = [each if isinstance(each, bytes) else str(each).encode() for each in array.reshape(-1)]
    return b"".join(len(each).to_bytes(4, "little") + each for each in items)


def binary_ask(
    inputs: Mapping[str, Array], outputs: Sequence[Mapping[str, Any]] | None = None, binary_output: bool = True
) -> bytes:
    """An ask with all inputs in binary."""
    heads = [
        {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
            "parameters": {"binary_data_size": len(raw(array))},
        }
        for name, array in inputs.items()
    ]
    asked = None if outputs is None else json.dumps(outputs).encode()
    return pack_v2(json.dumps(heads).encode(), asked, binary_output, b"".join(map(raw, inputs.values())))


def json_ask(
    inputs: Mapping[str, Array], outputs: Sequence[Mapping[str, Any]] | None = None, *, nested: bool = False
) -> bytes:
    """An ask with all inputs in JSON."""
    heads = [
        {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
            "data": array.tolist() if nested else array.reshape(-1).tolist(),
        }
        for name, array in inputs.items()
    ]
    asked = None if outputs is None else json.dumps(outputs).encode()
    return pack_v2(json.dumps(heads).encode(), asked, False, b"")


def raw_ask(inputs: Any, outputs: Any = None, tensors: bytes = b"") -> bytes:
    """An ask of whatever a client may write."""
    return pack_v2(
        json.dumps(inputs).encode(), None if outputs is None else json.dumps(outputs).encode(), False, tensors
    )


def answers(result: Result) -> dict[str, Array]:
    """The outputs of the result of a V2 ask, in their order; those that are binary and those that are not."""
    assert isinstance(result, bytes), result
    heads, tensors = unpack_v2_result(result)
    found: dict[str, Array] = {}
    place = 0
    for head in json.loads(bytes(heads)):
        dtype = NUMPY[head["datatype"]]
        size = head.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.array(head["data"], dtype)
        elif head["datatype"] == "BYTES":
            array = np.array(strings(bytes(tensors[place : place + size])), dtype)
        else:
            array = np.frombuffer(tensors[place : place + size], dtype)
        place += size or 0
        found[head["name"]] = array.reshape(head["shape"])
    assert place == len(tensors)
    return found


def strings(data: bytes) -> list[str]:
    """Strings, each after its length."""
    found = []
    while data:
        size = int.from_bytes(data[:4], "little")
        found.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return found


def ask(engine: Engine, payload: bytes) -> Result:
    """What an engine says to one ask."""
    return engine.run([engine.read(payload)]).results[0]
