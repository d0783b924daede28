"""When a worker is asked whether it lives, when it is given up, and how its checks count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway_app.core.breaker import BreakerConfig, Cause, State
from gateway_app.core.call import Route
from gateway_app.core.policy import Policy
from gateway_app.streams.checkup import CHECK_FLOOR_S
from gateway_app.streams.vitals import IDLE_SILENCE_S, Vitals
from inference_site.lib.frames import Ask, Tell
from tests.gateway_app.core.fleet import PLAIN, FakeLink, World

TICK_S = 1 / 32  # no rounding when many are added
QUIET = replace(PLAIN, silence_s=0.3, check_s=0.0)
CHECKS = replace(PLAIN, silence_s=0.0, check_s=2.0)


class Patient(FakeLink):
    """A link with vitals; what it asks of its worker is noted with its time."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, world.route(name))
        self.policy = world.policy
        self.routes: list[Route] = [self.route]
        self.asked: list[tuple[Ask, int]] = []
        self.models: list[int] = []  # that checks were for
        self.bulk_bytes = 0
        self.route.link = self
        self.vitals = Vitals(self, world.clock)
        world.links.append(self)

    @property
    def in_flight(self) -> int:
        return len(self.calls)

    def ask(self, kind: Ask, left_ms: int = 0, model: int = 0) -> int:
        self.asked.append((kind, left_ms))
        self.models += [model] if kind is Ask.CHECK else []
        return len(self.asked)

    @property
    def pings(self) -> int:
        return sum(kind is Ask.PING for kind, _ in self.asked)

    @property
    def checks(self) -> int:
        return sum(kind is Ask.CHECK for kind, _ in self.asked)

    def wait(self, seconds: float, *, speaks: bool = False, late_s: float = 0.0) -> None:
        """Time passes in ticks."""
        for _ in range(round(seconds / TICK_S)):
            self.world.clock.now += TICK_S
            self.vitals.heard = self.vitals.heard or speaks
            self.vitals.tick(late_s)

    def state(self) -> State:
        """Of its breaker."""
        return self.route.breaker.state

    def tell(self, kind: Tell, payload: bytes = b"") -> None:
        """The answer to the last question."""
        self.vitals.checked(len(self.asked), kind, payload)


def patient(policy: Policy, *, busy: bool = True) -> Patient:
    """A worker under watch, beside one that is well."""
    world = World(["a", "b"], policy)
    link = Patient(world, world.owners()[0])
    if busy:
        world.submit()
        assert link.calls
    link.vitals.tick(0)
    return link


def test_a_worker_that_speaks_is_not_asked():
    link = patient(QUIET)
    link.wait(60, speaks=True)
    assert link.asked == []
    assert link.state() is State.CLOSED


def test_a_quiet_worker_is_asked_and_lives_if_it_says_anything():
    link = patient(QUIET)
    for asked in range(1, 10):
        link.wait(0.2)
        assert link.pings == asked
        link.vitals.heard = True
        link.wait(TICK_S)
    assert link.state() is State.CLOSED
    assert link.route.breaker.opens == 0


def test_a_silent_worker_is_suspected_within_a_second_and_others_get_what_it_has():
    link = patient(QUIET)
    (call,) = link.calls
    link.wait(0.4)
    assert link.state() is State.CLOSED  # it has 0.3 s to answer
    link.wait(0.1)
    assert (link.state(), link.route.breaker.cause) == (State.OPEN, Cause.SILENT)
    assert "nothing was heard for" in link.route.breaker.last_error
    assert link.withdrawn == [call]
    assert call.flying
    assert link.pings == 1
    link.vitals.heard = True
    link.wait(TICK_S)
    assert link.state() is State.HALF_OPEN  # it may prove that it is well


def test_one_that_stays_silent_is_not_tried_for_long_when_its_time_has_passed():
    link = patient(QUIET)
    link.wait(0.5)
    for _ in range(3):
        opens = link.route.breaker.opens
        link.world.clock.now += link.route.breaker.open_for_s
        link.world.router.tick()
        assert link.state() is State.HALF_OPEN
        link.wait(TICK_S)
        assert (link.state(), link.route.breaker.opens) == (State.OPEN, opens + 1)


def test_the_last_worker_is_not_given_up_for_its_silence():
    link = patient(QUIET)
    link.world.kill(link.world.owners()[1])
    link.wait(5)
    assert link.state() is State.CLOSED
    assert len(link.calls) == 1


