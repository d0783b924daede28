"""What onnxruntime itself answers, with no server in between: what every answer is compared with."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Case:
    """An input_data as JSON text, and what must come back: these numbers, or this refusal."""

    text: bytes
    expected: NDArray[np.float32] | None = None
    status: int = 200
    code: str = ""

    def request(self, ident: str, host: str) -> bytes:
        """The whole `POST /infer`."""
        body = b'{"request_id":"%b","input_data":%b}' % (ident.encode(), self.text)
        return b"POST /infer HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n%b" % (host.encode(), len(body), body)

    def fault_of(self, ident: str, status: int, head: bytes, answer: dict[str, Any], allow_503: bool = False) -> str:
        """What is wrong with an answer to it, whose head is given in lower case; "" if nothing."""
        if answer.get("request_id") != ident:
            return f"it was for {answer.get('request_id')!r}, not {ident!r}"
        if status != 200:
            if not (isinstance(answer.get("error"), str) and isinstance(answer.get("code"), str)):
                return f"not the shape of an error: {answer}"
            if status == 503 and allow_503:
                return "" if b"\r\nretry-after: " in head else "a 503 without Retry-After"
        if (status, answer.get("code", "")) != (self.status, self.code):
            return f"{status} {answer} instead of {self.status} {self.code}"
        if self.expected is None:
            return ""
        got = np.array(answer["output_data"], np.float64)
        if got.shape != self.expected.shape:
            return f"{got.shape} instead of {self.expected.shape}"
        wrong = np.abs(got - self.expected) > TOLERANCE * np.maximum(1.0, np.abs(self.expected))
        return f"{got[:8]} instead of {self.expected[:8]}" if wrong.any() else ""


class Oracle:
    """What onnxruntime itself answers, with no server in between: the first float output of a model of one input."""

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        self._output = next(each.name for each in self._session.get_outputs() if each.type == "tensor(float)")
        self.size = math.prod(self._input.shape[1:])

    def answers(self, rows: Sequence[Sequence[float]]) -> list[NDArray[np.float32]]:
        """One for each row; a short row is padded with zeros."""
        batch = np.zeros((len(rows), self.size), np.float32)
        for number, row in enumerate(rows):
            batch[number, : len(row)] = row
        at_once = 1 if self._input.shape[0] == 1 else len(rows)
        parts = [batch[start : start + at_once] for start in range(0, len(rows), at_once)]
        found = [
            self._session.run([self._output], {self._input.name: part.reshape(-1, *self._input.shape[1:])})[0]
            for part in parts
        ]
        return list(np.concatenate(found).reshape(len(rows), -1))

    def cases(self, rows: Iterable[Sequence[float]]) -> list[Case]:
        values = [[float(value) for value in row] for row in rows]
        return [
            Case(json.dumps(row).encode(), answer) for row, answer in zip(values, self.answers(values), strict=True)
        ]

    def random_cases(
        self, count: int, seed: int, *, size: int | None = None, low: float = -1.0, high: float = 1.0
    ) -> list[Case]:
        """Cases of `size` values (default: as many as the model takes), none like another."""
        rng = np.random.default_rng(seed)
        return self.cases(rng.uniform(low, high, (count, size or self.size)).round(4).tolist())
