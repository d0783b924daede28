"""Which worker gets a request, and what happens when it fails. Pure: links do the sending, a clock is passed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from gateway_app.core.breaker import Breaker, State
from gateway_app.core.policy import Policy
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Tell

# A worker may fail a request once after its bytes were sent; the second failure is the client's to see.
MAX_ATTEMPTS = 2
MAX_IN_FLIGHT = 4096


class Owners(Protocol):
    """Who is to answer a key: a ring, or the table made of one."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The members."""

    def owners(self, key: int) -> tuple[str, ...]:
        """All members in the order in which they are to be tried for a 64-bit key."""


class Nobody:
    """Owners before there are any."""

    weights: Mapping[str, float] = {}

    def owners(self, key: int) -> tuple[str, ...]:
        """Of no key."""
        return ()


class Link(Protocol):
    """How a router sends to one worker; the answer comes back through `Router.answered`, `lost` or `timed_out`."""

    def send(self, call: Call) -> None: ...


class Call:
    """One request on its way. Subclasses say what is done with the answer; exactly one of `on_*` is called, once."""

    __slots__ = ("attempts", "began", "key", "payload", "permit", "route", "sent_at", "tried")

    route: Route
    permit: int
    began: float
    sent_at: float

    def __init__(self, key: int, payload: bytes) -> None:
        self.key = key
        self.payload = payload
        self.attempts = 0
        self.tried: tuple[Route, ...] = ()

    def on_result(self, cache: int, payload: bytes, time_us: int) -> None:
        """A worker answered; `payload` is the encoded output."""
        raise NotImplementedError

    def on_refusal(self, status: int, payload: bytes) -> None:
        """A worker found the request at fault; `payload` is `{"error", "code"}`."""
        raise NotImplementedError

    def on_error(self, error: ApiError) -> None:
        """No worker could answer."""
        raise NotImplementedError


class Route:
    """One worker as the router sees it."""

    __slots__ = ("breaker", "draining", "failures", "in_flight", "leaving", "link", "name", "requests", "up")

    def __init__(self, name: str, breaker: Breaker) -> None:
        self.name = name
        self.breaker = breaker
        self.link: Link | None = None
        self.up = False  # the link's handshake is done
        self.draining = False  # an operator wants it idle
        self.leaving = False  # its process said that it is about to stop
        self.in_flight = 0
        self.requests = 0
        self.failures = 0

    @property
    def routable(self) -> bool:
        """Whether a request could be sent to it now."""
        return self.up and not self.draining and not self.leaving and self.breaker.routable()


