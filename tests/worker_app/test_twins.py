"""Near twins never share an answer: 100,000 requests that differ in little, asked of the real engine in bursts, so that
they meet each other in batches, in flight and in the caches of a worker, and in those of a gateway before it."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from gateway_app.core.call import Call
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring
from gateway_app.core.router import Router
from gateway_app.face import Face
from gateway_app.inference import Inference
from inference_site.lib.asks import seed_of
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.support import twins
from tests.support.twins import Twin
from tests.support.waiting import PATIENCE_S
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
        # The cache forgets: what comes back is computed anew, and is to be the same. No queue is ever full.
        settings = NodeSettings(cache_entries=200, queue_ms=3_600_000.0)
        found[name, version] = Model(engine, number=number, settings=settings)
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
        self.caches: Counter[str] = Counter()
        self.refused = 0
        self.waiting = 0
        self.done = asyncio.Event()

    def reply(self, token: object, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int) -> None:
        assert isinstance(token, Twin)
        self.judge(token, status, payload, cache.name.lower())

    def judge(self, twin: Twin, status: int, payload: bytes, cache: str) -> None:
        self.waiting -= 1
        if not self.waiting:
            self.done.set()
        if twin.wrong:
            self.refused += 1
            fault = "" if status == 422 else f"{status} instead of a refusal"
        elif status == 200:
            self.caches[cache] += 1
            fault = twin.fault_of(payload)
        else:
            fault = f"{status} {payload!r}"
        if fault:
            self.faults.append(f"{twin}: {fault}")


class Client:
    """Who asked a gateway."""

    def __init__(self, judge: Judge, twin: Twin) -> None:
        self._judge = judge
        self._twin = twin

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        cache = headers.partition(b"x-cache: ")[2].partition(b"\r")[0].decode()
        self._judge.judge(self._twin, 200, output, cache)

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        self._judge.judge(self._twin, error.status, error.message.encode(), "")


class Link:
    """A gateway's caches before one model of a worker; what is sent arrives in the next turn of the loop."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.router = Router(time.monotonic)
        self.router.configure(Ring({"worker_1": 1.0}, 10, xxh3_64_intdigest), (), Policy(load_factor=0.0))
        self.router.routes["worker_1"].link = self
        self.router.routes["worker_1"].up = True
        seed = seed_of(model.name, model.version)
        self.inference = Inference(self.router, time.monotonic, {"worker_1": Face("worker_1")}, seed)
        self.inference.serve({"worker_1": model.engine.digest})

    def send(self, call: Call) -> None:
        """Router's `Link`."""
        asyncio.get_running_loop().call_soon(self._model.ask, call.payload, call, self._reply)

    def withdraw(self, call: Call) -> None:
        """Router's `Link`."""

    def pending(self) -> list[Call]:
        """Router's `Link`."""
        return []

    def _reply(self, token: object, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int) -> None:
        assert isinstance(token, Call)
        self.router.answered(token, kind, cache, status, payload, time_us)


async def test_near_twins_never_share_an_answer(models: Models) -> None:
    judge = Judge()

    def ask(twin: Twin, payload: bytes) -> None:
        models[twin.model, twin.version].ask(payload, twin, judge.reply)

    await ask_all(judge, ask)
    # Each way to an answer was taken often.
    assert min(judge.caches[each] for each in ("miss", "hit", "joined")) > COUNT / 100, judge.caches
    sizes = {size for model in models.values() for size in model.tally.statistics.batches}
    assert max(sizes) > 8, "no batches were formed"


async def test_nor_do_they_in_a_gateway(models: Models) -> None:
    judge = Judge()
    links = {key: Link(model) for key, model in models.items()}

    def ask(twin: Twin, payload: bytes) -> None:
        links[twin.model, twin.version].inference.ask(payload, Client(judge, twin))

    await ask_all(judge, ask)
    assert min(judge.caches[each] for each in ("miss", "hit", "joined", "gateway")) > COUNT / 100, judge.caches


async def ask_all(judge: Judge, ask: Callable[[Twin, bytes], None]) -> None:
    """In bursts; returns when all have been answered, each rightly."""
    rng = random.Random(1)
    requests = twins.sequence(COUNT, seed=1)
    payloads = {twin: twin.ask() for twin in set(requests)}
    place = 0
    while place < COUNT:
        burst = requests[place : place + rng.choice((1, 5, 50, 200))]
        place += len(burst)
        judge.waiting += len(burst)
        judge.done.clear()
        for twin in burst:
            ask(twin, payloads[twin])
        await asyncio.wait_for(judge.done.wait(), PATIENCE_S)
    assert not judge.faults, f"{len(judge.faults)} wrong; {judge.faults[:3]}"
    assert sum(judge.caches.values()) + judge.refused == COUNT
