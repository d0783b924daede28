"""Suspected inputs on their way: one at a time per worker, and each in one place only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway_app.core.call import MAX_IN_FLIGHT, Call, Route
from gateway_app.core.suspects import Verdict
from gateway_app.core.watch import HELD_UP_S

if TYPE_CHECKING:
    from gateway_app.core.router import Router


# A suspect that has waited for this part of its time goes the way of all others: most of them have done nothing.
PATIENCE = 0.2


class Quarantine:
    """Keeps those that were in flight on a lost worker apart, until it is known which of them did it, if any."""

    def __init__(self, router: Router, clock: Callable[[], float]) -> None:
        self._router = router
        self._clock = clock
        self.waiting: dict[Call, float] = {}  # for their turn, and until when, in the order in which they came

    def lost(self, route: Route, calls: list[Call]) -> None:
        """A worker was lost with these: each may be what ended it."""
        inputs = {(call.key, call.payload): self.is_watched(call) for call in calls}
        watched = sum(inputs.values())
        for (key, text), was_watched in inputs.items():
            self._router.suspects.lost(key, text, route.name, alone=was_watched and watched == 1)
        for call in calls:
            for each in (call, call.first, call.hedge):
                if each is not None:
                    each.suspect = True
                    if each.flying and each.route.suspect is None:
                        each.route.suspect = each

    def is_watched(self, call: Call) -> bool:
        """Whether a worker was lost while it had this input, this call's or another one's."""
        return bool(self._router.suspects.watching) and self.judge(call) is not Verdict.CLEAR

    def judge(self, call: Call) -> Verdict:
        """What is known of a call's input by now."""
        return self._router.suspects.verdict(call.key, call.payload)

    def admits(self, call: Call, route: Route) -> bool:
        """Whether this worker may get this suspect now."""
        if route.suspect is not None:
            return False
        carried = (each.suspect for each in self._router.routes.values())
        return not any(other is not None and other.key == call.key for other in carried)

    def wait(self, call: Call) -> bool:
        """Keeps a suspect until it is its turn; False if too many wait."""
        if len(self.waiting) >= MAX_IN_FLIGHT:
            return False
        if not call.patience:  # not anew each time it has been tried
            call.patience = min(self._clock() + PATIENCE * (call.deadline - call.began), call.deadline)
        self.waiting[call] = call.patience
        return True

    def leave(self, call: Call) -> bool:
        """A call waits no more; whether it did."""
        if call not in self.waiting:
            return False
        del self.waiting[call]
        return True

    def free(self, call: Call) -> None:
        """If the call was its worker's suspect, the next one may come."""
        route = call.route
        if call.suspect and route.suspect is call:
            route.suspect = None
            self._next(route)

    def dispatch_all(self) -> None:
        """Lets each try again: who waits may not be suspected any more."""
        for call in tuple(self.waiting):
            if self.leave(call):
                self._router.dispatch(call, self._clock())

    def tick(self, now: float, late_s: float = 0.0) -> None:
        """Lets those go that have waited for long enough, and uses whatever worker has become free; `late_s`: how long
        this loop itself was held up."""
        if self.waiting:
            for call in self.waiting if late_s >= HELD_UP_S else ():  # those before them could not be heard of
                call.patience = self.waiting[call] = min(call.patience + late_s, call.deadline)
            for call in [call for call, until in self.waiting.items() if now >= until]:
                if now >= call.deadline:
                    self._router.attempts.time_out(call)
                elif self.leave(call):
                    call.released = True
                    self._router.dispatch(call, now)
            for route in tuple(self._router.routes.values()):
                self._next(route)

    def _next(self, route: Route) -> None:
        while route.up and route.suspect is None:
            call = next((each for each in self.waiting if route not in each.tried), None)
            if call is None:
                return
            self.leave(call)
            self._router.dispatch(call, self._clock())
            if call in self.waiting:  # behind all others
                return