def test_a_worker_without_requests_is_asked_later():
    link = patient(QUIET, busy=False)
    link.wait(IDLE_SILENCE_S - 2 * TICK_S)
    assert link.pings == 0
    link.wait(2 * TICK_S)
    assert link.pings == 1
    link.wait(0.5)
    assert link.state() is State.OPEN


def test_time_in_which_this_process_read_nothing_is_not_the_workers_silence():
    link = patient(QUIET)
    link.wait(0.2)
    assert link.pings == 1
    link.world.clock.now += 5  # the answer is there, unread
    link.vitals.tick(5.0)
    assert link.state() is State.CLOSED
    link.wait(0.1, late_s=TICK_S)
    assert link.state() is State.CLOSED
    link.wait(0.5)
    assert link.state() is State.OPEN


def test_a_worker_that_reads_large_bodies_has_more_time():
    link = patient(QUIET)
    link.bulk_bytes = 20_000_000
    link.wait(1.3)
    assert link.state() is State.CLOSED
    link.wait(0.3)
    assert link.state() is State.OPEN


def test_silence_that_is_switched_off_is_no_matter():
    link = patient(replace(QUIET, silence_s=0.0))
    link.wait(60)
    assert link.asked == []
    assert link.state() is State.CLOSED


def test_silence_switched_off_while_an_answer_is_awaited_ends_the_wait():
    link = patient(QUIET)
    link.wait(0.2)
    assert link.pings == 1
    link.policy = replace(QUIET, silence_s=0.0)
    link.wait(60)
    link.policy = QUIET
    link.wait(0.2)
    assert link.state() is State.CLOSED
    assert link.pings == 2


def test_another_connection_is_a_new_beginning():
    link = patient(QUIET)
    link.wait(0.4)
    link.vitals.forget()
    link.world.clock.now += 5
    link.vitals.tick(0)
    link.wait(0.1)
    assert link.state() is State.CLOSED
    assert link.pings == 1


# Checks.


def test_the_model_is_run_every_two_seconds():
    link = patient(CHECKS, busy=False)
    for number in range(1, 6):
        assert link.asked[-1] == (Ask.CHECK, 10_000)  # nothing is known of its pace: as long as a request may take
        assert link.checks == number
        link.tell(Tell.RESULT)
        link.wait(2.0)
    assert link.route.breaker.failures == 0
    assert link.pings == 0


def test_requests_that_are_computed_make_a_check_needless_and_hits_do_not():
    link = patient(CHECKS, busy=False)
    link.tell(Tell.RESULT)
    for _ in range(5):
        link.route.pace.add(0.001)
        link.wait(2.0)
    assert link.checks == 1
    link.wait(2.0)
    assert link.checks == 2


def test_checks_that_fail_open_the_breaker_and_two_that_succeed_close_it():
    link = patient(replace(CHECKS, breaker=BreakerConfig(failure_threshold=3, open_s=5.0)), busy=False)
    for _ in range(3):
        assert link.state() is State.CLOSED
        link.tell(Tell.FAILED, b"out of memory")
        link.wait(2.0)
    assert link.state() is State.OPEN
    assert "out of memory" in link.route.breaker.last_error
    checks = link.checks
    link.wait(2.5)
    assert link.checks == checks  # nothing is sent to it
    link.world.clock.now += 5
    link.world.router.tick()
    for number in (1, 2):
        assert link.state() is State.HALF_OPEN
        link.wait(TICK_S)  # without waiting for the next two seconds, and without any request
        assert link.checks == checks + number
        assert link.route.breaker.probes == 1
        link.tell(Tell.RESULT)
    assert link.state() is State.CLOSED
    assert link.route.breaker.probes == 0


@pytest.mark.parametrize("kind", [Tell.BUSY, Tell.EXPIRED])
def test_a_check_that_was_not_run_says_nothing(kind: Tell):
    link = patient(CHECKS, busy=False)
    for _ in range(20):
        link.tell(kind)
        link.wait(2.0)
    assert (link.state(), link.route.breaker.failures) == (State.CLOSED, 0)


