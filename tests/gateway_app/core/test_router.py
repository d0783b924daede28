"""The router under everything that links, workers, operators and time can do to it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from xxhash import xxh3_64_intdigest

from gateway_app.core import router as router_module
from gateway_app.core.breaker import BreakerConfig, State
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring
from gateway_app.core.router import MAX_ATTEMPTS, Call, Route, Router
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Tell

TIMEOUT_S = 10.0
QUICK = BreakerConfig(failure_threshold=3, success_threshold=2, open_s=5.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class RecordingCall(Call):
    """Keeps every outcome that it is told; there may be one."""

    def __init__(self, key: int) -> None:
        super().__init__(key, b"[1]")
        self.outcomes: list[tuple[str, object]] = []
        self.sent_to: list[Route] = []

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


class FakeLink:
    """One connection of one route; what it was sent waits until the test answers."""

    def __init__(self, router: Router, route: Route) -> None:
        self.router = router
        self.route = route
        self.calls: list[RecordingCall] = []

    def send(self, call: Call) -> None:
        assert isinstance(call, RecordingCall)
        check_choice(self.router, call, self.route)
        assert self.route not in call.sent_to
        call.sent_to.append(self.route)
        assert call.attempts <= MAX_ATTEMPTS
        assert not call.outcomes
        self.calls.append(call)


def can_take(route: Route, call: RecordingCall) -> bool:
    return (
        route.up
        and route not in call.sent_to
        and route.in_flight < router_module.MAX_IN_FLIGHT
        and route.breaker.routable()
    )


def check_choice(router: Router, call: RecordingCall, chosen: Route) -> None:
    """The first owner that can take the call gets it; those with more than their part come after all others, those on
    their way out last."""
    assert chosen.up
    assert chosen is router.routes[chosen.name]
    bound = bound_without(router)
    on_its_way_out = chosen.draining or chosen.leaving
    crowded = chosen.in_flight - 1 >= bound
    seen = False
    for name in router.ring.owners(call.key):
        other = router.routes[name]
        seen = seen or other is chosen
        if other is chosen or other.draining or other.leaving or not can_take(other, call):
            continue
        assert not on_its_way_out, f"{chosen.name} is on its way out and was preferred to {name}"
        if other.in_flight < bound:
            assert seen, f"{chosen.name} was preferred to {name}"
            assert not crowded, f"{chosen.name} has more than its part and was preferred to {name}"
        else:
            assert seen or not crowded, f"{chosen.name} was preferred to {name}"


def bound_without(router: Router) -> float:
    """Calls in flight that are too many for one more, as they were before this one was sent."""
    if not router.policy.load_factor:
        return router_module.MAX_IN_FLIGHT
    live = [route for route in router.routes.values() if route.up]
    total = sum(route.in_flight for route in live) - 1
    return max(router.policy.load_floor, router.policy.load_factor * (total + 1) / len(live))


class World:
    """A router with fake links, and helpers to move it."""

    def __init__(self, names: Iterable[str] = (), breaker: BreakerConfig = QUICK) -> None:
        self.clock = Clock()
        self.router = Router(self.clock)
        self.every_route: list[Route] = []
        self.links: list[FakeLink] = []
        self.calls: list[RecordingCall] = []
        self.breaker = breaker
        self.load_factor, self.load_floor = 0.0, 8
        self.configure(dict.fromkeys(names, 1.0), set())
        for name in self.router.routes:
            self.connect(name)

    def configure(self, weights: dict[str, float], draining: set[str], virtual_nodes: int = 8) -> None:
        before = dict(self.router.routes)
        self.router.configure(
            Ring(weights, virtual_nodes, xxh3_64_intdigest),
            draining,
            Policy(self.breaker, TIMEOUT_S, self.load_factor, self.load_floor),
        )
        assert set(self.router.routes) == set(weights)
        for name, route in self.router.routes.items():
            assert route is before.get(name, route)  # who stays keeps its breaker and its counts
            if route not in self.every_route:
                self.every_route.append(route)
        for name, route in before.items():
            if name not in weights:
                route.up = False  # what the gateway does before it retires a link

    def connect(self, name: str) -> FakeLink:
        route = self.router.routes[name]
        link = FakeLink(self.router, route)
        self.links.append(link)
        route.link, route.up, route.leaving = link, True, False
        return link

    def link(self, name: str) -> FakeLink:
        found = self.router.routes[name].link
        assert isinstance(found, FakeLink)
        return found

    def submit(self, key: int = 1) -> RecordingCall:
        call = RecordingCall(key)
        self.calls.append(call)
        self.router.submit(call)
        return call

    @property
    def waiting(self) -> list[tuple[FakeLink, RecordingCall]]:
        return [(link, call) for link in self.links for call in link.calls]

    def take(self, link: FakeLink, call: RecordingCall) -> None:
        link.calls.remove(call)
        assert call.route is link.route

    def answer(self, name: str, kind: Tell, payload: bytes = b"[2]", status: int = 200) -> RecordingCall:
        """The oldest call on this worker's link is answered."""
        link = self.link(name)
        call = link.calls[0]
        self.take(link, call)
        self.router.answered(call, kind, 0, status, payload, 5)
        return call

    def break_link(self, link: FakeLink) -> None:
        if link.route.link is link:
            link.route.up = False
        calls, link.calls = link.calls, []
        for call in calls:
            self.router.lost(call, "the connection was lost")

    def owners(self, key: int = 1) -> tuple[str, ...]:
        return self.router.ring.owners(key)

    def check(self) -> None:
        for route in self.every_route:
            assert route.in_flight == sum(call.route is route for _, call in self.waiting)
            assert route.in_flight >= 0
            probing = sum(call.route is route and call.permit < 0 for _, call in self.waiting)
            assert route.breaker.probes == probing
        assert self.router.in_flight == sum(route.in_flight for route in self.router.routes.values())
        waiting = [call for _, call in self.waiting]
        assert len(waiting) == len({id(call) for call in waiting})
        for call in self.calls:
            assert len(call.outcomes) == (call not in waiting), "not answered exactly once"
            self.check_outcome(call)

    def check_outcome(self, call: RecordingCall) -> None:
        for kind, error in call.outcomes:
            if kind == "error":
                assert isinstance(error, ApiError)
                assert error.status in (503, 504)
                assert error.message
                if error.status == 503:
                    assert error.retry_after_s is not None
                    assert error.retry_after_s >= 1
                if error.code == "workers_failed":
                    assert call.attempts == MAX_ATTEMPTS

    def submit_checked(self, key: int) -> None:
        """A call is refused only if nobody could have taken it."""
        call = RecordingCall(key)
        possible = any(can_take(route, call) for route in self.router.routes.values())
        self.calls.append(call)
        self.router.submit(call)
        assert bool(call.sent_to) == possible


