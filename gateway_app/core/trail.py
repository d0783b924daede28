"""What a call that is traced has met on its way: the workers that were asked, how each attempt ended, and when."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from inference_site.lib.frames import Tell
from inference_site.lib.trace import Detail

if TYPE_CHECKING:
    from gateway_app.core.call import Call

_OUTCOMES = {
    int(Tell.RESULT): "answered",
    int(Tell.REFUSED): "answered",
    int(Tell.BUSY): "busy",
    int(Tell.EXPIRED): "expired",
    int(Tell.GONE): "gone",
}


class _Refusal(msgspec.Struct):
    error: str


class Try:
    """One attempt. Times are seconds of the router's clock."""

    __slots__ = ("began", "cache", "detail", "ended", "outcome", "reason", "why", "worker", "worker_s")

    def __init__(self, worker: str, why: str, began: float) -> None:
        self.worker = worker
        self.why = why  # this worker
        self.began = began
        self.ended = began
        self.outcome = ""  # "": it is under way
        self.reason = ""
        self.cache = 0
        self.worker_s = 0.0  # by the worker's own clock
        self.detail: Detail | None = None


class Trail:
    """The attempts of one call, and those beside them."""

    __slots__ = ("_clock", "_under_way", "first_at", "tries")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.tries: list[Try] = []
        self.first_at: float | None = None  # when it was first sent, or began to wait for its turn
        self._under_way: dict[Call, Try] = {}

    @property
    def answer(self) -> Try | None:
        """The attempt that was answered."""
        return next((each for each in reversed(self.tries) if each.outcome == "answered"), None)

    def passed(self, earlier: Try) -> None:
        """Before it came here it was tried elsewhere."""
        self.first_at = earlier.began
        self.tries.append(earlier)

    def kept(self) -> None:
        """It has to wait until it is its turn."""
        if self.first_at is None:
            self.first_at = self._clock()

    def sent(self, call: Call, why: str) -> None:
        """It is on its way to the worker of its route."""
        now = self._clock()
        if self.first_at is None:
            self.first_at = now
        self._under_way[call] = attempt = Try(call.route.name, why, now)
        self.tries.append(attempt)

    def detailed(self, call: Call, detail: Detail) -> None:
        """The worker says how it went; what it has answered comes next."""
        if call in self._under_way:
            self._under_way[call].detail = detail

    def answered(self, call: Call, kind: int, cache: int, payload: bytes, time_us: int) -> None:
        """A frame with the outcome has come."""
        attempt = self._under_way.get(call)
        if attempt is not None:
            attempt.cache, attempt.worker_s = cache, time_us / 1e6
            self.ended(call, _OUTCOMES.get(kind, "failed"), _reason_of(kind, payload, time_us))

    def ended(self, call: Call, outcome: str, reason: str = "") -> None:
        """An attempt is over."""
        attempt = self._under_way.pop(call, None)
        if attempt is not None:
            attempt.ended, attempt.outcome, attempt.reason = self._clock(), outcome, reason

    def blamed(self, reason: str) -> None:
        """What was answered last was no answer: another worker is to say what it thinks of this input."""
        if self.answer is not None:
            self.answer.reason, self.answer.outcome = reason, "failed"


def _reason_of(kind: int, payload: bytes, time_us: int) -> str:
    if kind == Tell.RESULT:
        return ""
    if kind == Tell.REFUSED:
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(payload, type=_Refusal).error
    if kind == Tell.BUSY:
        return f"{time_us / 1e6:.1f} s of work wait there"
    if kind == Tell.EXPIRED:
        return "its time was over before the model ran"
    if kind == Tell.GONE:
        return "it has unloaded the model"
    return payload.decode(errors="replace") or f"it answered with frame kind {kind}"
