"""What the passing of time means for requests in flight: limits, second workers for slow ones, slow workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from gateway_app.core.breaker import Cause, State
from gateway_app.core.call import Call, Hedge, Route
from gateway_app.core.pace import Pace

if TYPE_CHECKING:
    from gateway_app.core.router import Router

# A worker may fail a request once after its bytes were sent; the second failure is the client's to see.
MAX_ATTEMPTS = 2
# A second worker is not asked sooner than this, however quick answers usually are.
HEDGE_FLOOR_S = 0.05
# An answer is slow that takes longer than this, and many times what is usual.
SLOW_FLOOR_S = 0.005
# A worker is slow that looks so this many times in a row: a few large bodies may make it look so for a moment.
SLOW_LOOKS, LOOK_S = 3, 0.5
# A probe's time, or three times what nearly all answers of that worker take.
PROBE_FLOOR_S = 1.0
# A loop that was held up for less than this is only busy.
HELD_UP_S = 0.1


class Watch:
    """Looks at a router's calls and workers some tens of times a second."""

    def __init__(self, router: Router, clock: Callable[[], float]) -> None:
        self._router = router
        self._second_began = self._looked_at = clock()

    def tick(self, now: float, late_s: float = 0.0) -> None:
        """Acts on whatever has lasted too long; `late_s`: how long this loop itself was held up."""
        if late_s >= HELD_UP_S:
            self._forgive(now, late_s)
        if now - self._second_began >= 1:
            self._second_began = now
            self._router.budget.roll()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._find_slow()
        hedge_after_s = self._hedge_after_s()
        for route in tuple(self._router.routes.values()):
            if route.in_flight and route.link is not None:
                probe_s = max(PROBE_FLOOR_S, 3 * route.pace.p99) if route.pace.known else math.inf
                pending = [each for each in route.link.pending() if each.route is route]
                for call in [each for each in pending if _is_due(each, now, hedge_after_s, probe_s)]:
                    if call.flying:  # not taken back meanwhile, with another one
                        self._act(call, now, probe_s)

    def _forgive(self, now: float, late_s: float) -> None:
        """While the loop was held up no worker was waited for; clients have waited all the same."""
        for route in self._router.routes.values():
            for call in route.link.pending() if route.in_flight and route.link is not None else ():
                if call.route is route:
                    call.sent_at = min(now, call.sent_at + late_s)

    def _act(self, call: Call, now: float, probe_s: float) -> None:
        router, age_s = self._router, now - call.sent_at
        if now >= call.deadline:
            # A client in a hurry says nothing about the worker.
            router.attempts.withdraw(call, failed=2 * age_s >= router.policy.timeout_s)
            router.attempts.time_out(call)
        elif call.permit < 0 and age_s >= probe_s:
            reason = f"no answer to a probe within {probe_s:.1f} s"
            call.route.failures += 1
            call.route.breaker.failure(call.permit, reason)
            call.permit = 0  # it is no probe any more
            router.attempts.pass_on(call, reason)
        else:
            self._hedge(call, now)

    def _hedge(self, call: Call, now: float) -> None:
        """Asks a second worker too, if one can take the call at once."""
        router, hedge = self._router, Hedge(call)
        if router.quarantine.is_watched(call):  # it may end both
            return
        route = router.attempts.other(call)
        if route is not None and router.attempts.may_repeat(call, spare=True) and router.send(hedge, route, now):
            call.hedge = hedge
            call.attempts += 1
            router.hedges += 1

    def _hedge_after_s(self) -> float:
        """How long a call may take before a second worker is asked too."""
        paces = [route.pace.p99 for route in self._router.routes.values() if route.up and route.pace.known]
        return max(HEDGE_FLOOR_S, 2 * median(paces)) if self._router.policy.hedging and paces else math.inf

    def _find_slow(self) -> None:
        """Opens the breaker of a worker whose answers take many times what those of the others take, for some time."""
        factor = self._router.policy.slow_factor
        staying = [route for route in self._router.routes.values() if route.staying]
        measured = [route for route in staying if route.pace.known and route.name != self._router.apart]
        for route in measured if factor else ():
            others = [other.pace.median for other in measured if other is not route]
            limit_s = self._slow_from_s(median(others)) if others else math.inf
            is_slow = route.breaker.state is State.CLOSED and route.pace.median > limit_s
            route.slow_looks = route.slow_looks + 1 if is_slow else 0
            if route.slow_looks >= SLOW_LOOKS and _can_do_without(route, staying):
                took_ms, usual_ms = route.pace.median * 1000, median(others) * 1000
                reason = f"half of its answers take over {took_ms:.1f} ms, those of the others {usual_ms:.1f} ms"
                if route.breaker.trip(Cause.SLOW, reason):
                    route.pace, route.slow_s, route.slow_looks = Pace(), limit_s, 0

    def _slow_from_s(self, usual_s: float) -> float:
        return max(SLOW_FLOOR_S, self._router.policy.slow_factor * usual_s)


def _can_do_without(route: Route, staying: Sequence[Route]) -> bool:
    """Whether half of the workers are left without this one: what most of them show is not slow but usual."""
    left = sum(other.breaker.state is State.CLOSED for other in staying if other is not route)
    return 2 * left >= len(staying)


def _is_due(call: Call, now: float, hedge_after_s: float, probe_s: float) -> bool:
    """Whether a call in flight has lasted long enough for something to be done about it."""
    if now >= call.deadline:
        return True
    age_s = now - call.sent_at
    if call.permit < 0 and age_s >= probe_s:
        return True
    # At half of its time at the latest, so that the second worker has as long as the first.
    slow = age_s >= hedge_after_s or 2 * age_s >= call.deadline - call.began
    return slow and call.hedge is None and call.first is None and call.attempts < MAX_ATTEMPTS
