"""The model that a plain /infer asks, as workers and the gateway describe it: what to send it, what it may answer."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gateway_app.catalog import UNLOADED
from gateway_app.diagnosis.findings import Line
from gateway_app.diagnosis.targets import Targets
from gateway_app.probe import DEFAULT_VALUES, input_values
from inference_site.lib.catalog import State

# For sizes that may vary, in turn until the model takes one: few values, a sentence, an image.
LENGTHS = (1, 16, 224)
LARGEST_ID = 9
FLOATS = ("FP16", "FP32", "FP64")

# The members of a body of /infer that hold the input: input_data, or inputs by name.
Question = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DefaultModel:
    """`values`: how many numbers it takes, where it says no more; `kept`: whether results are kept, None if unknown."""

    described: dict[str, Any]
    values: int
    kept: bool | None

    @classmethod
    def of(cls, targets: Targets) -> DefaultModel:
        models = [(target.health.data or {}).get("model") for target in targets.workers]
        described = next((each for each in models if each and isinstance(each, dict)), {})
        sizes = [input_values(target.health.data) for target in targets.workers]
        rows = (targets.stats.data or {}).get("models")
        entries = [each for each in rows if isinstance(each, dict)] if isinstance(rows, list) else []
        kept = next((each.get("cached") for each in entries if each.get("default")), None)
        return cls(described, next((size for size in sizes if size), DEFAULT_VALUES), kept)

    @property
    def answers(self) -> str:
        """The datatype of what /infer answers; "" if it is unknown."""
        served = self.described.get("output")
        found = (each.get("datatype") for each in self._tensors("outputs") if each.get("name") == served)
        return str(next(found, ""))

    def questions(self) -> Iterator[Question]:
        """To be tried in turn; never asked before: so the first answer is computed, not remembered."""
        inputs = self._tensors("inputs")
        if not inputs:
            yield {"input_data": _floats(self.values)}
            return
        has_batch = list(self.described.get("input_shape") or [])[:1] == ["batch"]
        shapes = [list(each.get("shape") or [])[has_batch:] for each in inputs]
        for length in LENGTHS if any(size < 0 for shape in shapes for size in shape) else LENGTHS[:1]:
            flat = [
                _values(str(each.get("datatype")), "mask" in str(each.get("name")), _count(shape, length))
                for each, shape in zip(inputs, shapes, strict=True)
            ]
            if len(inputs) == 1 and inputs[0].get("datatype") in FLOATS:
                yield {"input_data": flat[0]}
            else:
                named = zip(inputs, flat, shapes, strict=True)
                yield {"inputs": {str(each.get("name")): _nested(values, _sizes(shape, length))
                                  for each, values, shape in named}}  # fmt: skip

    def _tensors(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.described.get(kind) or [] if isinstance(each, dict)]


def what_is_missing(health: dict[str, Any] | None) -> Line | None:
    """Why a worker has nothing to answer a plain /infer with; None if it has, or does not say."""
    said = health or {}
    if said.get("model") != {} or not isinstance(said.get("models"), list):
        return None
    entries = [each for each in said["models"] if isinstance(each, dict)]
    names = ", ".join(sorted({str(each.get("name")) for each in entries}))
    set_one = "set Tuning > model of /infer in /admin/"
    meant = next((each.get("name") for each in entries if each.get("default")), "")
    wanted = (said.get("settings") or {}).get("default_model") or meant
    if not entries:
        return Line(None, "it has no model", "put one into MODEL_REPOSITORY, then load it")
    if not wanted:
        return Line(None, f"no model of /infer is set, and there are: {names}", f"{set_one}, or name one in requests")
    mine = [each for each in entries if each.get("name") == wanted]
    if not mine:
        detail = f"the model of /infer is {wanted!r}, and this worker has: {names}"
        return Line(False, detail, f"{set_one} to one of them")
    if any(each.get("state") == State.LOADING for each in mine):
        return Line(None, f"{wanted!r}, the model of /infer, is being loaded", "wait, then diagnose again")
    reasons = "; ".join(dict.fromkeys(str(each.get("reason")) for each in mine))
    if reasons == UNLOADED:
        return Line(None, f"{wanted!r}, the model of /infer, is unloaded", "load it in /admin/ to have it served")
    detail = f"{wanted!r}, the model of /infer, is not served: {reasons}"
    return Line(False, detail, "mend its file or record, then load it")


def _sizes(shape: list[int], length: int) -> list[int]:
    return [length if size < 0 else size for size in shape]


def _count(shape: list[int], length: int) -> int:
    return math.prod(_sizes(shape, length))


def _values(datatype: str, is_mask: bool, count: int) -> list[Any]:
    if is_mask:
        return [1] * count
    if datatype in FLOATS:
        return _floats(count)
    # Numbers whose text is itself fit strings, and small ones most tables of ids.
    whole = [random.randint(0, 1 if datatype == "BOOL" else LARGEST_ID) for _ in range(count)]
    return [str(value) for value in whole] if datatype == "BYTES" else whole


def _floats(count: int) -> list[float]:
    return [round(random.uniform(-1, 1), 6) for _ in range(count)]


def _nested(flat: list[Any], sizes: list[int]) -> list[Any]:
    if len(sizes) < 2:
        return flat
    step = math.prod(sizes[1:])
    return [_nested(flat[place * step : (place + 1) * step], sizes[1:]) for place in range(sizes[0])]
