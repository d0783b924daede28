"""A cluster in which one worker tries another version of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway_app.canaries.trial import Trial
from inference_site.lib import frames
from inference_site.lib.asks import key_of, seed_of
from inference_site.lib.catalog import ModelSettings
from inference_site.lib.frames import Tell
from tests.gateway_app.lineup import Cluster
from tests.gateway_app.scripted import ScriptedWorker, ready

CANARY = "worker_2"
TRIAL = Trial(CANARY, {}, "echo", "2")
ONE, BOTH = ready(1), (ready(1), ready(2, version="2", digest="new"))


async def start(cluster: Cluster, *, trying: bool = True) -> None:
    """All have version 1, and the canary's worker has version 2 too."""
    await cluster.start(ready(1))
    settings = {"echo": ModelSettings(versions=("1",))}
    cluster.configure(models=settings, canary=TRIAL if trying else None)
    if trying:
        await cluster.tell(CANARY, *BOTH)


def inputs_of(cluster: Cluster, count: int = 60) -> tuple[list[bytes], list[bytes]]:
    """Inputs whose keys the canary's worker owns, and others."""
    found: tuple[list[bytes], list[bytes]] = [], []
    for number in range(100_000):
        text = b"[%d]" % number
        owner = cluster.gateway.table.owners(key_of(text, seed_of("echo", "1")))[0]
        part = found[owner != CANARY]
        if len(part) < count:
            part.append(text)
        if len(found[0]) == len(found[1]) == count:
            return found
    raise AssertionError("the canary's worker owns next to nothing")


async def versions(cluster: Cluster, texts: list[bytes], **which: Any) -> set[str]:
    """Those that have answered."""
    return {(await cluster.answer(text, **which))[1] for text in texts}


# What a worker may say instead of an answer.
NO: dict[str, Callable[[int], bytes]] = {
    "refused": lambda ident: frames.tell(Tell.REFUSED, ident, b'{"error":"4 values are expected","code":"x"}', 422),
    "failed": lambda ident: frames.tell(Tell.FAILED, ident, b"out of memory", 503),
    "full": lambda ident: frames.tell(Tell.BUSY, ident, b"", 503, 0, 20_000_000),
    "too late": lambda ident: frames.tell(Tell.EXPIRED, ident, b"", 504),
    "gone": lambda ident: frames.tell(Tell.GONE, ident, b"", 404),
}


def answers_no(worker: ScriptedWorker, kind: str) -> None:
    """To the new version alone."""
    worker.instead = lambda number, ident: NO[kind](ident) if number == 2 else None
