"""Whether a connected worker is well: does it live, and do its models run?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from gateway_app.core.breaker import State
from gateway_app.core.call import Route
from gateway_app.core.policy import Policy
from gateway_app.streams.checkup import Checkup
from inference_site.lib.frames import Ask, Tell

# A worker without requests, which pushes its numbers twice a second, is asked whether it lives after this long.
IDLE_SILENCE_S = 1.0
# A large body holds up a worker's loop while it is read: this much more patience for each of its bytes.
PATIENCE_S_PER_BYTE = 1 / 20e6


class Link(Protocol):
    """The connection to the worker."""

    policy: Policy

    @property
    def routes(self) -> Sequence[Route]: ...  # of each model, whether the worker has it or not

    @property
    def in_flight(self) -> int: ...
    @property
    def bulk_bytes(self) -> int: ...
    def ask(self, kind: Ask, left_ms: int = 0, model: int = 0) -> int: ...


class Vitals:
    """Watches one worker over its link: what it says, and how runs of its models end."""

    __slots__ = ("_checkups", "_clock", "_heard_at", "_link", "_pinged_at", "heard", "silent")

    def __init__(self, link: Link, clock: Callable[[], float]) -> None:
        self._link = link
        self._clock = clock
        self.heard = True  # since the last look
        self.silent = False  # it has not even answered a ping
        self._heard_at = clock()
        self._pinged_at: float | None = None
        self._checkups: dict[Route, Checkup] = {}

    def forget(self) -> None:
        """The connection is lost, and another one will be a new beginning."""
        for checkup in self._checkups.values():
            checkup.ended(Tell.BUSY, b"", self._clock())
        self.heard, self._pinged_at, self.silent = True, None, False

    def tick(self, late_s: float) -> None:
        """Looks at what has been heard since the last time; `late_s`: how long this loop itself was held up."""
        now = self._clock()
        self._listen(now, late_s)
        routes = self._link.routes
        for route in [each for each in self._checkups if each not in routes or not each.up]:
            self._checkups.pop(route).ended(Tell.BUSY, b"", now)
        for route in routes:
            if route.up:
                if route not in self._checkups:
                    self._checkups[route] = Checkup(route, partial(self._ask_check, route), now)
                self._checkups[route].tick(now, late_s, silent=self.silent)

    def checked(self, ident: int, kind: int, payload: bytes) -> None:
        """A check has its answer."""
        for checkup in self._checkups.values():
            if checkup.ident == ident:
                checkup.ended(kind, payload, self._clock())

    def _ask_check(self, route: Route, limit_ms: int) -> int:
        return self._link.ask(Ask.CHECK, limit_ms, route.number)

    def _listen(self, now: float, late_s: float) -> None:
        """Who says nothing is asked whether it lives, and given up if it does not answer that either."""
        link, silence_s = self._link, self._link.policy.silence_s
        if self.heard:
            self.heard, self._heard_at, self._pinged_at = False, now, None
            if self.silent:
                self.silent = False
                for route in link.routes:
                    route.router.presence.speaks(route)
        elif not silence_s:
            self._pinged_at = None
        elif self._pinged_at is None:
            if now - self._heard_at >= (silence_s / 2 if link.in_flight else IDLE_SILENCE_S):
                link.ask(Ask.PING)
                self._pinged_at = now
        else:
            self._pinged_at += late_s  # the answer may be there, unread
            if now - self._pinged_at >= silence_s + PATIENCE_S_PER_BYTE * link.bulk_bytes:
                self.silent = True
                waited_ms = (now - self._heard_at) * 1000
                reason = f"nothing was heard for {waited_ms:.0f} ms, a ping has no answer"
                for route in link.routes:
                    if route.up and route.breaker.state is not State.OPEN:
                        route.router.presence.silent(route, reason)
