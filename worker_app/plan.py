"""What follows from the head of a V2 ask alone: clients send the same one again and again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from worker_app.samples import Sample
from worker_app.v2ask import View

# Longer heads are read each time, and when there are this many, all are forgotten.
_HEAD_BYTES, _PLANS = 1024, 64


@dataclass(frozen=True, slots=True)
class Plan:
    """How to make a sample of `size` bytes of tensors. A part is where an input lies in them (from, to) with its type
    and shape, or what it is instead."""

    size: int
    parts: tuple[tuple[int, int, np.dtype[Any], tuple[int, ...]] | np.ndarray, ...]
    head: bytes
    rows: int
    group: Hashable
    view: View
    length: int
    bucket: int

    def sample(self, tensors: memoryview) -> Sample:
        """Without a copy of the tensors."""
        arrays: list[np.ndarray] = []
        parts: list[bytes | memoryview] = [self.head]
        for part in self.parts:
            if isinstance(part, np.ndarray):
                arrays.append(part)
                parts.append(part.reshape(-1).data)
            else:
                begin, end, dtype, shape = part
                data = tensors[begin:end]
                arrays.append(np.frombuffer(data, dtype).reshape(shape))
                parts.append(data)
        return Sample(tuple(parts), self.rows, self.group, tuple(arrays), self.view, self.length, self.bucket)


class Plans:
    """Plans by the bytes of the head, for asks whose tensors are all binary numbers."""

    def __init__(self) -> None:
        self._plans: dict[bytes, Plan] = {}

    def find(self, head: memoryview, tensors: memoryview) -> Plan | None:
        """The plan for such an ask."""
        if len(head) > _HEAD_BYTES:
            return None
        plan = self._plans.get(bytes(head))
        return plan if plan is not None and plan.size == len(tensors) else None

    def keep(self, head: memoryview, tensors: memoryview, begins: Mapping[int, int], sample: Sample) -> None:
        """Remembers how a sample was made; `begins` says where each input begins that was sent."""
        if len(head) > _HEAD_BYTES:
            return
        parts = tuple(
            (begins[index], begins[index] + array.nbytes, array.dtype, array.shape) if index in begins else array
            for index, array in enumerate(sample.arrays)
        )
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        self._plans[bytes(head)] = Plan(
            len(tensors),
            parts,
            bytes(sample.parts[0]),
            sample.rows,
            sample.group,
            sample.view,
            sample.length,
            sample.bucket,
        )