def test_a_check_without_an_answer_is_a_failure_once_and_its_late_answer_is_none():
    link = patient(CHECKS, busy=False)
    for _ in range(30):
        link.route.pace.add(0.01)
    link.tell(Tell.RESULT)
    link.wait(2.0)  # these 30 stood for a check
    link.wait(2.0)
    assert link.asked[-1] == (Ask.CHECK, round(CHECK_FLOOR_S * 1000))
    late = len(link.asked)
    link.wait(CHECK_FLOOR_S + TICK_S)
    assert link.route.breaker.failures == 1
    assert "no answer in time" in link.route.breaker.last_error
    link.vitals.checked(late, Tell.RESULT, b"")
    assert link.route.breaker.failures == 1


def test_time_in_which_this_process_read_nothing_is_no_part_of_a_check():
    link = probed()
    link.world.clock.now += 60  # the answer is there, unread
    link.vitals.tick(60.0)
    assert link.state() is State.HALF_OPEN
    link.tell(Tell.RESULT)
    assert link.route.breaker.successes == 1
    link.wait(TICK_S)
    link.wait(10.0 + TICK_S)
    assert link.state() is State.OPEN  # the next one has had its time


def test_a_slow_model_has_more_time():
    link = patient(CHECKS, busy=False)
    link.tell(Tell.RESULT)
    for _ in range(30):
        link.route.pace.add(3.0)
    link.wait(2.0)
    link.wait(2.0)
    assert link.asked[-1][1] == pytest.approx(9_000, rel=0.1)
    link.wait(8.0)
    assert link.route.breaker.failures == 0


def probed() -> Patient:
    """One whose check is under way, as the probe of a breaker that is half open."""
    link = patient(CHECKS, busy=False)
    link.route.breaker.trip(Cause.OPERATOR, "by hand")
    link.route.breaker.revive("again")
    link.tell(Tell.BUSY)
    link.wait(TICK_S)
    assert link.route.breaker.probes == 1
    return link


def test_a_lost_connection_takes_its_check_along():
    link = probed()
    link.vitals.forget()
    assert link.route.breaker.probes == 0
    assert link.state() is State.HALF_OPEN


def test_checks_that_are_switched_off_are_not_made():
    link = patient(replace(CHECKS, check_s=0.0), busy=False)
    link.route.breaker.trip(Cause.OPERATOR, "by hand")
    link.route.breaker.revive("again")
    link.wait(60)
    assert link.asked == []


def test_an_isolated_worker_is_not_checked():
    link = patient(CHECKS, busy=False)
    link.tell(Tell.RESULT)
    link.route.breaker.isolate(True)
    link.wait(60)
    assert link.checks == 1


def test_a_silent_worker_is_not_checked():
    link = patient(replace(QUIET, check_s=2.0))
    link.tell(Tell.RESULT)
    link.wait(0.6)
    assert link.state() is State.OPEN
    checks = link.checks
    link.world.clock.now += 5
    link.world.router.tick()
    link.wait(60)
    assert link.checks == checks


def test_each_model_of_a_worker_is_checked_and_judged_for_itself():
    link = patient(CHECKS, busy=False)
    link.tell(Tell.RESULT)
    other = World(["a", "b"], replace(CHECKS, breaker=BreakerConfig(failure_threshold=2))).route(link.route.name)
    link.route.number, other.number = 4, 5
    link.routes.append(other)
    link.models.clear()
    link.wait(TICK_S)
    link.tell(Tell.FAILED, b"out of memory")
    for _ in range(3):
        link.wait(2.0)
        first, second = len(link.asked) - 1, len(link.asked)
        models = dict(zip((first, second), link.models[-2:], strict=True))
        for ident, model in models.items():
            kind = Tell.RESULT if model == 4 else Tell.FAILED
            link.vitals.checked(ident, kind, b"" if model == 4 else b"out of memory")
    assert set(link.models) == {4, 5}
    assert (link.state(), other.breaker.state) == (State.CLOSED, State.OPEN)


def test_a_silent_worker_is_silent_for_each_of_its_models():
    link = patient(QUIET)
    other = World(["a", "b"], QUIET).route(link.route.name)
    away = World(["a", "b"], QUIET).route(link.route.name)
    away.up = False
    link.routes += [other, away]
    link.wait(0.5)
    assert [route.breaker.state for route in link.routes] == [State.OPEN, State.OPEN, State.CLOSED]
    link.vitals.heard = True
    link.wait(TICK_S)
    assert [route.breaker.state for route in link.routes] == [State.HALF_OPEN, State.HALF_OPEN, State.CLOSED]


def test_a_model_that_is_unloaded_takes_its_check_along():
    link = probed()
    link.route.up = False
    link.wait(TICK_S)
    assert link.route.breaker.probes == 0
