"""A simulated fleet: the real gateway code over workers in virtual time, so that a minute of ten workers is seconds.

Real are Inference, HotCache, Router, Breaker, Table, Ring, LRU and Batcher; modelled are the network (a fixed delay),
the worker's loop (one thing after the other) and its engine (so long a batch, so long a sample of it). Not modelled:
the gateway's own computing, which is the same whatever is compared.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from bench.tally import Tally
from gateway_app.core.call import Call, Owners
from gateway_app.core.policy import Policy
from gateway_app.core.router import Router
from gateway_app.face import Face
from gateway_app.infercall import InferCall
from gateway_app.inference import Inference
from inference_site.lib.frames import Cache, Tell
from inference_site.plain import PlainAsker
from worker_app.core.batcher import Batcher
from worker_app.core.lru import LRU

TICK_S = 0.02
SAMPLE_S = 0.005
_OUTPUT = b"[0.5]"


class Events:
    """What happens when. `now` is the virtual time in seconds: pass it on as the clock."""

    def __init__(self) -> None:
        self.time = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()

    def now(self) -> float:
        """The clock."""
        return self.time

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Calls the action later; those of the same moment in the order they were asked for."""
        heapq.heappush(self._heap, (self.time + delay_s, next(self._order), action, arguments))

    def run(self, until_s: float) -> None:
        """Lets time pass."""
        while self._heap and self._heap[0][0] <= until_s:
            self.time, _, action, arguments = heapq.heappop(self._heap)
            action(*arguments)
        self.time = until_s


@dataclass(frozen=True, slots=True)
class Costs:
    """What takes how long, in seconds."""

    hop_s: float = 100e-6  # gateway to worker, or back
    take_s: float = 20e-6  # of the worker's loop for each request
    batch_s: float = 4e-3  # of the engine for each batch
    sample_s: float = 1e-3  # and for each sample in it


@dataclass(slots=True)
class Worker:
    """One worker process: a loop that takes requests, a cache, joined work, batches, and one engine."""

    name: str
    events: Events
    costs: Costs
    cache_entries: int
    fails: Callable[[], bool] = lambda: False
    stall_s: Callable[[], float] = lambda: 0.0  # what the next batch takes on top
    slow: float = 1.0  # times what a batch takes
    inferences: int = 0
    results: LRU[bytes, bytes] = field(init=False)
    batcher: Batcher[bytes] = field(init=False)
    _waiters: dict[bytes, list[Callable[[Tell, Cache], None]]] = field(default_factory=dict)
    _loop_free_at: float = 0.0
    _running: bool = False

    def __post_init__(self) -> None:
        self.results = LRU(self.cache_entries, 2**40)
        self.batcher = Batcher(self.events.now, max_size=32, wait_s=0.02)

    def take(self, text: bytes, reply: Callable[[Tell, Cache], None]) -> None:
        """A request has come over the network."""
        self._loop_free_at = max(self._loop_free_at, self.events.time) + self.costs.take_s
        self.events.after(self._loop_free_at - self.events.time, self._look_up, text, reply)

    @property
    def backlog_s(self) -> float:
        """How long a request that comes now waits for the loop."""
        return max(0.0, self._loop_free_at - self.events.time)

    def _look_up(self, text: bytes, reply: Callable[[Tell, Cache], None]) -> None:
        if self.fails():
            reply(Tell.FAILED, Cache.MISS)
        elif self.results.get(text) is not None:
            reply(Tell.RESULT, Cache.HIT)
        elif text in self._waiters:
            self._waiters[text].append(reply)
        elif self.batcher.put(text):
            self._waiters[text] = [reply]
            if not self._running:
                self._run()
        else:
            reply(Tell.BUSY, Cache.MISS)

    def _run(self) -> None:
        batch = self.batcher.take()
        self._running = bool(batch)
        if batch:
            self.inferences += len(batch)
            took_s = (self.costs.batch_s + self.costs.sample_s * len(batch)) * self.slow + self.stall_s()
            self.events.after(took_s, self._ran, batch)

    def _ran(self, batch: list[bytes]) -> None:
        for text in batch:
            self.results.put(text, _OUTPUT, len(text))
            cache = Cache.MISS
            for reply in self._waiters.pop(text):
                reply(Tell.RESULT, cache)
                cache = Cache.JOINED
        self._run()


