"""A router over links that answer when a test says so, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from xxhash import xxh3_64_intdigest

from gateway_app.core.breaker import BreakerConfig, State
from gateway_app.core.call import Call, Hedge, Route
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring
from gateway_app.core.router import Router
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Cache, Tell

TIMEOUT_S = 10.0
QUICK = BreakerConfig(failure_threshold=3, success_threshold=2, open_s=5.0, error_ratio=0.0)
PATIENT = BreakerConfig(failure_threshold=10**6, error_ratio=0.0)  # opens for nothing that a few calls do
PLAIN = Policy(QUICK, TIMEOUT_S, load_factor=0.0, hedging=False, slow_factor=0.0, slow_start_s=0.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class RecordingCall(Call):
    """Keeps every outcome that it is told, and the worker of every attempt."""

    def __init__(self, key: int, payload: bytes = b"[1]", timeout_s: float = 0.0) -> None:
        super().__init__(key, payload, timeout_s)
        self.outcomes: list[tuple[str, Any]] = []
        self.sent_to: list[Route] = []
        self.full = 0  # workers that said so
        self.cancelled = False

    def on_result(self, cache: int, payload: bytes, time_us: int) -> None:
        self.outcomes.append(("result", payload))

    def on_refusal(self, status: int, payload: bytes) -> None:
        self.outcomes.append(("refusal", status))

    def on_error(self, error: ApiError) -> None:
        self.outcomes.append(("error", error))

    @property
    def error(self) -> ApiError:
        ((kind, error),) = self.outcomes
        assert kind == "error"
        assert isinstance(error, ApiError)
        return error


def original(call: Call) -> RecordingCall:
    """The call that an attempt is for."""
    found = call.first if isinstance(call, Hedge) else call
    assert isinstance(found, RecordingCall)
    return found


class FakeLink:
    """One connection of one route; what it was sent waits until the test answers."""

    def __init__(self, world: World, route: Route) -> None:
        self.world = world
        self.route = route
        self.calls: list[Call] = []
        self.withdrawn: list[Call] = []

    def send(self, call: Call) -> None:
        """Router's `Link`."""
        self.world.sending(self, call)
        original(call).sent_to.append(self.route)
        self.calls.append(call)

    def withdraw(self, call: Call) -> None:
        """Router's `Link`."""
        if call in self.calls:  # not if the connection is lost
            self.calls.remove(call)
            self.withdrawn.append(call)

    def pending(self) -> Iterable[Call]:
        """Router's `Link`."""
        return iter(self.calls)


class World:
    """A router with fake links, and helpers to move it."""

    def __init__(self, names: Iterable[str] = (), policy: Policy = PLAIN) -> None:
        self.clock = Clock()
        self.router = Router(self.clock)
        self.every_route: list[Route] = []
        self.links: list[FakeLink] = []
        self.calls: list[RecordingCall] = []
        self.policy = policy
        self.configure(dict.fromkeys(names, 1.0))
        for name in self.router.routes:
            self.connect(name)

    def sending(self, link: FakeLink, call: Call) -> None:
        """What a test wants to look at before each attempt."""

    def configure(self, weights: dict[str, float], draining: Collection[str] = (), apart: str = "") -> None:
        before = dict(self.router.routes)
        self.router.configure(Ring(weights, 8, xxh3_64_intdigest), draining, self.policy, apart)
        assert set(self.router.routes) == set(weights)
        for name, route in self.router.routes.items():
            assert route is before.get(name, route)  # who stays keeps its breaker and its counts
            if route not in self.every_route:
                self.every_route.append(route)
        for name, route in before.items():
            if name not in weights:
                route.up, route.link = False, None  # what the gateway does before it retires a link

    def connect(self, name: str, instance: str | None = None, last_run: int | None = None) -> FakeLink:
        """A worker's link is ready; without `instance`, it is a new process."""
        route = self.router.routes[name]
        route.link = link = FakeLink(self, route)
        self.links.append(link)
        self.router.presence.came_up(route, f"{name} #{len(self.links)}" if instance is None else instance, last_run)
        return link

    def reconnect(self, name: str) -> FakeLink:
        """The same process is there again."""
        return self.connect(name, self.router.routes[name].instance)

    def route(self, name: str) -> Route:
        return self.router.routes[name]

    def state(self, name: str) -> State:
        """Of its breaker."""
        return self.route(name).breaker.state

    def link(self, name: str) -> FakeLink:
        found = self.route(name).link
        assert isinstance(found, FakeLink)
        return found

    def submit(self, key: int = 1, payload: bytes = b"[1]", timeout_s: float = 0.0) -> RecordingCall:
        call = RecordingCall(key, payload, timeout_s)
        self.calls.append(call)
        self.router.submit(call)
        return call

    def cancel(self, call: RecordingCall) -> None:
        call.cancelled = True
        self.router.cancel(call)

    def pass_time(self, seconds: float, late_s: float = 0.0) -> None:
        """Time passes, with one look at it at the end, which is late by `late_s`."""
        self.clock.now += seconds
        self.router.tick(late_s)

    @property
    def flying(self) -> list[tuple[FakeLink, Call]]:
        return [(link, call) for link in self.links for call in link.calls]

    def tell(
        self, link: FakeLink, call: Call, kind: int, payload: bytes = b"[2]", status: int = 200, time_us: int = 5
    ) -> None:
        """A worker answers a call."""
        link.calls.remove(call)
        assert call.route is link.route
        original(call).full += kind in (Tell.BUSY, Tell.GONE)  # nothing was done there
        self.router.answered(call, kind, Cache.MISS, status, payload, time_us)

    def answer(self, name: str, kind: int = Tell.RESULT, payload: bytes = b"[2]", time_us: int = 5) -> RecordingCall:
        """The oldest call on this worker's link is answered."""
        link = self.link(name)
        call = link.calls[0]
        self.tell(link, call, kind, payload, time_us=time_us)
        return original(call)

    def pace(self, name: str, takes_s: float, count: int = 30) -> None:
        """So many answers of this worker took so long."""
        for _ in range(count):
            self.route(name).pace.add(takes_s)

    def break_link(self, link: FakeLink, reason: str = "the connection was lost") -> None:
        if link.route.link is link:
            link.route.up = link.route.connected = False
        calls, link.calls = link.calls, []
        self.router.presence.lost(link.route, calls, reason, orderly=link.route.leaving)

    def kill(self, name: str) -> None:
        """A worker's process ends, and nothing takes its place yet."""
        self.break_link(self.link(name))

    def owners(self, key: int = 1) -> tuple[str, ...]:
        return self.router.ring.owners(key)

    def open(self, name: str) -> None:
        """Opens a worker's breaker by failures, as far as it may."""
        breaker = self.route(name).breaker
        while breaker.state is State.CLOSED:
            breaker.count_failure("no")

    def check_counts(self) -> None:
        """In flight is what is in flight, and each client is told once."""
        flying = self.flying
        for route in self.every_route:
            assert route.in_flight == sum(call.route is route for _, call in flying)
        waiting = set(self.router.quarantine.waiting)
        assert self.router.in_flight == sum(route.in_flight for route in self.router.routes.values()) + len(waiting)
        assert len(flying) == len({id(call) for _, call in flying})
        under_way = {original(call) for _, call in flying} | waiting
        for call in self.calls:
            told = 0 if call.cancelled and not call.outcomes else 1
            assert len(call.outcomes) == (0 if call in under_way else told), "not answered exactly once"
            assert not (call.cancelled and call in under_way)