class Router:
    """Sends each call to the first owner of its key that can take it. Not safe for concurrent access."""

    def __init__(
        self,
        clock: Callable[[], float],
        on_breaker: Callable[[str, State, State, str], None] = lambda name, before, after, reason: None,
        jitter: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._clock = clock
        self._on_breaker = on_breaker
        self._jitter = jitter
        self.routes: dict[str, Route] = {}
        self.ring: Owners = Nobody()
        self.policy = Policy()
        self.failovers = 0
        self.spills = 0

    @property
    def in_flight(self) -> int:
        """Calls that wait for a worker's answer."""
        return sum(route.in_flight for route in self.routes.values())

    def configure(self, ring: Owners, draining: Collection[str], policy: Policy) -> None:
        """Takes a new set of workers and thresholds. A worker that stays keeps its breaker and its counts."""
        weights = ring.weights
        for name in [name for name in self.routes if name not in weights]:
            del self.routes[name]
        for name in weights:
            route = self.routes.get(name)
            if route is None:
                route = self.routes[name] = Route(name, Breaker(policy.breaker, self._clock, jitter=self._jitter))
                route.breaker.on_change = self._observer(route)
            route.draining = name in draining
            route.breaker.configure(policy.breaker)
        self.ring = ring
        self.policy = policy

    def rename(self, before: str, after: str) -> None:
        """A worker turns out to have another name; what it is doing goes on."""
        route = self.routes.pop(before)
        route.name = after
        self.routes[after] = route
        self.ring = Nobody()  # until `configure` brings the one with the new name

    def submit(self, call: Call) -> None:
        """Takes a new call."""
        call.began = self._clock()
        self._dispatch(call, call.began)

    def answered(self, call: Call, kind: int, cache: int, status: int, payload: bytes, time_us: int) -> None:
        """The worker's answer to a call has come."""
        route = call.route
        route.in_flight -= 1
        if kind == Tell.RESULT:
            route.breaker.success(call.permit)
            route.requests += 1
            call.on_result(cache, payload, time_us)
        elif kind == Tell.REFUSED:
            route.breaker.success(call.permit)
            route.requests += 1
            call.on_refusal(status, payload)
        elif kind == Tell.BUSY:
            route.breaker.release(call.permit)
            call.attempts -= 1  # nothing was done there
            self._retry(call, "is full")
        else:
            self._failed(call, payload.decode(errors="replace") or f"answered with frame kind {kind}")

    def lost(self, call: Call, reason: str) -> None:
        """The connection that a call was sent on is gone."""
        call.route.in_flight -= 1
        self._failed(call, reason)

    def timed_out(self, call: Call) -> None:
        """No answer came within the time that one attempt may take; a later one must not be handed in."""
        call.route.in_flight -= 1
        self._failed(call, f"no answer within {self.attempt_timeout_s:g} s")

    @property
    def attempt_timeout_s(self) -> float:
        """How long one attempt may take: half of the whole, so that a second one still fits."""
        return self.policy.timeout_s / MAX_ATTEMPTS

    def tick(self) -> None:
        """Lets time pass for the breakers; to be called a few times a second."""
        for route in self.routes.values():
            route.breaker.tick()

    def _dispatch(self, call: Call, now: float) -> None:
        routes = self.routes
        owners = self.ring.owners(call.key)
        bound, spilled = self._bound(), False
        for name in owners:
            route = routes[name]
            if route.up and not (route.draining or route.leaving):
                if route.in_flight >= bound:
                    spilled = True
                elif self._send(call, route, now):
                    self.spills += spilled
                    return
        if spilled:
            for name in owners:
                route = routes[name]
                if route.up and not (route.draining or route.leaving) and self._send(call, route, now):
                    return
        # Nobody else is left: a worker that is being drained still answers.
        for name in owners:
            route = routes[name]
            if route.up and (route.draining or route.leaving) and self._send(call, route, now):
                return
        self._give_up(call)

    def _bound(self) -> float:
        """Calls in flight from which on a worker passes new ones to the next owner."""
        if not self.policy.load_factor:
            return MAX_IN_FLIGHT
        total = live = 0
        for route in self.routes.values():
            if route.up:
                total += route.in_flight
                live += 1
        return max(self.policy.load_floor, self.policy.load_factor * (total + 1) / live) if live else MAX_IN_FLIGHT

    def _send(self, call: Call, route: Route, now: float) -> bool:
        if route.link is None or route.in_flight >= MAX_IN_FLIGHT or route in call.tried:
            return False
        permit = route.breaker.acquire()
        if permit is None:
            return False
        call.permit = permit
        call.route = route
        call.sent_at = now
        call.attempts += 1
        route.in_flight += 1
        route.link.send(call)
        return True

    def _failed(self, call: Call, reason: str) -> None:
        call.route.failures += 1
        call.route.breaker.failure(call.permit, reason)
        self._retry(call, reason)

    def _retry(self, call: Call, reason: str) -> None:
        now = self._clock()
        call.tried += (call.route,)
        if now - call.began >= self.policy.timeout_s:
            self._refuse(
                call,
                504,
                "deadline_passed",
                f"no worker answered within {self.policy.timeout_s:g} s; try again later",
                None,
            )
        elif call.attempts >= MAX_ATTEMPTS:
            names = " and ".join(route.name for route in call.tried)
            self._refuse(call, 503, "workers_failed", f"{names} failed, the last one: {reason}; try again", 1)
        else:
            self.failovers += 1
            self._dispatch(call, now)

    def _give_up(self, call: Call) -> None:
        if not self.routes:
            message = "there are no enabled workers; add one in the admin or start the cluster"
            self._refuse(call, 503, "no_workers", message, 1)
            return
        if any(route.up and route.breaker.state is not State.OPEN for route in self.routes.values()):
            self._refuse(call, 503, "overloaded", "every worker that could answer is full; try again", 1)
            return
        waits = [wait for route in self.routes.values() if (wait := route.breaker.retry_after()) is not None]
        retry_after_s = max(1, math.ceil(min(waits, default=1)))
        states = ", ".join(f"{route.name} {self._state(route)}" for route in self.routes.values())
        self._refuse(
            call,
            503,
            "no_worker_available",
            f"no worker can answer now ({states}); try again in {retry_after_s} s",
            retry_after_s,
        )

    @staticmethod
    def _state(route: Route) -> str:
        return route.breaker.state if route.up or route.breaker.state is State.OPEN else "not connected"

    def _refuse(self, call: Call, status: int, code: str, message: str, retry_after_s: int | None) -> None:
        call.on_error(ApiError(status, code, message, retry_after_s=retry_after_s))

    def _observer(self, route: Route) -> Callable[[Breaker, State, str], None]:
        return lambda breaker, before, reason: self._on_breaker(route.name, before, breaker.state, reason)