class Link:
    """A router's way to a simulated worker."""

    def __init__(self, router: Router, worker: Worker) -> None:
        self.router = router
        self.worker = worker
        self.sent = 0
        self._calls: dict[Call, int] = {}

    def send(self, call: Call) -> None:
        """Router's `Link`."""
        self.sent += 1
        self._calls[call] = self.sent
        hop_s, number = self.worker.costs.hop_s, self.sent

        def reply(kind: Tell, cache: Cache) -> None:
            self.worker.events.after(hop_s, self._answered, call, number, kind, cache)

        self.worker.events.after(hop_s, self.worker.take, call.payload, reply)

    def withdraw(self, call: Call) -> None:
        """Router's `Link`. The worker computes it all the same: the dearer case."""
        self._calls.pop(call, None)

    def pending(self) -> Iterable[Call]:
        """Router's `Link`."""
        return tuple(self._calls)

    def _answered(self, call: Call, number: int, kind: Tell, cache: Cache) -> None:
        if self._calls.get(call) == number:
            del self._calls[call]
            self.router.answered(call, kind, cache, 200 if kind is Tell.RESULT else 503, _OUTPUT, 0)


class Joinless(dict[int, InferCall]):
    """In the place of an Inference's calls in flight: nothing can be joined."""

    def get(self, key: int, default: Any = None) -> Any:
        """Nothing."""
        return default


class Fleet:
    """A gateway and its workers. `infer` is what a client does; `tally` is what it sees."""

    def __init__(
        self,
        owners: Owners,
        policy: Policy,
        *,
        costs: Costs = Costs(),
        cache_entries: int = 1000,
        hot: bool = True,
        joining: bool = True,
    ) -> None:
        self.events = Events()
        self.tally = Tally()
        self.router = Router(self.events.now)
        self.inference = Inference(self.router, self.events.now, {name: Face(name) for name in owners.weights})
        if not joining:
            self.inference._flying = Joinless()
        self.inference.use_hot_cache(hot)
        self.router.configure(owners, (), policy)
        self.workers = {name: Worker(name, self.events, costs, cache_entries) for name in owners.weights}
        self.links = {name: Link(self.router, worker) for name, worker in self.workers.items()}
        self.inference.serve(dict.fromkeys(self.links, "model"))
        for name, link in self.links.items():
            self.router.routes[name].link, self.router.routes[name].up = link, True
        self.events.after(TICK_S, self._tick)
        self.events.after(SAMPLE_S, self._sample)

    @property
    def sent(self) -> int:
        """Requests that workers were sent so far."""
        return sum(link.sent for link in self.links.values())

    @property
    def inferences(self) -> int:
        """Samples that engines have run so far."""
        return sum(worker.inferences for worker in self.workers.values())

    def infer(self, number: int) -> None:
        """A client sends the input of this number."""
        began, tally = self.events.time, self.tally

        def answer(status: int, head: bytes, body: bytes) -> None:
            tally.answered(status, head, self.events.time - began)

        self.inference.ask(b"[%d]" % number, PlainAsker("r", answer))

    def play(self, arrivals: Iterator[tuple[float, int]]) -> None:
        """Sends an input at each of these times, from now on, as the time comes."""
        found = next(arrivals, None)
        if found is not None:
            self.events.after(found[0] - self.events.time, self._arrive, found[1], arrivals)

    def _arrive(self, number: int, arrivals: Iterator[tuple[float, int]]) -> None:
        self.play(arrivals)
        self.infer(number)

    def _tick(self) -> None:
        self.router.tick()
        self.events.after(TICK_S, self._tick)

    def _sample(self) -> None:
        self.tally.sample([route.in_flight for route in self.router.routes.values()])
        self.events.after(SAMPLE_S, self._sample)
