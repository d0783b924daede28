"""The router under everything that links, workers, operators, clients and time can do to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway_app.core import budget as budget_module
from gateway_app.core.breaker import BreakerConfig, Cause, State
from gateway_app.core.call import Call, Hedge, Route
from gateway_app.core.policy import Policy
from gateway_app.core.suspects import Verdict
from gateway_app.core.watch import MAX_ATTEMPTS
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Tell
from tests.gateway_app.core.fleet import FakeLink, RecordingCall, World, original

NUMBERS = st.integers(0, 10**6)
NAMES = st.sampled_from(["w0", "w1", "w2", "w3"])
KEYS = st.sampled_from([3, 2**62, 2**63, 2**63 + 2**62, 2**64 - 5])
TEXTS = st.sampled_from([b"[1]", b"[2]"])  # two texts of one key: near twins
LIMITS_S = st.sampled_from([0.0, 60.0, 1.0, 0.04])
POLICIES = st.builds(
    Policy,
    breaker=st.builds(
        BreakerConfig,
        failure_threshold=st.integers(1, 5),
        success_threshold=st.integers(1, 3),
        open_s=st.sampled_from([1.0, 5.0]),
        error_ratio=st.sampled_from([0.0, 0.2]),
    ),
    timeout_s=st.sampled_from([10.0, 1.0]),
    load_factor=st.sampled_from([0.0, 1.0, 1.25, 2.0]),
    load_floor=st.integers(1, 4),
    retry_ratio=st.sampled_from([0.0, 0.2, 1.0]),
    hedging=st.booleans(),
    slow_factor=st.sampled_from([0.0, 5.0]),
    slow_start_s=st.sampled_from([0.0, 5.0]),
)


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
            sent = [
                other
                for other in self.sent_as_suspect
                if other is not call and other.suspect and other.flying and other.route.link is other.link
            ]
            assert not any(other.route is route for other in sent), "two suspects on one worker"
            assert not any(other.key == call.key for other in sent), "tried in two places"
            self.sent_as_suspect.append(call)
        elif attempts == MAX_ATTEMPTS and not told.full and told not in self.once_suspect:
            assert self.policy.retry_ratio
            assert self.router.budget.left(self.policy.retry_ratio) >= 0
        verdict = self.router.suspects.verdict(call.key, call.payload)
        assert verdict not in (Verdict.PENDING, Verdict.GUILTY), "it may end a third one"
        if not isinstance(call, Hedge) and not call.suspect:
            self.check_choice(call, route)

    def check_choice(self, call: Call, chosen: Route) -> None:
        """The first owner that can take the call gets it; those with more than their part, or on their way up, come
        after all others, those on their way out last."""
        bound = self.bound_before()
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

    def bound_before(self) -> float:
        """Calls in flight that are too many for one more, as they were before this one was sent."""
        policy = self.router.policy
        if not policy.load_factor:
            return 10**9
        live = [route for route in self.router.routes.values() if route.up]
        total = sum(route.in_flight for route in live) - 1
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


class RouterMachine(RuleBasedStateMachine):
    """Any order of requests, answers, losses, silences, and of what clients, operators and time do."""

    @initialize(count=st.sampled_from([3, 2, 4, 1, 0]), policy=POLICIES)
    def begin(self, count: int, policy: Policy) -> None:
        patch = mock.patch.object(budget_module, "MINIMUM", 3)
        patch.start()
        self.patch = patch
        self.world = StrictWorld([f"w{index}" for index in range(count)], policy)
        self.router = self.world.router

    def pick(self, number: int) -> tuple[FakeLink, Call]:
        flying = self.world.flying
        return flying[number % len(flying)]

    def some_route(self, number: int) -> Route:
        routes = list(self.router.routes.values())
        return routes[number % len(routes)]

    @contextmanager
    def nothing_learned(self, route: Route) -> Iterator[None]:
        """What happens says nothing about a worker."""
        breaker = route.breaker

        def counts() -> tuple[object, ...]:
            return breaker.failures, breaker.successes, breaker.opens, route.failures, route.requests

        before = counts()
        yield
        assert counts() == before

    @rule(keys=st.lists(KEYS, min_size=1, max_size=6), text=TEXTS, limit_s=LIMITS_S)
    def submit(self, keys: list[int], text: bytes, limit_s: float) -> None:
        world = self.world
        for key in keys:
            verdict = self.router.suspects.verdict(key, text)
            possible = any(world.could_be_tried(route) for route in self.router.routes.values())
            call = world.submit(key, text, limit_s)
            if verdict is Verdict.CLEAR:  # it is refused only if nobody could have taken it
                assert bool(call.sent_to) == possible
            elif verdict is not Verdict.SUSPECT:
                assert not call.sent_to
                assert call.error.status in (422, 503)

    @precondition(lambda self: self.world.flying)
    @rule(number=NUMBERS, good=st.booleans())
    def answer(self, number: int, good: bool) -> None:
        link, call = self.pick(number)
        breaker = link.route.breaker
        before, current = breaker.state, breaker.state is State.CLOSED and call.permit == breaker.acquire()
        kind = Tell.RESULT if good else Tell.REFUSED
        self.world.tell(link, call, kind, b"[2]", 422)
        assert original(call).outcomes == [("result", b"[2]") if good else ("refusal", 422)]
        assert not any(original(other) is original(call) for _, other in self.world.flying)
        assert breaker.failures == 0 or not current
        assert before is State.OPEN or breaker.state is not State.OPEN

    @precondition(lambda self: self.world.flying)
    @rule(number=NUMBERS)
    def busy(self, number: int) -> None:
        link, call = self.pick(number)
        told, router = original(call), self.router
        sent = len(told.sent_to)
        other_leg = any(original(each) is told and each is not call for _, each in self.world.flying)
        others = [
            route for route in router.routes.values() if route not in told.sent_to and self.world.can_take(route, call)
        ]
        with self.nothing_learned(link.route):
            self.world.tell(link, call, Tell.BUSY, b"", 503)
        if self.world.clock.now < call.deadline and not other_leg and not call.suspect:
            assert len(told.sent_to) > sent or not others

    @precondition(lambda self: self.world.flying)
    @rule(number=NUMBERS)
    def expired(self, number: int) -> None:
        link, call = self.pick(number)
        with self.nothing_learned(link.route):
            self.world.tell(link, call, Tell.EXPIRED, b"", 504)
        assert original(call).error.status == 504

    @precondition(lambda self: self.world.flying)
    @rule(number=NUMBERS, kind=st.sampled_from([Tell.FAILED, 0, 9]))
    def failed(self, number: int, kind: int) -> None:
        link, call = self.pick(number)
        failures = link.route.failures
        self.world.tell(link, call, kind, b"\xff" if kind else b"", 503)
        assert link.route.failures == failures + 1

    @precondition(lambda self: self.world.links)
    @rule(number=NUMBERS)
    def link_dies(self, number: int) -> None:
        links = [link for link in self.world.links if link.calls or link.route.link is link]
        if links:
            self.world.break_link(links[number % len(links)])

    @precondition(lambda self: self.router.routes)
    @rule(number=NUMBERS, same_process=st.booleans())
    def connects(self, number: int, same_process: bool) -> None:
        route = self.some_route(number)
        if not route.up:
            if same_process and route.instance:
                self.world.reconnect(route.name)
            else:
                self.world.connect(route.name)
                assert route.breaker.isolated or route.breaker.state is not State.OPEN

    @precondition(lambda self: self.router.routes)
    @rule(number=NUMBERS)
    def leaves(self, number: int) -> None:
        self.some_route(number).leaving = True

    @precondition(lambda self: self.router.routes)
    @rule(number=NUMBERS, speaks=st.booleans())
    def is_silent(self, number: int, speaks: bool) -> None:
        route = self.some_route(number)
        if not route.up:
            return
        self.router.silent(route, "not a word")
        if speaks:
            silenced = route.breaker.state is State.OPEN and route.breaker.cause is Cause.SILENT
            self.router.speaks(route)
            assert not silenced or route.breaker.state is State.HALF_OPEN

    @precondition(lambda self: self.world.calls)
    @rule(number=NUMBERS)
    def client_leaves(self, number: int) -> None:
        told = self.world.calls[-1 - number % min(8, len(self.world.calls))]
        routes = {call.route for _, call in self.world.flying if original(call) is told}
        failures = [route.failures for route in routes]
        if not told.outcomes:
            self.world.cancel(told)
            assert not any(original(call) is told for _, call in self.world.flying)
        assert [route.failures for route in routes] == failures

    @rule(seconds=st.sampled_from([0.025, 0.1, 0.3, 1.1, 5.1, 31.0]))
    def time_passes(self, seconds: float) -> None:
        world = self.world
        world.pass_time(seconds)
        for route in self.router.routes.values():
            breaker = route.breaker
            waits = breaker.isolated or world.clock.now - breaker.since < breaker.open_for_s
            assert breaker.state is not State.OPEN or waits
        for call in world.calls:
            assert call.outcomes or call.cancelled or call.deadline > world.clock.now or not self.is_watched(call)

    def is_watched(self, call: RecordingCall) -> bool:
        """Not on the link of a worker that was removed: those look after themselves."""
        links = [link for link, each in self.world.flying if original(each) is call]
        return all(link.route.link is link and link.route in self.router.routes.values() for link in links)

    @precondition(lambda self: self.router.routes)
    @rule(number=NUMBERS, takes_s=st.sampled_from([0.001, 0.02, 2.0]))
    def has_a_pace(self, number: int, takes_s: float) -> None:
        self.world.pace(self.some_route(number).name, takes_s, 20)

    @precondition(lambda self: self.router.routes)
    @rule(number=NUMBERS)
    def check_begins(self, number: int) -> None:
        route = self.some_route(number)
        permit = route.breaker.acquire() if route.up else None
        if permit is not None:
            self.world.checks.append((route, permit))

    @precondition(lambda self: self.world.checks)
    @rule(number=NUMBERS, outcome=st.sampled_from(["success", "failure", "release"]))
    def check_ends(self, number: int, outcome: str) -> None:
        route, permit = self.world.checks.pop(number % len(self.world.checks))
        if outcome == "failure":
            route.breaker.failure(permit, "a check failed")
        else:
            getattr(route.breaker, outcome)(permit)

    @rule(
        weights=st.dictionaries(NAMES, st.sampled_from([1.0, 0.5, 2.0]), min_size=2),
        draining=st.sets(NAMES, max_size=2),
        policy=POLICIES,
    )
    def configure(self, weights: dict[str, float], draining: set[str], policy: Policy) -> None:
        self.world.policy = policy
        self.world.configure(weights, draining & set(weights))

    @precondition(lambda self: self.router.routes)
    @rule(number=NUMBERS, order=st.sampled_from(["isolate", "release", "trip", "reset"]))
    def operator(self, number: int, order: str) -> None:
        breaker = self.some_route(number).breaker
        if order == "trip":
            assert breaker.trip(Cause.OPERATOR, "by hand")
        elif order == "reset":
            breaker.reset("by hand")
        else:
            breaker.isolate(order == "isolate")

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        """Everybody is answered in the end, and nothing is in flight."""
        if not hasattr(self, "world"):
            return
        world = self.world
        while world.flying:
            link, call = world.flying[0]
            world.tell(link, call, Tell.RESULT)
        world.pass_time(700)
        while world.flying:  # suspects whose turn came with that
            link, call = world.flying[0]
            world.tell(link, call, Tell.RESULT)
        world.pass_time(700)
        world.check()
        assert self.router.in_flight == 0
        assert not self.router._waiting
        assert all(route.in_flight == 0 and route.suspect is None for route in world.every_route)
        self.patch.stop()


RouterMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRouterMachine = RouterMachine.TestCase
