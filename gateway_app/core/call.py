"""One request on its way to a worker, and a worker as the router sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from gateway_app.core.breaker import Breaker
from gateway_app.core.pace import Pace
from inference_site.lib.errors import ApiError

if TYPE_CHECKING:
    from gateway_app.core.router import Router
    from gateway_app.core.trail import Trail

MAX_IN_FLIGHT = 4096


class Owners(Protocol):
    """Who is to answer a key: a ring, or the table made of one."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The members."""

    def owners(self, key: int) -> tuple[str, ...]:
        """All members in the order in which they are to be tried for a 64-bit key."""


class Nobody:
    """Owners before there are any."""

    weights: Mapping[str, float] = {}

    def owners(self, key: int) -> tuple[str, ...]:
        """Of no key."""
        return ()


class Link(Protocol):
    """How a router sends to one worker; the answer comes back through `Router.answered` or `Presence.lost`."""

    def send(self, call: Call) -> None: ...

    def withdraw(self, call: Call) -> None:
        """Nobody waits for this call here any more: a late answer is dropped, and the worker is told."""

    def pending(self) -> Iterable[Call]:
        """What was sent and has no answer, of every model."""


class Call:
    """One request on its way. Subclasses say what is done with the answer; exactly one of `on_*` is called, once, or
    none after `Router.cancel`."""

    __slots__ = (
        "attempts",
        "began",
        "blamed_by",
        "busy_us",
        "channel",
        "deadline",
        "first",
        "flying",
        "hedge",
        "ident",
        "key",
        "link",
        "number",
        "patience",
        "payload",
        "permit",
        "refusal",
        "released",
        "route",
        "sent_at",
        "suspect",
        "timeout_s",
        "tried",
    )

    # Set in one that is traced, which is of a subclass with a place for it.
    trace: Trail | None = None
    route: Route
    permit: int
    began: float
    deadline: float
    sent_at: float
    link: Link  # that it was sent on; its route may have got another one since
    number: int  # that it was sent to, as the route's
    # Where the link has it, for the link alone.
    channel: object
    ident: int

    def __init__(self, key: int, payload: bytes, timeout_s: float = 0.0) -> None:
        self.key = key
        self.payload = payload
        self.timeout_s = timeout_s  # 0: what is usual
        self.attempts = 0  # workers that were asked and did not say that they are full
        self.tried: tuple[Route, ...] = ()
        self.flying = False  # it was sent, and `route` has not answered
        self.suspect = False  # a worker was lost while it had this input
        self.blamed_by: Route | None = None  # its model failed on this input: the input's fault, or the worker's
        self.refusal: tuple[int, bytes] | None = None  # what that worker said
        self.patience = 0.0  # until when it waits as a suspect, once it has begun to
        self.released = False  # it has waited for long enough as a suspect
        self.hedge: Hedge | None = None  # its second attempt beside the first
        self.first: Call | None = None  # set in a hedge
        self.busy_us = 0  # the shortest queue of the workers that were full

    def on_result(self, cache: int, payload: bytes, time_us: int) -> None:
        """A worker answered; `payload` is the encoded output."""
        raise NotImplementedError

    def on_refusal(self, status: int, payload: bytes) -> None:
        """A worker found the request at fault; `payload` is `{"error", "code"}`."""
        raise NotImplementedError

    def on_error(self, error: ApiError) -> None:
        """No worker could answer."""
        raise NotImplementedError


class Hedge(Call):
    """A second attempt beside a first one that takes long; whichever answers first counts."""

    __slots__ = ("trace",)
    first: Call

    def __init__(self, first: Call) -> None:
        super().__init__(first.key, first.payload)
        self.began, self.deadline = first.began, first.deadline
        self.tried = (*first.tried, first.route)
        self.first = first
        self.trace = first.trace

    def on_result(self, cache: int, payload: bytes, time_us: int) -> None:
        """It was quicker."""
        self.first.route = self.route
        self.first.on_result(cache, payload, time_us)

    def on_refusal(self, status: int, payload: bytes) -> None:
        """It was quicker."""
        self.first.route = self.route
        self.first.on_refusal(status, payload)

    def on_error(self, error: ApiError) -> None:
        """The router tells the first one itself."""
        raise AssertionError("a hedge has nobody to tell of an error")


class Route:
    """One worker as the router of one model sees it."""

    __slots__ = (
        "breaker",
        "computed",
        "connected",
        "draining",
        "failures",
        "hits",
        "in_flight",
        "instance",
        "joined",
        "leaving",
        "limit",
        "link",
        "name",
        "number",
        "pace",
        "ramp_from",
        "requests",
        "retried",
        "router",
        "sent_s",
        "silent",
        "slow_looks",
        "slow_s",
        "spills",
        "suspect",
        "up",
        "worker_s",
    )

    router: Router  # whose it is

    def __init__(self, name: str, breaker: Breaker) -> None:
        self.name = name
        self.breaker = breaker
        self.link: Link | None = None
        self.connected = False  # the link's handshake is done
        self.up = False  # and the worker has the model
        self.number = 0  # under which it has it; 0 if it has not
        self.draining = False  # an operator wants it idle
        self.leaving = False  # its process said that it is about to stop
        self.instance = ""  # of the process that answered last
        self.in_flight = 0
        self.slow_looks = 0  # for how many seconds in a row it has looked slow
        self.slow_s = 0.0  # its answers took longer than this, which is why its breaker is open
        self.silent = False  # it has not even answered a ping
        self.limit = MAX_IN_FLIGHT  # calls in flight that it can take
        self.pace = Pace()  # of answers that were computed
        self.ramp_from: float | None = None  # since when it gets a growing share, until that is the whole
        self.suspect: Call | None = None  # the one such that it is trying
        self.requests = 0
        self.failures = 0
        self.hits = 0  # answers from the worker's cache
        self.joined = 0  # requests that were answered together with another one that it answered
        self.spills = 0  # requests that it got as their owner was busy or starting slowly
        self.retried = 0  # requests that another worker was asked for as it had failed
        # Answers that were computed: how many, how long these took from here, and by the worker's own clock.
        self.computed = 0
        self.sent_s = 0.0
        self.worker_s = 0.0

    @property
    def staying(self) -> bool:
        """Whether it is connected and meant to get new requests."""
        return self.up and not self.draining and not self.leaving

    @property
    def routable(self) -> bool:
        """Whether a request could be sent to it now."""
        return self.staying and self.breaker.routable()
