"""Whether a connected worker is well: does it live, and does its model run?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway_app.core.breaker import State
from gateway_app.core.call import Route
from gateway_app.core.router import Router
from inference_site.lib.frames import Ask, Tell

# A worker without requests, which pushes its numbers twice a second, is asked whether it lives after this long.
IDLE_SILENCE_S = 1.0
# A large body holds up a worker's loop while it is read: this much more patience for each of its bytes.
PATIENCE_S_PER_BYTE = 1 / 20e6
# A check has this long, or three times what nearly all answers of that worker take.
CHECK_FLOOR_S = 2.0


class Link(Protocol):
    """The connection to the worker."""

    router: Router
    route: Route

    @property
    def in_flight(self) -> int: ...
    @property
    def bulk_bytes(self) -> int: ...
    def ask(self, kind: Ask, left_ms: int = 0) -> int: ...


class Vitals:
    """Watches one worker over its link: what it says, and how a run of its model ends."""

    __slots__ = ("_check", "_check_due", "_clock", "_computed", "_heard_at", "_link", "_pinged_at", "_silent", "heard")

    def __init__(self, link: Link, clock: Callable[[], float]) -> None:
        self._link = link
        self._clock = clock
        self.heard = True  # since the last look
        self._heard_at = self._check_due = clock()
        self._pinged_at: float | None = None
        self._silent = False
        self._check: tuple[int, int, float, float] | None = None  # id, permit, begin and end of the one under way
        self._computed = 0  # answers that the worker had computed at the last check

    def forget(self) -> None:
        """The connection is lost, and another one will be a new beginning."""
        if self._check is not None:
            self.checked(self._check[0], Tell.BUSY, b"")
        self.heard, self._pinged_at, self._silent = True, None, False

    def tick(self, late_s: float) -> None:
        """Looks at what has been heard since the last time; `late_s`: how long this loop itself was held up."""
        now = self._clock()
        self._listen(now, late_s)
        if self._check is None:
            self._begin_check(now)
        elif now >= self._check[3]:
            self.checked(self._check[0], Tell.FAILED, b"a check of the model had no answer in time")

    def checked(self, ident: int, kind: int, payload: bytes) -> None:
        """A check has its answer."""
        if self._check is None or ident != self._check[0]:
            return
        route, breaker = self._link.route, self._link.route.breaker
        (_, permit, began, _), self._check = self._check, None
        if kind == Tell.RESULT and permit < 0 and route.slow_s:
            self._link.router.probed(route, permit, self._clock() - began)
        elif kind == Tell.RESULT:
            breaker.success(permit)
        elif kind in (Tell.BUSY, Tell.EXPIRED):
            breaker.release(permit)
        else:
            breaker.failure(permit, payload.decode(errors="replace"))

    def _listen(self, now: float, late_s: float) -> None:
        """Who says nothing is asked whether it lives, and given up if it does not answer that either."""
        link, silence_s = self._link, self._link.router.policy.silence_s
        if self.heard:
            self.heard, self._heard_at, self._pinged_at = False, now, None
            if self._silent:
                self._silent = False
                link.router.speaks(link.route)
        elif not silence_s:
            self._pinged_at = None
        elif self._pinged_at is None:
            if now - self._heard_at >= (silence_s / 2 if link.in_flight else IDLE_SILENCE_S):
                link.ask(Ask.PING)
                self._pinged_at = now
        else:
            self._pinged_at += late_s  # the answer may be there, unread
            if now - self._pinged_at >= silence_s + PATIENCE_S_PER_BYTE * link.bulk_bytes:
                self._silent = True
                if link.route.breaker.state is not State.OPEN:
                    waited_ms = (now - self._heard_at) * 1000
                    link.router.silent(link.route, f"nothing was heard for {waited_ms:.0f} ms, a ping has no answer")

    def _begin_check(self, now: float) -> None:
        """Has the model run, unless requests do that already."""
        route, policy = self._link.route, self._link.router.policy
        trial = route.breaker.state is State.HALF_OPEN
        if not policy.check_s or self._silent or (now < self._check_due and not trial):
            return
        self._check_due = now + policy.check_s
        computed, self._computed = self._computed, route.pace.count
        if computed != route.pace.count and not trial:
            return
        permit = route.breaker.acquire()
        if permit is not None:
            limit_s = max(CHECK_FLOOR_S, 3 * route.pace.p99) if route.pace.known else policy.timeout_s
            self._check = (self._link.ask(Ask.CHECK, int(limit_s * 1000)), permit, now, now + limit_s)
