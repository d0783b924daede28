"""An engine whose answer is the sample itself, so that an answer given to the wrong asker shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import orjson

from inference_site.lib.errors import ApiError
from inference_site.lib.nodesettings import NodeSettings
from worker_app.engine import Engine, EngineError
from worker_app.node import Node
from worker_app.record import Record
from worker_app.samples import InputSpec


class EchoEngine:
    """Stands in for `Engine`. `batches` keeps what each run was given; `raises` and `refuses` make it fail."""

    provider = "EchoExecutionProvider"
    fallback_reason = ""
    digest = "0" * 64

    def __init__(self, values: int | None = 4, *, takes_s: float = 0.0) -> None:
        self.input = InputSpec("input", np.dtype("f4"), (values,))
        self.record = Record(name="echo")
        self.zeros = bytes(4 * (values or 1))
        self.takes_s = takes_s
        self.fixed_s, self.each_s = takes_s, 0.0
        self.typical_s = takes_s  # what the node looks at to choose between the loop and the thread
        self.batches: list[list[bytes]] = []
        self.raises: Exception | None = None
        self.refuses: dict[bytes, ApiError | EngineError] = {}

    def run(self, samples: Sequence[bytes]) -> list[bytes | ApiError | EngineError]:
        """The samples as JSON."""
        self.batches.append(list(samples))
        if self.takes_s:
            time.sleep(self.takes_s)
        if self.raises is not None:
            raise self.raises
        return [self.refuses.get(sample) or echo(sample) for sample in samples]

    def describe(self) -> dict[str, Any]:
        """For `/health`."""
        return {"name": "echo"}

    @property
    def ran(self) -> int:
        """Samples run so far."""
        return sum(map(len, self.batches))


def echo(sample: bytes) -> bytes:
    """What `EchoEngine` answers to a sample."""
    return orjson.dumps(np.frombuffer(sample, "f4"), option=orjson.OPT_SERIALIZE_NUMPY)


def echo_node(engine: EchoEngine | None = None, name: str = "worker_1", **settings: Any) -> Node:
    """A node around an echo engine."""
    return Node(name, cast(Engine, engine or EchoEngine()), NodeSettings(**settings))
