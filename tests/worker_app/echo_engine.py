"""An engine whose answer is the sample itself, so that an answer given to the wrong asker shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson

from inference_site.lib.catalog import TensorInfo
from inference_site.lib.errors import ApiError
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.support.waiting import PATIENCE_S
from worker_app.engine import Engine, EngineError, Run
from worker_app.model import Model
from worker_app.node import Node
from worker_app.reader import Reader
from worker_app.results import encode_text, encode_v2
from worker_app.samples import Sample
from worker_app.signature import Signature, Tensor


class EchoEngine:
    """Stands in for `Engine`. `runs` keeps what each run was given, from its beginning on; `raises` and `refuses` make
    it fail, `hold` makes runs last until a test lets them end."""

    provider = "EchoExecutionProvider"
    fallback_reason = ""

    def __init__(
        self,
        values: int | None = 4,
        *,
        takes_s: float = 0.0,
        name: str = "echo",
        version: str = "1",
        sessions: int = 1,
        digest: str = "0" * 64,
    ) -> None:
        dims = ("batch", values)
        self._signature = Signature((Tensor("input", "FP32", dims),), (Tensor("output", "FP32", dims),), True)
        self.name, self.version, self.digest = name, version, digest
        self.path = Path(f"{name}.onnx")
        self.record = Record(name=name)
        self.inputs: tuple[TensorInfo, ...] = tuple(each.info for each in self._signature.inputs)
        self.outputs: tuple[TensorInfo, ...] = tuple(each.info for each in self._signature.outputs)
        self.output = "output"
        self.batches = True
        self.sessions = sessions
        self.read = Reader(self._signature).read
        self.cold = False
        self.probe = orjson.dumps([0] * (values or 1))
        self.takes_s = takes_s
        self.fixed_s, self.each_s = takes_s, 0.0
        self.typical_s = takes_s  # what the model looks at to choose between the loop and the thread
        self.runs: list[list[bytes]] = []
        self.slots: list[int] = []  # the session of each run
        self.shrunk = 0
        self.raises: Exception | None = None
        self.refuses: dict[bytes, ApiError | EngineError] = {}
        self._held: threading.Semaphore | None = None

    def run(self, samples: Sequence[Sample], session: int = 0) -> Run:
        """The samples as JSON."""
        data = [sample.arrays[0].tobytes() for sample in samples]
        self.runs.append(data)
        self.slots.append(session)
        if (held := self._held) is not None:
            assert held.acquire(timeout=PATIENCE_S), "no test has let it end"
        if self.takes_s:
            time.sleep(self.takes_s)
        if self.raises is not None:
            raise self.raises
        results = [self.refuses.get(each) or self._answer(sample) for each, sample in zip(data, samples, strict=True)]
        return Run(results, 1000, 2000, 3000)

    def hold(self) -> None:
        """Runs that begin from now on end when they are let."""
        self.typical_s = 1.0  # it would not run on the loop
        self._held = threading.Semaphore(0)

    def let_end(self, runs: int) -> None:
        """So many runs end, of those that are held or will be."""
        assert self._held is not None
        self._held.release(runs)

    def release(self) -> None:
        """All that are held end, and no others are held."""
        held, self._held = self._held, None
        assert held is not None
        held.release(self.sessions)

    def shrink(self) -> None:
        """Counts."""
        self.shrunk += 1

    def describe(self) -> dict[str, Any]:
        """For `/health`."""
        return {"name": self.name}

    def _answer(self, sample: Sample) -> bytes:
        if sample.view is None:
            return encode_text(sample.arrays[0])
        return encode_v2(sample.view, {0: sample.arrays[0]}, self._signature.outputs)

    @property
    def ran(self) -> int:
        """Samples run so far."""
        return sum(map(len, self.runs))


def echo(sample: bytes) -> bytes:
    """What `EchoEngine` answers to a sample."""
    return orjson.dumps(np.frombuffer(sample, "f4"), option=orjson.OPT_SERIALIZE_NUMPY)


ANY_WAIT_MS = 3_600_000.0  # nothing is refused because a machine is slow


def echo_model(engine: EchoEngine | None = None, record: Record | None = None, **settings: Any) -> Model:
    """A model around an echo engine; requests may wait for as long as they must unless `queue_ms` is given."""
    found = NodeSettings(**{"queue_ms": ANY_WAIT_MS, **settings})
    return Model(cast(Engine, engine or EchoEngine()), settings=found, record=record)


def echo_node(*engines: EchoEngine, name: str = "worker_1", **settings: Any) -> Node:
    """A node with a model around each of these echo engines, or around one; numbered from 1."""
    node = Node(name, settings=NodeSettings(**{"queue_ms": ANY_WAIT_MS, **settings}))
    for engine in engines or (EchoEngine(),):
        node.add(cast(Engine, engine))
    return node
