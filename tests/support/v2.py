"""The Open Inference Protocol without a client library: whole requests as bytes, answers as they come."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.support.http import request
from tests.support.repository import mark_of
from tests.support.waiting import PATIENCE_S

LOAD_WITHIN_S = 150.0  # a gateway says after 120 s how far it has come


def call(url: str, path: str, body: object = None, *, timeout_s: float = PATIENCE_S) -> tuple[int, Any]:
    """Status and answer of a POST."""
    data = b"" if body is None else json.dumps(body).encode()
    status, answer = request("POST", f"{url}/v2/{path}", data, timeout_s=timeout_s)
    return status, json.loads(answer) if answer else None


def load(url: str, name: str) -> tuple[int, Any]:
    """Returns when the model's newest version is served, or with why it is not."""
    return call(url, f"repository/models/{name}/load", timeout_s=LOAD_WITHIN_S)


def unload(url: str, name: str) -> tuple[int, Any]:
    return call(url, f"repository/models/{name}/unload", timeout_s=LOAD_WITHIN_S)


def index(url: str) -> dict[tuple[str, str], str]:
    """The state of each version of each model."""
    status, found = call(url, "repository/index")
    assert status == 200, found
    return {(each["name"], each["version"]): each["state"] for each in found}


def infer(url: str, model: str, values: Sequence[float], version: str = "") -> tuple[int, Any]:
    """One row for a model with `input` FP32 [batch, n], as JSON."""
    inputs = [{"name": "input", "shape": [1, len(values)], "datatype": "FP32", "data": list(values)}]
    path = f"models/{model}/versions/{version}/infer" if version else f"models/{model}/infer"
    return call(url, path, {"inputs": inputs})


@dataclass
class Marks:
    """Who gave each answer to the cases that share it, in the order of the sender's answers."""

    allowed: set[int]
    seen: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MarkedCase:
    """Values for a model of repository.marked, for a Sender: right are the answers of all versions that are allowed.

    `form` is "flat" (`input_data`), "named" (`inputs`), "json" or "binary" (both V2).
    """

    model: str
    values: tuple[float, ...]
    form: str
    marks: Marks
    status: int = 200
    code: str = ""

    def request(self, ident: str, host: str) -> bytes:
        """The whole request."""
        headers = ""
        values = list(self.values)
        if self.form in ("flat", "named"):
            path = "/infer"
            given = {"input_data": values} if self.form == "flat" else {"inputs": {"input": values}}
            body = json.dumps({"request_id": ident, "model": self.model, **given}).encode()
        else:
            path = f"/v2/models/{self.model}/infer"
            tensor: dict[str, Any] = {"name": "input", "shape": [1, len(values)], "datatype": "FP32"}
            if self.form == "json":
                body = json.dumps({"id": ident, "inputs": [tensor | {"data": values}]}).encode()
            else:
                raw = np.array(values, "<f4").tobytes()
                tensor["parameters"] = {"binary_data_size": len(raw)}
                text = json.dumps({"id": ident, "inputs": [tensor]}).encode()
                headers = f"Inference-Header-Content-Length: {len(text)}\r\n"
                body = text + raw
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def fault_of(self, ident: str, status: int, head: bytes, answer: dict[str, Any], allow_503: bool = False) -> str:
        """What is wrong with an answer to it; "" if nothing."""
        if status != 200:
            return f"{status} {answer}"
        if self.form in ("flat", "named"):
            found, output = answer["request_id"], answer["output_data"]
        else:
            found, output = answer["id"], answer["outputs"][0]["data"]
        if found != ident:
            return f"it was for {found!r}, not {ident!r}"
        mark = mark_of(self.values, output)
        if mark not in self.marks.allowed:
            return f"{output} for {self.values} is the answer of {mark}, not of {self.marks.allowed}"
        self.marks.seen.append(mark)
        return ""
