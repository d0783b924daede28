"""What an operator may tune about routing, as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway_app.core.breaker import BreakerConfig


@dataclass(frozen=True, slots=True)
class Policy:
    """How requests are routed, for how long, and how often they are tried. Times are seconds."""

    breaker: BreakerConfig = field(default_factory=BreakerConfig)
    timeout_s: float = 10.0  # of a request that names no limit of its own
    # A worker with `load_floor` calls in flight and this many times the mean passes new ones on; 0: none does.
    load_factor: float = 1.25
    load_floor: int = 8
    retry_ratio: float = 0.2  # second attempts, as a part of the requests of the last 10 s; 0: none
    hedging: bool = True  # ask a second worker about a request that takes unusually long
    slow_factor: float = 5.0  # a worker this many times slower than the others is sick; 0: never
    silence_s: float = 0.3  # a worker that has requests and says nothing for this long is sick; 0: never
    slow_start_s: float = 0.0  # a worker that comes back gets its full share after this long
    check_s: float = 2.0  # how often each worker runs its model as a check; 0: never
    hand_off: bool = True  # results move along when their keys do
