"""A world that looks at every attempt when it is made, and at everybody's outcome."""

from __future__ import annotations

from collections.abc import Iterable

from gateway_app.core.breaker import State
from gateway_app.core.call import Call, Hedge, Route
from gateway_app.core.policy import Policy
from gateway_app.core.suspects import Verdict
from gateway_app.core.watch import MAX_ATTEMPTS
from inference_site.lib.errors import ApiError
from tests.gateway_app.core.fleet import FakeLink, RecordingCall, World, original


class StrictWorld(World):
    """Looks at every attempt when it is made."""

    def __init__(self, names: Iterable[str], policy: Policy) -> None:
        super().__init__(names, policy)
        self.losses: dict[tuple[int, bytes], list[bool]] = {}  # of each input: was it alone?
        self.checks: list[tuple[Route, int]] = []
        self.sent_as_suspect: list[Call] = []
        self.once_suspect: set[RecordingCall] = set()

    def sending(self, link: FakeLink, call: Call) -> None:
        route, told = link.route, original(call)
        assert route.up
        assert not route.breaker.isolated
        assert route is self.router.routes[route.name]
        assert route not in told.sent_to, "asked twice"
        assert not told.outcomes
        assert not told.cancelled
        assert call.deadline > self.clock.now - 1, "sent although its time was over"
        if route.breaker.state is State.HALF_OPEN:
            missing = route.breaker.config.success_threshold - route.breaker.successes
            assert call.permit < 0
            assert route.breaker.probes <= missing
        attempts = 1 + len(told.sent_to) - told.full
        assert attempts <= MAX_ATTEMPTS
        assert told.attempts + isinstance(call, Hedge) == attempts
        if call.suspect:
            # Others may be that were under way already when what they had in flight elsewhere was lost.
            sent = [each for each in self.sent_as_suspect if each is not call and self.is_tried(each)]
            assert not any(other.route is route for other in sent), "two suspects on one worker"
            assert not any(other.key == call.key for other in sent), "tried in two places"
            self.sent_as_suspect.append(call)
        elif attempts == MAX_ATTEMPTS and not told.full and told not in self.once_suspect:
            assert self.policy.retry_ratio
            allowed, spent = self.router.budget.account(self.policy.retry_ratio)
            assert spent <= allowed
        verdict = self.router.suspects.verdict(call.key, call.payload)
        assert verdict not in (Verdict.PENDING, Verdict.GUILTY), "it may end a third one"
        if not isinstance(call, Hedge) and not call.suspect:
            self.check_choice(call, route)

    def is_tried(self, call: Call) -> bool:
        """Whether a worker that is still configured has it."""
        return call.suspect and call in call.link.pending() and call.route.link is call.link

    def check_choice(self, call: Call, chosen: Route) -> None:
        """The first owner that can take the call gets it; those with more than their part, or on their way up, come
        after all others, those on their way out last."""
        bound = self.bound_before(chosen)
        crowded = chosen.in_flight - 1 >= bound or self.is_ramping(chosen, call)
        seen = False
        for name in self.router.ring.owners(call.key):
            other = self.router.routes[name]
            seen = seen or other is chosen
            if other is chosen or not other.staying or not self.can_take(other, call):
                continue
            assert chosen.staying, f"{chosen.name} is on its way out and was preferred to {name}"
            if other.in_flight >= bound or self.is_ramping(other, call):
                assert seen or not crowded, f"{chosen.name} was preferred to {name}"
            else:
                assert seen, f"{chosen.name} was preferred to {name}"
                assert not crowded, f"{chosen.name} should get less and was preferred to {name}"

    def can_take(self, route: Route, call: Call) -> bool:
        return route.up and route not in call.tried and route.in_flight < route.limit and route.breaker.routable()

    def could_be_tried(self, route: Route) -> bool:
        """Whether a new call could go there, if there is nobody else."""
        breaker = route.breaker
        opens = breaker.state is State.OPEN and not breaker.isolated
        opens = opens and breaker.probes < breaker.config.success_threshold  # those of the last time may still be out
        return route.up and route.in_flight < route.limit and (opens or breaker.routable())

    def is_ramping(self, route: Route, call: Call) -> bool:
        policy = self.router.policy
        if route.ramp_from is None or not policy.slow_start_s:
            return False
        part = max(0.1, (self.clock.now - route.ramp_from) / policy.slow_start_s)
        return call.key % 65536 >= part * 65536

    def bound_before(self, chosen: Route) -> float:
        """Calls in flight that are too many for one more, as they were before this one was sent."""
        policy = self.router.policy
        if not policy.load_factor:
            return 10**9
        live = [each for each in self.router.routes.values() if each.staying and each.breaker.state is State.CLOSED]
        if not live:
            return 10**9
        total = sum(route.in_flight for route in live) - (chosen in live)
        return max(policy.load_floor, policy.load_factor * (total + 1) / len(live))

    def break_link(self, link: FakeLink, reason: str = "the connection was lost") -> None:
        if not link.route.leaving:
            self.once_suspect.update(original(call) for call in link.calls)
            inputs = {(call.key, call.payload) for call in link.calls}
            watched = [each for each in inputs if self.router.suspects.verdict(*each) is not Verdict.CLEAR]
            for each in inputs:
                self.losses.setdefault(each, []).append(watched == [each])
        for route, permit in [each for each in self.checks if each[0] is link.route]:
            route.breaker.release(permit)
            self.checks.remove((route, permit))
        super().break_link(link, reason)

    def check(self) -> None:
        self.check_counts()
        for route in self.every_route:
            probing = sum(call.route is route and call.permit < 0 for _, call in self.flying)
            probing += sum(each is route and permit < 0 for each, permit in self.checks)
            assert route.breaker.probes == probing
        self.once_suspect.update(call for call in self.calls if call.suspect)
        for call in self.calls:
            self.check_outcome(call)

    def check_outcome(self, call: RecordingCall) -> None:
        for kind, error in call.outcomes:
            if kind != "error":
                continue
            assert isinstance(error, ApiError)
            assert error.message
            if error.code in ("input_ends_workers", "input_under_suspicion"):
                losses = self.losses[call.key, call.payload]
                assert len(losses) >= 2, "refused after one loss"
                assert any(losses), "an innocent was refused"
            if error.status == 503:
                assert error.retry_after_s is not None
                assert error.retry_after_s >= 1
            else:
                assert (error.status, error.code) in ((504, "deadline_passed"), (422, "input_ends_workers"))
