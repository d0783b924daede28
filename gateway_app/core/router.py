"""Which worker gets a request for a model, and what happens when it fails. Pure: links do the sending."""

from __future__ import annotations

from collections.abc import Callable, Collection

from gateway_app.core import slowstart
from gateway_app.core.attempts import Attempts
from gateway_app.core.breaker import RATE_S, Breaker, Cause, State
from gateway_app.core.budget import RetryBudget
from gateway_app.core.call import MAX_IN_FLIGHT, Call, Nobody, Owners, Route
from gateway_app.core.outcomes import OutcomeLog
from gateway_app.core.pace import Pace
from gateway_app.core.policy import Policy
from gateway_app.core.presence import Presence
from gateway_app.core.quarantine import Quarantine
from gateway_app.core.suspects import Suspects
from gateway_app.core.watch import Watch
from gateway_app.core.why import why
from inference_site.lib.frames import Cache, Tell

_REFUSED, _BUSY, _EXPIRED, _GONE = int(Tell.REFUSED), int(Tell.BUSY), int(Tell.EXPIRED), int(Tell.GONE)
_ANSWERS = frozenset((int(Tell.RESULT), _REFUSED))
_MISS, _HIT = int(Cache.MISS), int(Cache.HIT)
_BLAME = b'"model_refused_input"'


