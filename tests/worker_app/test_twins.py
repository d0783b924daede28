"""Near twins never share an answer: 100,000 requests that differ in little, asked of the real engine in bursts, so that
they meet each other in batches, in flight and in the cache."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from inference_site.lib.frames import Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.support import twins
from tests.support.twins import Twin
from worker_app.consumers import run_batches
from worker_app.engine import Engine
from worker_app.model import Model

COUNT = 100_000
Models = dict[tuple[str, str], Model]


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[Models]:
    """Every model and version of the twins."""
    found: Models = {}
    for number, ((name, version), make) in enumerate(twins.models().items(), 1):
        record = Record(output="output" if name.startswith("echo") else None)
        engine = Engine(make(tmp_path / f"{name}-{version}.onnx"), record, name=name, version=version)
        # The cache forgets: what comes back is computed anew, and is to be the same.
        found[name, version] = Model(engine, number=number, settings=NodeSettings(cache_entries=200))
    tasks = [asyncio.create_task(run_batches(model)) for model in found.values()]
    yield found
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    for model in found.values():
        model.close()


class Judge:
    """Takes answers, each of which must be the right one to its request."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.caches: Counter[Cache] = Counter()
        self.refused = 0
        self.waiting = 0
        self.done = asyncio.Event()

    def reply(self, token: object, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int) -> None:
        assert isinstance(token, Twin)
        self.waiting -= 1
        if not self.waiting:
            self.done.set()
        if token.wrong:
            self.refused += 1
            fault = "" if (kind, status) == (Tell.REFUSED, 422) else f"{kind!r} {status} instead of a refusal"
        elif kind == Tell.RESULT:
            self.caches[cache] += 1
            fault = token.fault_of(payload)
        else:
            fault = f"{kind!r} {status} {payload!r}"
        if fault:
            self.faults.append(f"{token}: {fault}")


async def test_near_twins_never_share_an_answer(models: Models) -> None:
    judge, rng = Judge(), random.Random(1)
    requests = twins.sequence(COUNT, seed=1)
    payloads = {twin: twin.ask() for twin in set(requests)}
    place = 0
    while place < COUNT:
        burst = requests[place : place + rng.choice((1, 5, 50, 200))]
        place += len(burst)
        judge.waiting += len(burst)
        judge.done.clear()
        for twin in burst:
            models[twin.model, twin.version].ask(payloads[twin], twin, judge.reply)
        await asyncio.wait_for(judge.done.wait(), 10)
    assert not judge.faults, f"{len(judge.faults)} wrong; {judge.faults[:3]}"
    assert sum(judge.caches.values()) + judge.refused == COUNT
    # Each way to an answer was taken often.
    assert min(judge.caches[each] for each in Cache) > COUNT / 100, judge.caches
    sizes = Counter[int]()
    for model in models.values():
        sizes.update(model.tally.statistics.batches.keys())
    assert max(sizes) > 8, "no batches were formed"
