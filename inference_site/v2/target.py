"""What a path of the Open Inference Protocol (V2) asks for."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple
from urllib.parse import unquote


class What(Enum):
    """The calls, each with the verb that it takes; "" for what is no call."""

    SERVER = "GET", "the server's name and what it can do"
    LIVE = "GET", "whether the process runs"
    READY = "GET", "whether it serves"
    MODEL = "GET", "a model's inputs and outputs"
    MODEL_READY = "GET", "whether a model serves"
    CONFIG = "GET", "a model's configuration"
    STATS = "GET", "counts and durations of a model, or of all"
    INFER = "POST", "an inference"
    INDEX = "POST", "a list of the models"
    LOAD = "POST", "the loading of a model"
    UNLOAD = "POST", "the end of a model"
    UNSUPPORTED = "", "a part of the protocol's extensions that is not served here"
    NOTHING = "", "nothing"

    @property
    def verb(self) -> str:
        """The method of its requests."""
        return self.value[0]


class Target(NamedTuple):
    """What is asked of which model; None: of all models, of the newest version."""

    what: What
    name: str | None = None
    version: str | None = None


_ALONE = {
    (): Target(What.SERVER),
    ("health", "live"): Target(What.LIVE),
    ("health", "ready"): Target(What.READY),
    ("models", "stats"): Target(What.STATS),
    ("repository", "index"): Target(What.INDEX),
}
_OF_A_MODEL = {
    (): What.MODEL,
    ("ready",): What.MODEL_READY,
    ("config",): What.CONFIG,
    ("stats",): What.STATS,
    ("infer",): What.INFER,
    ("trace", "setting"): What.UNSUPPORTED,
    ("generate",): What.UNSUPPORTED,
    ("generate_stream",): What.UNSUPPORTED,
}
_OF_THE_REPOSITORY = {"load": What.LOAD, "unload": What.UNLOAD}
_UNSUPPORTED = ("systemsharedmemory", "cudasharedmemory", "trace", "logging")


def is_v2(url: bytes) -> bool:
    """Whether a request's target is /v2 or below it, with or without a query."""
    return url[:3] == b"/v2" and url[3:4] in (b"", b"/", b"?")


def target_of(path: str) -> Target:
    """What a path asks for, which begins with /v2 and is as a request line has it; a query in it decides nothing."""
    _, _, *parts = (unquote(part) for part in path.partition("?")[0].split("/"))
    match parts:
        case ["models", name, "versions", version, *rest] if name and version:
            return Target(_OF_A_MODEL.get(tuple(rest), What.NOTHING), name, version)
        case ["models", name, *rest] if name and parts != ["models", "stats"]:
            return Target(_OF_A_MODEL.get(tuple(rest), What.NOTHING), name)
        case ["repository", "models", name, verb] if name and verb in _OF_THE_REPOSITORY:
            return Target(_OF_THE_REPOSITORY[verb], name)
        case [first, *_] if first in _UNSUPPORTED:
            return Target(What.UNSUPPORTED)
    return _ALONE.get(tuple(parts), Target(What.NOTHING))
