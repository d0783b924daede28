"""A version that one worker tries out: it answers that worker's own keys; what it does not, the stable version does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gateway_app.core.suspects import Verdict
from gateway_app.core.trail import Try
from inference_site.exchange import Asker, Ticket
from inference_site.lib.asks import key_of
from inference_site.lib.catalog import ModelInfo
from inference_site.lib.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway_app.catalog import Key
    from gateway_app.served import ServedModel

_ATTEMPTS = re.compile(rb"(?<=x-attempts: )\d+")


@runtime_checkable
class NamesVersion(Protocol):
    """An Asker whose answer says by which version it was made."""

    def answered_by(self, info: ModelInfo, /) -> None:
        """Another version than the one that was found answers; said before `on_output`."""


class CanaryModel:
    """Answers asks for a model that name no version while one worker tries a new one; an exchange.Served.

    An ask whose key that worker owns goes to the new version. What this does not answer (its breaker is open, it is
    full, lost, slower than half of the request's time, or refuses the input) the stable version is asked, as if nothing
    had been before: the one that answers for the model by then. Once that is the new version itself, its own router
    does what can be done. All other asks go to the stable version at once. Requests of the canary are not passed on for
    load alone. What is under way is in `trying`; call `tick` some tens of times a second.
    """

    def __init__(
        self, stable: ServedModel, canary: ServedModel, worker: str, trying: dict[Trying, None], counts: CanaryCounts
    ) -> None:
        self.stable = stable
        self.canary = canary
        self.worker = worker
        self.trying = trying
        self.counts = counts
        self.inference = self  # whoever is in a hurry asks that of a ServedModel

    @property
    def info(self) -> ModelInfo:
        """Of the stable version, which is the one that answers for its model."""
        return self.stable.info

    def ask(
        self, payload: bytes, asker: Asker, timeout_ms: int | None = None, since: float | None = None, /
    ) -> Ticket | None:
        """As exchange.Served says."""
        stable = self.stable
        owners = stable.router.ring.owners(key_of(payload, stable.inference.seed))
        if not owners or owners[0] != self.worker or not self.takes:
            return stable.inference.ask(payload, asker, timeout_ms, since)
        return Trying(self, payload, asker, timeout_ms, since).begin()

    @property
    def takes(self) -> bool:
        """Whether the worker may be asked for the new version now. Coming back, it first grows to its share."""
        route, usual = (each.router.routes.get(self.worker) for each in (self.canary, self.stable))
        return route is not None and route.routable and (usual is None or usual.ramp_from is None)

    @property
    def is_lost(self) -> bool:
        """Whether what the worker has of the new version is better asked of others."""
        route = self.canary.router.routes.get(self.worker)
        return route is None or not route.up or route.silent


class CanaryCounts:
    """What became of the asks that the new version got."""

    def __init__(self) -> None:
        self.asked = 0
        self.answered = 0
        self.passed_on = 0  # to the stable version


class Trying:
    """One ask that the new version got first; an Asker to it, and a Ticket to whoever asks."""

    __slots__ = (
        "_asker", "_began", "_deadline", "_half", "_model", "_payload", "_since", "_stable", "_ticket", "_told",
    )  # fmt: skip

    def __init__(
        self, model: CanaryModel, payload: bytes, asker: Asker, timeout_ms: int | None, since: float | None
    ) -> None:
        inference = model.stable.inference
        usual_s = inference.deadline_s or model.stable.router.policy.timeout_s
        left_s = usual_s if timeout_ms is None else timeout_ms / 1000
        now = inference.clock()
        self._model = model
        self._stable = model.stable
        self._payload = payload
        self._asker = asker
        self._since = since
        self._began = now
        self._half = now + left_s / 2
        self._deadline = now + left_s
        self._ticket: Ticket | None = None
        self._told = False

    def begin(self) -> Ticket | None:
        """Asks; None if the asker has been told already."""
        model = self._model
        model.counts.asked += 1
        model.trying[self] = None
        ticket = model.canary.inference.ask(self._payload, self, self._left_ms(), self._since)
        if self in model.trying:  # else the stable version has been asked, or all is said
            self._ticket = ticket
        return None if self._told else self

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        """The new version's answer."""
        self._end()
        self._model.counts.answered += 1
        if isinstance(self._asker, NamesVersion):
            self._asker.answered_by(self._model.canary.info)
        self._asker.on_output(output, node_json, cached, time_us, headers)

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        """It has none."""
        if self._is_promoted:
            self.tell().on_error(error, headers)
            return
        inference = self._model.canary.inference
        if error.status < 500:
            inference.client_errors -= 1  # it is counted where it becomes the client's
        else:
            inference.errors -= 1
        found = _ATTEMPTS.search(headers)
        self._pass_on(error.message, int(found.group()) if found else 0)

    def cancel(self) -> None:
        """The client has left."""
        self._told = True
        self._model.trying.pop(self, None)
        if self._ticket is not None:
            self._ticket.cancel()

    def look(self, now: float) -> None:
        """Asks the stable version if the new one will not answer, or not in time for another one to do so."""
        if self._is_promoted:
            return
        if self._model.is_lost:
            self._take_back("it is lost, or silent")
        elif now >= self._half:
            self._take_back("half of the request's time is over")

    def follow(self, served: Mapping[Key, ServedModel], newest: Mapping[str, str]) -> None:
        """Another version may answer for the model from now on."""
        name = self._stable.name
        if name in newest:
            self._stable = served[name, newest[name]]

    @property
    def _is_promoted(self) -> bool:
        """Whether the new version has become the one that answers."""
        return self._stable is self._model.canary

    def _take_back(self, reason: str) -> None:
        router = self._model.canary.router
        cancelled = router.cancelled
        if self._ticket is not None:
            self._ticket.cancel()
        router.cancelled = cancelled  # no client has left
        self._pass_on(reason, 1)

    def _pass_on(self, reason: str, attempts: int) -> None:
        model = self._model
        self._end()
        model.counts.passed_on += 1
        inference = self._stable.inference
        self._share_suspicion()
        self._told = False
        asker = Second(self._asker, self, attempts, self._earlier(reason))
        self._ticket = inference.ask(self._payload, asker, self._left_ms(), self._since)
        inference.requests -= 1  # the new version has counted it

    def _earlier(self, reason: str) -> Try:
        """For the trace of the answer."""
        model = self._model
        earlier = Try(model.worker, f"it alone tries version {model.canary.version}", self._began)
        earlier.ended, earlier.outcome = model.stable.inference.clock(), "failed"
        earlier.reason = f"version {model.canary.version}: {reason}"
        return earlier

    def _share_suspicion(self) -> None:
        """An input that may have ended the worker runs alone elsewhere too."""
        canary, stable = self._model.canary, self._stable
        if canary.router.suspects.watching:
            key = key_of(self._payload, canary.inference.seed)
            if canary.router.suspects.verdict(key, self._payload) is not Verdict.CLEAR:
                key = key_of(self._payload, stable.inference.seed)
                stable.router.suspects.lost(key, self._payload, self._model.worker, alone=False)

    def _end(self) -> None:
        self._told = True
        self._ticket = None
        self._model.trying.pop(self, None)

    def tell(self) -> Asker:
        """The asker has its answer from the stable version."""
        self._end()
        return self._asker

    def _left_ms(self) -> int:
        return max(1, int((self._deadline - self._model.stable.inference.clock()) * 1000))


class Second:
    """Whom the stable version tells; an Asker."""

    __slots__ = ("_asker", "_attempts", "_trying", "earlier")

    def __init__(self, asker: Asker, trying: Trying, attempts: int, earlier: Try) -> None:
        self.earlier = earlier  # see traces.Passed
        self._asker = asker
        self._trying = trying
        self._attempts = attempts

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        """exchange.Asker."""
        self._trying.tell().on_output(output, node_json, cached, time_us, self._counted(headers))

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        """exchange.Asker."""
        self._trying.tell().on_error(error, self._counted(headers))

    def _counted(self, headers: bytes) -> bytes:
        """With the canary's worker among those that were asked."""
        return _ATTEMPTS.sub(lambda found: b"%d" % (int(found.group()) + self._attempts), headers)
