"""One sample that waits for the engine, and all who asked for it."""

from __future__ import annotations

import logging
import math
import time
from typing import Protocol

from inference_site.lib.frames import Cache, Tell
from worker_app.samples import Sample

logger = logging.getLogger(__name__)

Token = object


class Reply(Protocol):
    """Takes one outcome: what the asker passed as `token`, the kind of reply, cache state, status, payload, µs."""

    def __call__(
        self, token: Token, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int, /
    ) -> None: ...


# Who asked, since when and until when, in seconds of the monotonic clock. A plain tuple: there is one per cache miss.
Waiter = tuple[Token, Reply, float, float]


class Waiting:
    """Who waits for one outcome."""

    __slots__ = ("soonest", "waiters")

    is_check = False

    def __init__(self) -> None:
        self.waiters: list[Waiter] = []
        self.soonest = math.inf  # no waiter's deadline is before this moment

    def join(self, token: Token, reply: Reply, began: float, left_ms: int) -> None:
        """One more waits for it, for `left_ms` or, with 0, without a limit."""
        deadline = began + left_ms / 1000 if left_ms else math.inf
        self.waiters.append((token, reply, began, deadline))
        if deadline < self.soonest:
            self.soonest = deadline

    def take_over(self, other: Waiting) -> None:
        """All who wait for another one wait for this one."""
        self.waiters += other.waiters
        self.soonest = min(self.soonest, other.soonest)

    def leave(self, token: Token, reply: Reply) -> None:
        """One does not wait any more."""
        self.waiters = [each for each in self.waiters if each[0] != token or each[1] != reply]

    def take_late(self, now: float) -> list[Waiter]:
        """Takes out those whose deadline has passed."""
        late = [each for each in self.waiters if each[3] <= now]
        self.waiters = [each for each in self.waiters if each[3] > now]
        self.soonest = min((each[3] for each in self.waiters), default=math.inf)
        return late


class Job(Waiting):
    """A sample, and who waits for its result.

    A check of the engine is a job too: nobody may join it, and its result is nobody's answer.
    """

    __slots__ = ("is_check", "sample", "watched")

    def __init__(self, sample: Sample, watched: int | None = None, *, is_check: bool = False) -> None:
        super().__init__()
        self.sample = sample
        self.watched = watched  # the routing key of an input that may end the process
        self.is_check = is_check


def hand_over(waiter: Waiter, kind: Tell, cache: Cache, status: int, payload: bytes) -> None:
    """Gives one waiter the outcome."""
    token, reply, began, _ = waiter
    try:
        reply(token, kind, cache, status, payload, elapsed_us(began))
    except Exception:  # a bug at one asker's end must not keep the others from their answers
        logger.exception("an answer could not be handed over")


def elapsed_us(began: float) -> int:
    """Microseconds since a moment of the monotonic clock."""
    return int((time.monotonic() - began) * 1e6)
