"""Near twins: requests that differ in one thing that changes the answer, and how each must be answered.

Every request is derived from a recent one by changing its shape, datatype, model, version, order of inputs, requested
outputs, view of the answer (JSON or binary), form (V2, `input_data`, `inputs`), or nothing at all.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from inference_site.lib import asks
from inference_site.lib.datatypes import BYTES, NUMPY
from tests.support.onnx_types import ELEMENTS
from tests.support.repository import typed

RAWS, RAW_BYTES = 40, 48
VERSIONS = ("1", "2")
TYPED_OUTPUTS = ("a_again", "b_again", "shape", "mark")
ECHO_OUTPUTS = ("output", "size")
STRINGS = 6


@dataclass(frozen=True, slots=True)
class Twin:
    """One request. `typed` models have two inputs and tell the shape and their mark; `echo` ones have one input,
    batches and serve /infer; their version 2 turns each row round."""

    kind: str = "typed"
    datatype: str = "FP32"
    version: str = "1"
    raw: int = 0
    shape: tuple[int, int] = (1, 12)
    swapped: bool = False  # which input has which bytes
    outputs: tuple[str, ...] | None = None
    binary: bool = True  # the answer
    sent_binary: bool = True
    form: str = "v2"
    wrong: str = ""  # a datatype that the model does not take

    @property
    def model(self) -> str:
        return f"{self.kind}-{self.datatype.lower()}"

    def ask(self) -> bytes:
        """The payload of its INFER frame."""
        if self.form == "flat":
            one = self._one()
            return _text(one.astype(np.uint8) if self.datatype == "BOOL" else one)  # true is no number
        if self.form == "named":
            return b'{"input":%b}' % _text(self._one())
        tensors, inputs = [], []
        for name, values in self._inputs().items():
            datatype = self.wrong or self.datatype
            entry: dict[str, Any] = {"name": name, "shape": list(self.shape), "datatype": datatype}
            if self.sent_binary or self.datatype == "FP16":
                raw = _raw(values)
                tensors.append(raw)
                inputs.append(json.dumps(entry | {"parameters": {"binary_data_size": len(raw)}}).encode())
            else:
                inputs.append(json.dumps(entry).encode()[:-1] + b',"data":%b}' % _text(values))
        outputs = None
        if self.outputs is not None:
            outputs = json.dumps(
                [{"name": name, "parameters": {"binary_data": self.binary}} for name in self.outputs]
            ).encode()
        return asks.pack_v2(b"[%b]" % b",".join(inputs), outputs, self.binary and outputs is None, b"".join(tensors))

    def fault_of(self, result: bytes) -> str:
        """What is wrong with the result; "" if nothing."""
        if self.form != "v2":
            expected = self._answers()["output"].reshape(-1)
            got: NDArray[Any] = _parsed(json.loads(result), self.datatype)
            return "" if _same(got, expected) else f"{got} instead of {expected}"
        text, tensors = asks.unpack_v2_result(result)
        found = json.loads(bytes(text))
        answers = self._answers()
        names = self.outputs or tuple(answers)
        if [each["name"] for each in found] != list(names):
            return f"the outputs are {[each['name'] for each in found]}, not {names}"
        position = 0
        for each in found:
            expected = answers[each["name"]]
            datatype = "INT64" if each["name"] in ("shape", "mark", "size") else self.datatype
            if (each["datatype"], tuple(each["shape"])) != (datatype, expected.shape):
                return f"{each} instead of {datatype} {expected.shape}"
            if self.binary:
                raw = _raw(expected)
                if each.get("parameters", {}).get("binary_data_size") != len(raw):
                    return f"{each} instead of {len(raw)} binary bytes"
                if bytes(tensors[position : position + len(raw)]) != raw:
                    return f"{each['name']}: other bytes than {expected}"
                position += len(raw)
            elif not _same(_parsed(each["data"], datatype), expected.reshape(-1)):
                return f"{each} instead of {expected}"
        return "" if position == len(tensors) else f"{len(tensors) - position} bytes too many"

    def near(self, rng: random.Random) -> Twin:
        """One that differs in one thing, or in none."""
        return rng.choice(_CHANGES)(replace(self, wrong=""), rng).valid()

    def valid(self) -> Twin:
        """With what does not go together put right: shapes of as many values, outputs that the model has."""
        count = _count(self.datatype)
        twin = self
        if twin.shape[0] * twin.shape[1] != count:
            twin = replace(twin, shape=(1, count))
        names = TYPED_OUTPUTS if twin.kind == "typed" else ECHO_OUTPUTS
        if twin.outputs is not None and not set(twin.outputs) <= set(names):
            twin = replace(twin, outputs=None)
        if twin.kind == "typed" or twin.datatype == "FP16":
            twin = replace(twin, form="v2")
        if twin.form != "v2":
            twin = replace(twin, shape=(1, count), wrong="")
        if twin.datatype == "FP16":
            twin = replace(twin, binary=True)
        return twin

    def _one(self) -> NDArray[Any]:
        return values(self.raw, self.datatype).reshape(-1)

    def _inputs(self) -> dict[str, NDArray[Any]]:
        first = values(self.raw, self.datatype).reshape(self.shape)
        if self.kind == "echo":
            return {"input": first}
        second = values((self.raw + 1) % RAWS, self.datatype).reshape(self.shape)
        return {"a": second, "b": first} if self.swapped else {"a": first, "b": second}

    def _answers(self) -> dict[str, NDArray[Any]]:
        inputs = self._inputs()
        if self.kind == "echo":
            turned = inputs["input"][:, :: 1 if self.version == "1" else -1]
            return {"output": turned, "size": np.full((self.shape[0], 1), self.shape[1], np.int64)}
        return {
            "a_again": inputs["a"],
            "b_again": inputs["b"],
            "shape": np.array(self.shape, np.int64),
            "mark": np.array([mark_of(self.datatype, self.version)], np.int64),
        }


def sequence(count: int, seed: int) -> list[Twin]:
    """So many requests; half of them repeat a recent one, the others are near twins of one."""
    rng = random.Random(seed)
    found = [Twin()]
    while len(found) < count:
        recent = found[max(0, len(found) - rng.choice((10, 100, 1000))) :]
        twin = rng.choice(recent)
        found.append(twin if rng.random() < 0.5 else twin.near(rng))
    return found


def mark_of(datatype: str, version: str) -> int:
    """What each typed model says of itself."""
    return 10 * list(ELEMENTS).index(datatype) + int(version)


def models() -> dict[tuple[str, str], Callable[[Path], Path]]:
    """How to make each model, by name and version."""
    return {
        (f"{kind}-{datatype.lower()}", version): (
            typed(datatype, mark_of(datatype, version)) if kind == "typed" else echo(datatype, version)
        )
        for kind in ("typed", "echo")
        for datatype in ELEMENTS
        for version in VERSIONS
    }


def echo(datatype: str, version: str) -> Callable[[Path], Path]:
    """`input` [batch, n] of a datatype -> `output`, the same, or each row turned round in version 2; `size`, int64
    [batch, 1]: n."""

    def make(path: Path) -> Path:
        kind = ELEMENTS[datatype]
        constants = {
            "start": np.array([0 if version == "1" else -1], np.int64),
            "end": np.array([2**31 if version == "1" else -(2**31)], np.int64),
            "axis": np.array([1], np.int64),
            "step": np.array([1 if version == "1" else -1], np.int64),
            "zero": np.array([0], np.int64),
            "one": np.array([1], np.int64),
            "two": np.array([2], np.int64),
        }
        nodes = [
            helper.make_node("Slice", ["input", "start", "end", "axis", "step"], ["output"]),
            helper.make_node("Shape", ["input"], ["shape"]),
            helper.make_node("Slice", ["shape", "zero", "one"], ["rows"]),
            helper.make_node("Slice", ["shape", "one", "two"], ["columns"]),
            helper.make_node("Concat", ["rows", "one"], ["target"], axis=0),
            helper.make_node("Expand", ["columns", "target"], ["size"]),
        ]
        graph = helper.make_graph(
            nodes,
            "echo",
            [helper.make_tensor_value_info("input", kind, ["batch", "n"])],
            [
                helper.make_tensor_value_info("output", kind, ["batch", "n"]),
                helper.make_tensor_value_info("size", TensorProto.INT64, ["batch", 1]),
            ],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path

    return make


@cache
def values(raw: int, datatype: str) -> NDArray[Any]:
    """The same bytes, seen as each datatype; of strings the same letters, cut elsewhere. All floats are finite."""
    rng = random.Random(raw // 2)  # two and two are the same but for one bit, or one cut
    data = bytearray(rng.randrange(0x40) for _ in range(RAW_BYTES))
    data[5] ^= raw % 2
    if datatype == BYTES:
        letters = bytes(each % 26 + 97 for each in data[:12])
        cuts = sorted(rng.sample(range(12), STRINGS - 1))
        cuts[0] = cuts[0] + raw % 2 if cuts[0] + raw % 2 <= cuts[1] else cuts[0]
        places = [0, *cuts, 12]
        found = np.empty(STRINGS, np.object_)
        found[:] = [letters[start:end] for start, end in pairwise(places)]
        return found
    if datatype == "BOOL":
        return np.frombuffer(bytes(each & 1 for each in data), NUMPY[datatype])
    made = np.frombuffer(bytes(data), NUMPY[datatype]).copy()
    if made.dtype.kind == "f":
        made[0] = -0.0 if raw % 4 < 2 else 0.0  # equal numbers, other bytes
    return made


def _count(datatype: str) -> int:
    return len(values(0, datatype))


def _raw(array: NDArray[Any]) -> bytes:
    if array.dtype != np.object_:
        return np.ascontiguousarray(array).tobytes()
    return b"".join(len(each).to_bytes(4, "little") + each for each in array.reshape(-1))


def _text(array: NDArray[Any]) -> bytes:
    flat = array.reshape(-1)
    if array.dtype == np.object_:
        return json.dumps([each.decode() for each in flat]).encode()
    if array.dtype == np.float32:  # the shortest text that gives these very bits
        return b"[%b]" % ",".join(map(repr, map(float, flat))).encode()
    return json.dumps(flat.tolist()).encode()


def _parsed(data: list[Any], datatype: str) -> NDArray[Any]:
    if datatype == BYTES:
        found = np.empty(len(data), np.object_)
        found[:] = [each.encode() for each in data]
        return found
    return np.array(data, NUMPY[datatype])


def _same(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    if got.shape != expected.shape:
        return False
    return _raw(got) == _raw(expected)


def _shape(twin: Twin, rng: random.Random) -> Twin:
    count = _count(twin.datatype)
    rows = rng.choice([each for each in range(1, count + 1) if count % each == 0])
    return replace(twin, shape=(rows, count // rows), form="v2")


def _outputs(twin: Twin, rng: random.Random) -> Twin:
    names = TYPED_OUTPUTS if twin.kind == "typed" else ECHO_OUTPUTS
    some = tuple(rng.sample(names, rng.randint(1, len(names))))
    return replace(twin, outputs=rng.choice((None, some)), form="v2")


_CHANGES: tuple[Callable[[Twin, random.Random], Twin], ...] = (
    _shape,
    _outputs,
    lambda twin, rng: replace(twin, datatype=rng.choice(list(ELEMENTS)), wrong=""),
    lambda twin, rng: replace(twin, version=rng.choice(VERSIONS)),
    lambda twin, rng: replace(twin, kind=rng.choice(("typed", "echo"))),
    lambda twin, rng: replace(twin, swapped=not twin.swapped),
    lambda twin, rng: replace(twin, raw=twin.raw ^ 1),
    lambda twin, rng: replace(twin, raw=rng.randrange(RAWS)),
    lambda twin, rng: replace(twin, binary=not twin.binary),
    lambda twin, rng: replace(twin, sent_binary=not twin.sent_binary),
    lambda twin, rng: replace(twin, form=rng.choice(("v2", "flat", "named"))),
    lambda twin, rng: replace(twin, kind="echo", form=rng.choice(("flat", "named"))),
    lambda twin, rng: replace(twin, wrong=_sibling(twin.datatype)),
)


def _sibling(datatype: str) -> str:
    """Another datatype of the same size, or of none."""
    if datatype == BYTES:
        return "UINT8"
    size = NUMPY[datatype].itemsize
    return next(name for name, dtype in NUMPY.items() if dtype.itemsize == size and name not in (datatype, BYTES))
