"""Whether a model runs on a worker that is connected: now and then, unless requests show it."""

from __future__ import annotations

from collections.abc import Callable

from gateway_app.core.breaker import State
from gateway_app.core.call import Route
from inference_site.lib.frames import Tell

# A check has this long, or three times what nearly all answers of that worker take.
CHECK_FLOOR_S = 2.0


class Checkup:
    """Has one model run on its warm-up input; its breaker counts how that ends. `ask(limit_ms)` sends a check and gives
    its id."""

    __slots__ = ("_ask", "_check", "_computed", "_due", "_route")

    def __init__(self, route: Route, ask: Callable[[int], int], now: float) -> None:
        self._route = route
        self._ask = ask
        self._due = now
        self._check: tuple[int, int, float, float] | None = None  # id, permit, begin and end of the one under way
        self._computed = 0  # answers that the worker had computed at the last check

    @property
    def ident(self) -> int | None:
        """Of the check that is under way."""
        return self._check[0] if self._check is not None else None

    def tick(self, now: float, late_s: float, *, silent: bool) -> None:
        """Begins a check when it is time, unless the worker is silent, and gives up one that lasts too long; `late_s`:
        how long this loop itself was held up."""
        if self._check is None:
            if not silent:
                self._begin(now)
            return
        ident, permit, began, end = self._check
        self._check = ident, permit, min(now, began + late_s), end + late_s  # the answer may be there, unread
        if now >= end + late_s:
            self.ended(Tell.FAILED, b"a check of the model had no answer in time", now)

    def ended(self, kind: int, payload: bytes, now: float) -> None:
        """The check that is under way has its answer."""
        if self._check is None:
            return
        route, breaker = self._route, self._route.breaker
        (_, permit, began, _), self._check = self._check, None
        if kind == Tell.RESULT and permit < 0 and route.slow_s:
            route.router.probed(route, permit, now - began)
        elif kind == Tell.RESULT:
            breaker.success(permit)
        elif kind in (Tell.BUSY, Tell.EXPIRED, Tell.GONE):
            breaker.release(permit)
        else:
            breaker.failure(permit, payload.decode(errors="replace"))

    def _begin(self, now: float) -> None:
        route, policy = self._route, self._route.router.policy
        trial = route.breaker.state is State.HALF_OPEN
        if not policy.check_s or (now < self._due and not trial):
            return
        self._due = now + policy.check_s
        computed, self._computed = self._computed, route.pace.count
        if computed != route.pace.count and not trial:
            return
        permit = route.breaker.acquire()
        if permit is not None:
            limit_s = max(CHECK_FLOOR_S, 3 * route.pace.p99) if route.pace.known else policy.timeout_s
            self._check = (self._ask(int(limit_s * 1000)), permit, now, now + limit_s)
