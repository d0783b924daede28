"""What a worker says of its models, as MODELS carries it, and what it is to do with them, as SETTINGS does."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from inference_site.lib.record import Record


class State(StrEnum):
    """Of one version of a model, named as the Open Inference Protocol does."""

    READY = "READY"
    LOADING = "LOADING"
    UNAVAILABLE = "UNAVAILABLE"


class TensorInfo(msgspec.Struct, frozen=True):
    """An input or an output. `shape` has the batch axis, if there is one, and -1 for each size that may vary."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model in one worker.

    `number` names it in frames, from 1 to 65,535; a process uses each only once. It is 0 for what can't be asked: what
    is being loaded, or could not be.
    """

    number: int
    name: str
    version: str
    state: State
    reason: str = ""
    digest: str = ""  # of the file, and of what its record says about answers: equal ones give equal answers
    current: bool = True  # False: it is loaded only until no gateway uses it any more
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    output: str = ""  # that /infer serves
    batches: bool = False  # the first axis of every input and output is the batch
    max_batch_size: int = 0  # rows; 0 if it does not batch
    max_wait_us: int = 0  # that a request waits for its batch
    cached: bool = True
    deadline_ms: int | None = None  # of a request that names none; None: what is usual
    provider: str = ""


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """All models of a worker. `revision` is the configuration that they follow; `default` is the one of MODEL_PATH."""

    revision: int
    default: str
    models: tuple[ModelInfo, ...]


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an operator wants of one model; a model without settings is loaded in its newest version."""

    loaded: bool = True
    order: int = 0  # when it changes, the worker looks for new versions, and for changes of the files it has
    versions: tuple[str, ...] = ()  # to be loaded; none: the newest
    record: Record = Record()


_SPREADS = ("success_spread", "queue_spread", "compute_spread")


class Statistics(msgspec.Struct, kw_only=True):
    """What one version of a model has done in one process, or in several together. Durations are nanoseconds, summed
    over requests; `inferences` are rows and `executions` batches, without cache hits. A `_spread` counts the requests
    by how long it was for each: at n, those of 2**(n-1) to 2**n nanoseconds."""

    success: int = 0
    success_ns: int = 0
    success_spread: dict[int, int] = {}
    fail: int = 0
    fail_ns: int = 0
    fail_late: int = 0  # of those that failed: their time had passed when it was their turn
    fail_engine: int = 0  # the model could not be run
    queue_ns: int = 0
    queue_spread: dict[int, int] = {}
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    compute_spread: dict[int, int] = {}  # of the three together
    computed: int = 0  # requests that were computed, of which the four durations above are
    cache_hits: int = 0
    cache_hit_ns: int = 0
    cache_misses: int = 0
    cache_miss_ns: int = 0
    cache_evictions: int = 0  # results that were forgotten for want of room
    inferences: int = 0
    executions: int = 0
    last_inference_ms: int = 0  # when the last batch ended, in milliseconds since 1970
    batches: dict[int, tuple[int, int]] = {}  # by size in rows: how many, and nanoseconds of computing

    def add(self, other: Statistics) -> None:
        """Adds another process's."""
        for name in self.__struct_fields__:
            if name in _SPREADS:
                spread = getattr(self, name)
                for bits, count in getattr(other, name).items():
                    spread[bits] = spread.get(bits, 0) + count
            elif name not in ("last_inference_ms", "batches"):
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self.last_inference_ms = max(self.last_inference_ms, other.last_inference_ms)
        for size, (count, ns) in other.batches.items():
            before = self.batches.get(size, (0, 0))
            self.batches[size] = before[0] + count, before[1] + ns