class RouterMachine(RuleBasedStateMachine):
    """Any order of requests, answers, losses, timeouts, and of what operators and workers do."""

    @initialize(count=st.integers(0, 4))
    def begin(self, count: int) -> None:
        self.world = World([f"w{index}" for index in range(count)])

    def pick(self, number: int) -> tuple[FakeLink, RecordingCall]:
        waiting = self.world.waiting
        return waiting[number % len(waiting)]

    def some_route(self, number: int) -> Route:
        routes = list(self.world.router.routes.values())
        return routes[number % len(routes)]

    @rule(keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    def submit(self, keys: list[int]) -> None:
        for key in keys:
            self.world.submit_checked(key)

    @precondition(lambda self: self.world.waiting)
    @rule(number=st.integers(0, 10**6), status=st.sampled_from([400, 422]), good=st.booleans())
    def answer(self, number: int, status: int, good: bool) -> None:
        link, call = self.pick(number)
        self.world.take(link, call)
        breaker, before = link.route.breaker, (link.route.breaker.state, link.route.breaker.successes)
        current = call.permit == breaker.acquire() if breaker.state is State.CLOSED else False
        if good:
            self.world.router.answered(call, Tell.RESULT, 0, 200, b"[2]", 5)
            assert call.outcomes == [("result", b"[2]")]
        else:
            self.world.router.answered(call, Tell.REFUSED, 0, status, b'{"error":"x","code":"y"}', 5)
            assert call.outcomes == [("refusal", status)]
        if current:
            assert breaker.failures == 0
        assert breaker.state in (before[0], State.CLOSED)

    @precondition(lambda self: self.world.waiting)
    @rule(number=st.integers(0, 10**6))
    def busy(self, number: int) -> None:
        link, call = self.pick(number)
        self.world.take(link, call)
        route, attempts = link.route, call.attempts

        def counts() -> tuple[object, ...]:
            breaker = route.breaker
            return breaker.state, breaker.failures, breaker.successes, breaker.opens, route.failures, route.requests

        before = counts()
        sent = len(call.sent_to)
        others = any(can_take(other, call) for other in self.world.router.routes.values())
        late = self.world.clock.now - call.began >= TIMEOUT_S
        self.world.router.answered(call, Tell.BUSY, 0, 503, b"", 0)
        assert counts() == before
        if not late:
            assert (len(call.sent_to) == sent + 1) == others
        assert call.attempts == attempts - (len(call.sent_to) == sent)

    @precondition(lambda self: self.world.waiting)
    @rule(number=st.integers(0, 10**6), kind=st.sampled_from([Tell.FAILED, 0, 99]))
    def failed(self, number: int, kind: int) -> None:
        link, call = self.pick(number)
        self.world.take(link, call)
        failures = link.route.failures
        self.world.router.answered(call, kind, 0, 503, b"\xff" if kind else b"", 0)
        assert link.route.failures == failures + 1

    @precondition(lambda self: self.world.waiting)
    @rule(number=st.integers(0, 10**6))
    def link_dies(self, number: int) -> None:
        link, _ = self.pick(number)
        self.world.break_link(link)

    @precondition(lambda self: self.world.router.routes)
    @rule(number=st.integers(0, 10**6), revive=st.booleans())
    def connects(self, number: int, revive: bool) -> None:
        route = self.some_route(number)
        if not route.up:
            if revive:
                route.breaker.revive("a new process has answered")
            self.world.connect(route.name)

    @precondition(lambda self: self.world.router.routes)
    @rule(number=st.integers(0, 10**6))
    def leaves(self, number: int) -> None:
        self.some_route(number).leaving = True

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        """What an attempt may take is watched by the links, as in the gateway's tick."""
        world = self.world
        world.clock.now += seconds
        world.router.tick()
        for route in world.router.routes.values():
            breaker = route.breaker
            assert breaker.state is not State.OPEN or world.clock.now - breaker.since < breaker.open_for_s
        before = world.clock.now - world.router.attempt_timeout_s
        for link in world.links:
            for call in [call for call in link.calls if call.sent_at <= before]:
                world.take(link, call)
                world.router.timed_out(call)

    @rule(
        weights=st.dictionaries(st.sampled_from(["w0", "w1", "w2", "w3", "w4"]), st.sampled_from([0.5, 1.0, 2.0])),
        draining=st.sets(st.sampled_from(["w0", "w1", "w2"])),
        threshold=st.integers(1, 5),
        load_factor=st.sampled_from([0.0, 1.0, 1.25, 2.0]),
        load_floor=st.integers(1, 4),
    )
    def configure(
        self, weights: dict[str, float], draining: set[str], threshold: int, load_factor: float, load_floor: int
    ) -> None:
        self.world.load_factor, self.world.load_floor = load_factor, load_floor
        self.world.breaker = BreakerConfig(failure_threshold=threshold, success_threshold=2, open_s=5.0)
        self.world.configure(weights, draining & set(weights))

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        """Everybody is answered in the end, and nothing is in flight."""
        if not hasattr(self, "world"):
            return
        world = self.world
        while world.waiting:
            link, call = world.waiting[0]
            world.take(link, call)
            world.router.answered(call, Tell.RESULT, 0, 200, b"[2]", 5)
        world.check()
        assert world.router.in_flight == 0
        assert all(route.in_flight == 0 and route.breaker.probes == 0 for route in world.every_route)


RouterMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestRouterMachine = RouterMachine.TestCase


def test_the_owner_of_the_key_gets_the_call() -> None:
    world = World(["a", "b", "c"])
    for key in range(0, 2**64, 2**64 // 50):
        call = world.submit(key)
        assert call.sent_to == [world.router.routes[world.owners(key)[0]]]


def test_a_failure_goes_to_the_next_owner_and_a_second_one_to_the_client() -> None:
    world = World(["a", "b", "c"])
    first, second, _ = world.owners()
    call = world.submit()
    world.answer(first, Tell.FAILED, b"out of memory")
    assert world.link(second).calls == [call]
    assert world.router.failovers == 1
    world.answer(second, Tell.FAILED, b"out of memory")
    assert (call.error.status, call.error.code, call.error.retry_after_s) == (503, "workers_failed", 1)
    assert first in call.error.message
    assert second in call.error.message
    assert "out of memory" in call.error.message


def test_five_hundred_malformed_requests_open_no_breaker() -> None:
    world = World(["a", "b", "c"], BreakerConfig())
    for key in range(0, 2**64, 2**64 // 500):
        world.submit(key)
        world.answer(world.owners(key)[0], Tell.REFUSED, b'{"error":"x","code":"y"}', 422)
    for route in world.router.routes.values():
        assert (route.breaker.state, route.breaker.failures, route.failures) == (State.CLOSED, 0, 0)


def test_busy_workers_are_asked_once_each_then_the_client_may_come_back() -> None:
    world = World(["a", "b", "c"])
    call = world.submit()
    for name in world.owners():
        assert not call.outcomes
        world.answer(name, Tell.BUSY, b"", 503)
    assert (call.error.status, call.error.code, call.error.retry_after_s) == (503, "overloaded", 1)
    assert all(route.breaker.failures == 0 for route in world.router.routes.values())


def test_a_worker_that_is_full_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "MAX_IN_FLIGHT", 2)
    world = World(["a", "b"])
    calls = [world.submit() for _ in range(5)]
    first, second = world.owners()
    assert [len(world.link(first).calls), len(world.link(second).calls)] == [2, 2]
    assert calls[4].error.code == "overloaded"


def test_a_worker_with_more_than_its_part_passes_calls_on_and_none_is_refused_for_it() -> None:
    world = World(["a", "b", "c"])
    world.load_factor, world.load_floor = 1.25, 2
    world.configure(dict.fromkeys("abc", 1.0), set())
    calls = [world.submit() for _ in range(300)]  # one key: a single owner
    in_flight = [route.in_flight for route in world.router.routes.values()]
    assert sum(in_flight) == 300
    assert max(in_flight) <= 1.25 * 100 + 1
    assert world.router.spills > 0
    assert not any(call.outcomes for call in calls)
    first, second, third = world.owners()
    world.router.routes[first].leaving = True
    world.break_link(world.link(second))
    assert world.router.routes[third].in_flight + world.router.routes[first].in_flight == 300
    assert world.router.routes[first].in_flight == in_flight["abc".index(first)]  # the only one that stays takes all


def test_a_name_learned_late_takes_what_is_in_flight_along() -> None:
    world = World(["127.0.0.1:1"])
    call, route = world.submit(), world.router.routes["127.0.0.1:1"]
    world.router.rename("127.0.0.1:1", "worker_1")
    world.configure({"worker_1": 1.0}, set())
    assert world.router.routes["worker_1"] is route
    assert world.submit().sent_to == [route]
    world.answer("worker_1", Tell.RESULT)
    assert call.outcomes == [("result", b"[2]")]
    assert world.router.in_flight == 1


def test_a_lost_link_gives_all_its_calls_to_the_others() -> None:
    world = World(["a", "b"], BreakerConfig(failure_threshold=1000))
    first, second = world.owners()
    calls = [world.submit() for _ in range(20)]
    world.break_link(world.link(first))
    assert world.link(second).calls == calls
    for _ in calls:
        world.answer(second, Tell.RESULT)
    assert all(call.outcomes == [("result", b"[2]")] for call in calls)


@pytest.mark.parametrize("reason", ["draining", "leaving"])
def test_a_worker_on_its_way_out_is_the_last_resort(reason: str) -> None:
    world = World(["a", "b", "c"])
    first, second, third = world.owners()
    setattr(world.router.routes[first], reason, True)
    assert not world.router.routes[first].routable
    assert world.submit().sent_to == [world.router.routes[second]]
    for name in (second, third):
        world.router.routes[name].up = False
    assert world.submit().sent_to == [world.router.routes[first]]


def test_all_open_says_when_the_first_one_will_try_again() -> None:
    world = World(["a", "b"], BreakerConfig(failure_threshold=1, open_s=30.0))
    world.router.routes["a"].breaker.count_failure("no")
    world.clock.now += 12.5
    world.router.routes["b"].breaker.count_failure("no")
    error = world.submit().error
    assert (error.status, error.code, error.retry_after_s) == (503, "no_worker_available", 18)
    assert "a OPEN" in error.message
    world.clock.now += 17.5
    assert world.submit().sent_to == [world.router.routes["a"]]


def test_nobody_connected_and_nobody_configured_are_told_apart() -> None:
    world = World(["a"])
    world.router.routes["a"].up = False
    error = world.submit().error
    assert (error.status, error.code, error.retry_after_s) == (503, "no_worker_available", 1)
    assert "not connected" in error.message
    world.configure({}, set())
    error = world.submit().error
    assert (error.status, error.code, error.retry_after_s) == (503, "no_workers", 1)


def test_half_open_probes_are_bounded_and_the_rest_goes_on() -> None:
    world = World(["a", "b"], QUICK)
    first, second = world.owners()
    for _ in range(3):
        world.router.routes[first].breaker.count_failure("no")
    world.clock.now += 5.0
    for _ in range(10):
        world.submit()
    assert [len(world.link(first).calls), len(world.link(second).calls)] == [2, 8]
    for _ in range(2):
        world.answer(first, Tell.RESULT)
    assert world.router.routes[first].breaker.state is State.CLOSED


def test_time_runs_out_once_for_each_attempt() -> None:
    world = World(["a", "b", "c"])
    first, second, _ = world.owners()
    call = world.submit()
    world.clock.now += 5.0
    world.take(world.link(first), call)
    world.router.timed_out(call)
    assert world.link(second).calls == [call]
    assert world.router.routes[first].breaker.failures == 1
    world.clock.now += 5.0
    world.take(world.link(second), call)
    world.router.timed_out(call)
    assert (call.error.status, call.error.code) == (504, "deadline_passed")
    assert "10 s" in call.error.message


def test_what_comes_back_after_the_deadline_is_not_tried_again() -> None:
    world = World(["a", "b"])
    call = world.submit()
    world.clock.now += 10.0
    world.answer(world.owners()[0], Tell.BUSY)
    assert call.error.code == "deadline_passed"


def test_a_worker_removed_while_it_works_still_answers() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    call = world.submit()
    link = world.link(first)
    world.configure({second: 1.0}, set())
    world.take(link, call)
    world.router.answered(call, Tell.RESULT, 0, 200, b"[7]", 5)
    assert call.outcomes == [("result", b"[7]")]
    assert link.route.in_flight == 0


def test_a_worker_removed_and_lost_passes_its_calls_on() -> None:
    world = World(["a", "b"])
    first, second = world.owners()
    call = world.submit()
    link = world.link(first)
    world.configure({second: 1.0, "c": 1.0}, set())
    world.break_link(link)
    assert world.link(second).calls == [call]


def test_breaker_changes_are_told_with_the_workers_name() -> None:
    told: list[tuple[str, State, State]] = []
    router = Router(Clock(), lambda name, before, after, _: told.append((name, before, after)))
    ring = Ring({"a": 1.0, "b": 1.0}, 8, xxh3_64_intdigest)
    router.configure(ring, set(), Policy(BreakerConfig(failure_threshold=1), TIMEOUT_S))
    router.routes["b"].breaker.count_failure("no")
    assert told == [("b", State.CLOSED, State.OPEN)]
