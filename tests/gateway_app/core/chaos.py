"""All that can happen to a router, and what has to hold about each event."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from gateway_app.core.breaker import Cause, State
from gateway_app.core.call import Call, Route
from gateway_app.core.policy import Policy
from gateway_app.core.suspects import Verdict
from inference_site.lib.frames import Tell
from tests.gateway_app.core.fleet import FakeLink, RecordingCall, original
from tests.gateway_app.core.strict import StrictWorld


class Chaos(StrictWorld):
    """Events by name; a number picks whom they happen to. What can't happen now doesn't."""

    def pick(self, number: int) -> tuple[FakeLink, Call] | None:
        flying = self.flying
        return flying[number % len(flying)] if flying else None

    def some_route(self, number: int) -> Route | None:
        routes = list(self.router.routes.values())
        return routes[number % len(routes)] if routes else None

    @contextmanager
    def nothing_learned(self, route: Route) -> Iterator[None]:
        """What happens says nothing about a worker."""
        breaker = route.breaker

        def counts() -> tuple[object, ...]:
            return breaker.failures, breaker.successes, breaker.opens, route.failures, route.requests

        before = counts()
        yield
        assert counts() == before

    def requests_come(self, keys: list[int], text: bytes, limit_s: float) -> None:
        for key in keys:
            verdict = self.router.suspects.verdict(key, text)
            possible = any(self.could_be_tried(route) for route in self.router.routes.values())
            call = self.submit(key, text, limit_s)
            if verdict is Verdict.CLEAR:  # it is refused only if nobody could have taken it
                assert bool(call.sent_to) == possible
            elif verdict is not Verdict.SUSPECT:
                assert not call.sent_to
                assert call.error.status in (422, 503)

    def worker_answers(self, number: int, good: bool) -> None:
        if picked := self.pick(number):
            link, call = picked
            breaker = link.route.breaker
            before, current = breaker.state, breaker.state is State.CLOSED and call.permit == breaker.acquire()
            self.tell(link, call, Tell.RESULT if good else Tell.REFUSED, b"[2]", 422)
            assert original(call).outcomes == [("result", b"[2]") if good else ("refusal", 422)]
            assert not any(original(other) is original(call) for _, other in self.flying)
            assert breaker.failures == 0 or not current
            assert before is State.OPEN or breaker.state is not State.OPEN or link.route.slow_s  # slow as before

    def worker_is_full(self, number: int) -> None:
        if picked := self.pick(number):
            link, call = picked
            told, sent, suspect = original(call), len(original(call).sent_to), call.suspect
            other_leg = any(original(each) is told and each is not call for _, each in self.flying)
            routes = self.router.routes.values()
            others = any(route not in told.sent_to and self.can_take(route, call) for route in routes)
            with self.nothing_learned(link.route):
                self.tell(link, call, Tell.BUSY, b"", 503)
            if self.clock.now < call.deadline and not other_leg and not suspect and not told.suspect:
                assert len(told.sent_to) > sent or not others

    def worker_has_unloaded(self, number: int) -> None:
        """It does not have the model any more, until it is said to come."""
        if picked := self.pick(number):
            with self.nothing_learned(picked[0].route):
                self.tell(*picked, Tell.GONE, b"", 0)
            assert not picked[0].route.up

    def time_was_over(self, number: int) -> None:
        if picked := self.pick(number):
            with self.nothing_learned(picked[0].route):
                self.tell(*picked, Tell.EXPIRED, b"", 504)
            assert original(picked[1]).error.status == 504

    def worker_fails(self, number: int, kind: int) -> None:
        if picked := self.pick(number):
            failures = picked[0].route.failures
            self.tell(*picked, kind, b"\xff" if kind else b"", 503)
            assert picked[0].route.failures == failures + 1

    def link_dies(self, number: int) -> None:
        links = [link for link in self.links if link.calls or link.route.link is link]
        if links:
            self.break_link(links[number % len(links)])

    def worker_comes(self, number: int, same_process: bool) -> None:
        route = self.some_route(number)
        if route is None or route.up:
            return
        if same_process and route.instance:
            self.reconnect(route.name)
        else:
            self.connect(route.name)
            assert route.breaker.isolated or route.breaker.state is not State.OPEN

    def worker_leaves(self, number: int) -> None:
        if route := self.some_route(number):
            route.leaving = True

    def worker_is_silent(self, number: int, speaks: bool) -> None:
        route = self.some_route(number)
        if route is None or not route.up:
            return
        self.router.presence.silent(route, "not a word")
        if speaks:
            silenced = route.breaker.state is State.OPEN and route.breaker.cause is Cause.SILENT
            self.router.presence.speaks(route)
            assert not silenced or route.breaker.state is State.HALF_OPEN

    def worker_has_a_pace(self, number: int, takes_s: float) -> None:
        if route := self.some_route(number):
            self.pace(route.name, takes_s, 20)

    def client_leaves(self, number: int) -> None:
        if not self.calls:
            return
        told = self.calls[-1 - number % min(8, len(self.calls))]
        routes = [call.route for _, call in self.flying if original(call) is told]
        failures = [route.failures for route in routes]
        if not told.outcomes:
            self.cancel(told)
            assert not any(original(call) is told for _, call in self.flying)
        assert [route.failures for route in routes] == failures

    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)
        for route in self.router.routes.values():
            breaker = route.breaker
            waits = breaker.isolated or self.clock.now - breaker.since < breaker.open_for_s
            assert breaker.state is not State.OPEN or waits
        for call in self.calls:
            assert call.outcomes or call.cancelled or call.deadline > self.clock.now or not self.is_watched(call)

    def is_watched(self, call: RecordingCall) -> bool:
        """Not on the link of a worker that was removed: those look after themselves."""
        links = [link for link, each in self.flying if original(each) is call]
        return all(link.route.link is link and link.route in self.router.routes.values() for link in links)

    def check_begins(self, number: int) -> None:
        route = self.some_route(number)
        permit = route.breaker.acquire() if route is not None and route.up else None
        if route is not None and permit is not None:
            self.checks.append((route, permit))

    def check_ends(self, number: int, outcome: str) -> None:
        if not self.checks:
            return
        route, permit = self.checks.pop(number % len(self.checks))
        if outcome == "failure":
            route.breaker.failure(permit, "a check failed")
        else:
            getattr(route.breaker, outcome)(permit)

    def operator_configures(self, weights: dict[str, float], draining: Collection[str], policy: Policy) -> None:
        self.policy = policy
        self.configure(weights, {name for name in draining if name in weights})

    def operator_orders(self, number: int, order: str) -> None:
        route = self.some_route(number)
        if route is None:
            return
        if order == "trip":
            assert route.breaker.trip(Cause.OPERATOR, "by hand")
        elif order == "reset":
            route.breaker.reset("by hand")
        else:
            route.breaker.isolate(order == "isolate")

    def end(self) -> None:
        """Everybody is answered in the end, and nothing is in flight."""
        for _ in range(2):  # suspects may have their turn once more when time has passed
            while self.flying:
                link, call = self.flying[0]
                self.tell(link, call, Tell.RESULT)
            self.pass_time(700)
        self.check()
        assert self.router.in_flight == 0
        assert not self.router.quarantine.waiting
        assert all(route.in_flight == 0 and route.suspect is None for route in self.every_route)
