"""Workers that come, go and fall silent: what links report of them, and what it means for a router's calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from gateway_app.core import slowstart
from gateway_app.core.breaker import Cause
from gateway_app.core.call import Call, Route
from gateway_app.core.pace import Pace

if TYPE_CHECKING:
    from gateway_app.core.router import Router

# Whoever is connected is neither of these any more.
_CURED_BY_CONNECTING = frozenset((Cause.SILENT, Cause.UNREACHABLE))


class Presence:
    """Which of a router's workers are there, and as which process."""

    def __init__(self, router: Router, clock: Callable[[], float]) -> None:
        self._router = router
        self._clock = clock

    def came_up(self, route: Route, instance: str, last_run: int | None = None) -> bool:
        """A worker has the model, and its link is ready. Otherwise like `met`."""
        route.connected = route.up = True
        route.leaving = route.silent = False
        returned = self.met(route, instance, last_run)
        self._router.quarantine.dispatch_all()
        return returned

    def met(self, route: Route, instance: str, last_run: int | None = None) -> bool:
        """This process answers at the worker's address. Whether it has taken the place of another one.

        `last_run` is the key of the suspect that was running when that one ended, if any.
        """
        before, route.instance = route.instance, instance
        if instance == before:
            self._router.suspects.lives(route.name)
            if route.breaker.cause in _CURED_BY_CONNECTING:
                route.breaker.revive(f"{route.name} is connected again")
        else:
            self._router.suspects.ended(route.name, last_run)
            route.breaker.revive(f"a new process of {route.name} has answered")
            route.pace, route.slow_s = Pace(), 0.0
            if before:
                slowstart.begin(self._router, route, self._clock())
        return bool(before) and instance != before

    def another(self, route: Route, number: int) -> None:
        """A worker that is up answers with another file of the model from now on."""
        route.number = number
        route.pace, route.slow_s = Pace(), 0.0
        if route.breaker.cause not in _CURED_BY_CONNECTING:
            route.breaker.revive(f"{route.name} has loaded another file")

    def lost(self, route: Route, calls: Iterable[Call], reason: str, *, orderly: bool = False) -> None:
        """The connection that these calls were sent on is gone. `orderly`: by nobody's fault."""
        calls = list(calls)
        quarantine, attempts = self._router.quarantine, self._router.attempts
        if not orderly:
            quarantine.lost(route, calls)
        for call in calls:
            if call.flying:  # not taken back meanwhile
                route.in_flight -= 1
                call.flying = False
                quarantine.free(call)
                if call.trace is not None:
                    call.trace.ended(call, "lost", reason)
                attempts.failed(call, reason, Cause.UNREACHABLE)

    def silent(self, route: Route, reason: str) -> None:
        """A worker that has calls says nothing, not even that it lives: others get them, if there are others."""
        route.silent = True
        if route.link is None or not route.breaker.trip(Cause.SILENT, reason):
            return
        for call in [each for each in route.link.pending() if each.route is route]:
            if call.flying and self._router.attempts.pass_on(call, reason):
                route.failures += 1

    def speaks(self, route: Route) -> None:
        """A worker that was silent has been heard again."""
        route.silent = False
        if route.breaker.cause is Cause.SILENT:
            route.breaker.revive("it answers again")