class Router:
    """Sends each call for one model to the first owner of its key that can take it. Not safe for concurrent access."""

    def __init__(
        self,
        clock: Callable[[], float],
        on_breaker: Callable[[str, State, State, str], None] = lambda name, before, after, reason: None,
        jitter: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._clock = clock
        self._on_breaker = on_breaker
        self._jitter = jitter
        self._watch = Watch(self, clock)
        self._second_began = clock()
        self.routes: dict[str, Route] = {}
        self.ring: Owners = Nobody()
        self.policy = Policy()
        self.budget = RetryBudget()
        self.suspects = Suspects(clock)
        self.quarantine = Quarantine(self, clock)
        self.attempts = Attempts(self, clock)
        self.presence = Presence(self, clock)
        self.retries = 0
        self.spills = 0
        self.hedges = 0
        self.hedge_wins = 0
        self.budget_exhausted = 0
        self.expired = 0
        self.cancelled = 0
        self.shed = 0
        self.suspects_refused = 0
        self.apart = ""  # the worker with settings of its own
        self.replaceable = False  # what its workers do not answer, others do that this router does not know
        self.second_opinions = 0  # answers to what another worker's model had failed on

    @property
    def in_flight(self) -> int:
        """Calls that wait for a worker's answer."""
        return sum(route.in_flight for route in self.routes.values()) + len(self.quarantine.waiting)

    def configure(self, ring: Owners, draining: Collection[str], policy: Policy, apart: str = "") -> None:
        """Takes a new set of workers and thresholds. A worker that stays keeps its breaker and its counts.

        The pace of the one that is `apart` is not compared with that of the others: its settings are not theirs.
        """
        weights = ring.weights
        for name in [name for name in self.routes if name not in weights]:
            del self.routes[name]
        for name in weights:
            route = self.routes.get(name)
            if route is None:
                route = self.routes[name] = self._new_route(name, policy)
            if route.draining and name not in draining:
                route.pace = Pace()  # while it was drained the others may have become quicker, or all slower
            if self.apart != apart and name in (self.apart, apart):
                route.pace = Pace()  # that of its other settings
            route.draining = name in draining
            route.breaker.configure(policy.breaker)
        self.ring = ring
        self.policy = policy
        self.apart = apart

    def rename(self, before: str, after: str) -> None:
        """A worker turns out to have another name; what it is doing goes on."""
        route = self.routes.pop(before)
        route.name = after
        self.routes[after] = route
        self.ring = Nobody()  # until `configure` brings the one with the new name

    # What a client wants.

    def submit(self, call: Call) -> None:
        """Takes a new call."""
        call.began = now = self._clock()
        call.deadline = now + (call.timeout_s or self.policy.timeout_s)
        self.budget.requests += 1
        self.dispatch(call, now)

    def cancel(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        self.cancelled += self.attempts.take_back(call)

    # What a link reports; of the worker itself: see Presence.

    def answered(self, call: Call, kind: int, cache: int, status: int, payload: bytes, time_us: int) -> None:
        """The worker's answer to a call has come."""
        route = call.route
        route.in_flight -= 1
        call.flying = False
        if call.trace is not None:
            call.trace.answered(call, kind, cache, payload, time_us)
        if kind in _ANSWERS:
            if kind == _REFUSED and _BLAME in payload and self.attempts.asks_another(call, status, payload):
                return
            if call.permit < 0 and route.slow_s:
                self.probed(route, call.permit, self._clock() - call.sent_at if cache == _MISS else None)
            else:
                route.breaker.success(call.permit)
            route.requests += 1
            if call.suspect or call.hedge is not None or call.first is not None or call.blamed_by is not None:
                self.attempts.settled(call)
                blamed_by = (call.first or call).blamed_by
                if blamed_by is not None:
                    self.second_opinions += 1
                    if kind != _REFUSED:
                        blamed_by.failures += 1
                        blamed_by.breaker.contradicted(f"its model failed on an input that {route.name} can run")
            if kind == _REFUSED:
                call.on_refusal(status, payload)
                return
            if cache == _MISS:
                took_s = self._clock() - call.sent_at
                route.pace.add(took_s)
                route.computed += 1
                route.sent_s += took_s
                route.worker_s += time_us / 1e6
            elif cache == _HIT:
                route.hits += 1
            call.on_result(cache, payload, time_us)
            return
        self.quarantine.free(call)
        if kind == _BUSY:
            route.breaker.release(call.permit)
            first = call.first or call
            first.busy_us = min(first.busy_us or time_us, time_us)
            first.attempts -= 1  # nothing was done there
            self.attempts.retry(call, "is full", nothing_done=True)
        elif kind == _GONE:
            self.attempts.gone(call)
        elif kind == _EXPIRED:
            route.breaker.release(call.permit)
            self.attempts.time_out(call)
        else:
            self.attempts.failed(call, payload.decode(errors="replace") or f"answered with frame kind {kind}")

    def probed(self, route: Route, permit: int, took_s: float | None) -> None:
        """A worker that had been slow has answered a probe; `took_s` is None if that says nothing about its pace."""
        if took_s is None:
            route.breaker.release(permit)
        elif took_s > route.slow_s:
            route.breaker.failure(permit, f"a probe was answered in {took_s * 1000:.0f} ms: as slow as before")
        else:
            route.breaker.success(permit)

    def tick(self, late_s: float = 0.0) -> None:
        """Lets time pass: to be called some tens of times a second; `late_s`: how long this loop was held up."""
        now = self._clock()
        if second := now - self._second_began >= 1:
            self._second_began = now
        for route in self.routes.values():
            if second or route.breaker.state is not State.CLOSED:
                route.breaker.tick()
        self.quarantine.tick(now, late_s)
        self._watch.tick(now, late_s)

    # Choosing a worker.

    def dispatch(self, call: Call, now: float) -> None:
        routes, policy = self.routes, self.policy
        if (call.suspect or self.suspects.watching) and self.attempts.is_refused(call):
            return
        owners = self.ring.owners(call.key)
        bound = None
        passed_on = False
        for name in owners:
            route = routes[name]
            if not route.up or route.draining or route.leaving:
                continue
            if route.ramp_from is not None and slowstart.passes_on(route, call.key, now, policy.slow_start_s):
                passed_on = True
                continue
            if policy.load_factor and route.in_flight >= policy.load_floor:
                if bound is None:
                    bound = self.bound()
                if route.in_flight >= bound:
                    passed_on = True
                    continue
            if self.send(call, route, now):
                if passed_on:
                    self.spills += 1
                    route.spills += 1
                return
        if passed_on and any(routes[name].staying and self.send(call, routes[name], now) for name in owners):
            return
        if call.suspect and any(route.routable and route not in call.tried for route in routes.values()):
            self._keep(call)  # until one of them has no other suspect
            return
        # Nobody else is left: a worker that is being drained still answers, and one that failed may have recovered.
        if any(routes[name].up and self.send(call, routes[name], now) for name in owners):
            return
        for name in owners:
            route = routes[name]
            if route.up and route not in call.tried and route.breaker.state is State.OPEN:
                route.breaker.revive("no other worker is left", Cause.LAST)
                if self.send(call, route, now):
                    return
        if call.suspect and any(each.up and each.suspect and each not in call.tried for each in routes.values()):
            self._keep(call)
        else:
            self.attempts.give_up(call)

    def _keep(self, call: Call) -> None:
        if call.trace is not None:
            call.trace.kept()
        if not self.quarantine.wait(call):
            self.attempts.give_up(call)

    def send(self, call: Call, route: Route, now: float) -> bool:
        if route.in_flight >= route.limit or route.link is None or (call.tried and route in call.tried):
            return False
        if call.suspect and not self.quarantine.admits(call, route):
            return False
        permit = route.breaker.acquire()
        if permit is None:
            return False
        call.permit = permit
        call.route = route
        call.sent_at = now
        call.attempts += 1
        call.flying = True
        if call.trace is not None:
            call.trace.sent(call, why(self, call, route, now))
        if call.suspect:
            route.suspect = call
        route.in_flight += 1
        call.link = route.link
        call.number = route.number
        route.link.send(call)
        return True

    def bound(self) -> float:
        """Calls in flight from which on a worker passes new ones to the next owner."""
        total = live = 0
        for route in self.routes.values():
            if route.staying and route.breaker.state is State.CLOSED:  # the others get few or none
                total += route.in_flight
                live += 1
        if not self.policy.load_factor:
            return MAX_IN_FLIGHT
        return max(self.policy.load_floor, self.policy.load_factor * (total + 1) / live) if live else MAX_IN_FLIGHT

    # Breakers.

    def _new_route(self, name: str, policy: Policy) -> Route:
        outcomes = OutcomeLog(self._clock(), RATE_S)
        route = Route(name, Breaker(policy.breaker, self._clock, jitter=self._jitter, outcomes=outcomes))
        route.router = self
        route.breaker.on_change = lambda breaker, before, reason: self._changed(route, before, reason)
        route.breaker.may_open = lambda: self._may_open(route)
        return route

    def _may_open(self, route: Route) -> bool:
        """Never the last one: a worker that is connected stays in use unless another one is well."""
        return (
            self.replaceable
            or not route.up
            or any(
                other is not route and other.staying and other.breaker.state is State.CLOSED
                for other in self.routes.values()
            )
        )

    def _changed(self, route: Route, before: State, reason: str) -> None:
        if before is State.HALF_OPEN and route.breaker.state is State.CLOSED:
            route.pace = Pace()
            slowstart.begin(self, route, self._clock())
        if route.breaker.state is State.CLOSED:
            route.slow_s = 0.0
        self._on_breaker(route.name, before, route.breaker.state, reason)
