"""What a client is told when no worker answers its request."""

from __future__ import annotations

import math
from collections.abc import Collection

from gateway_app.core.breaker import State
from gateway_app.core.call import Call, Route
from inference_site.lib.errors import ApiError


def too_late(limit_s: float) -> ApiError:
    """The deadline has passed."""
    message = f"no worker could answer within {limit_s:g} s; try again later, or allow more time"
    return ApiError(504, "deadline_passed", message)


def failed(call: Call, reason: str) -> ApiError:
    """Those that were asked failed, and no other may be asked."""
    names = " and ".join(route.name for route in call.tried)
    return _unavailable("workers_failed", f"{names} failed, the last one: {reason}; try again", 1)


def ends_workers() -> ApiError:
    """The input has ended a worker's process."""
    message = "a worker's process ended while it ran this input alone; it is refused for ten minutes"
    return ApiError(422, "input_ends_workers", message)


def under_suspicion() -> ApiError:
    """It is not known yet whether the input has ended a worker's process."""
    message = "two workers were lost while they had this input; try again when they are back"
    return _unavailable("input_under_suspicion", message, 2)


def no_workers() -> ApiError:
    """None is configured."""
    return _unavailable("no_workers", "no worker is enabled; enable or add one in the admin, or start the cluster", 1)


def overloaded(call: Call) -> ApiError:
    """There are workers, and they are full."""
    wait_s = max(1, math.ceil(call.busy_us / 1e6))
    return _unavailable("overloaded", f"every worker that could answer is full; try again in {wait_s} s", wait_s)


def no_worker_available(routes: Collection[Route]) -> ApiError:
    """Each worker is away, or its breaker is open."""
    waits = [wait for route in routes if (wait := route.breaker.retry_after()) is not None]
    wait_s = max(1, math.ceil(min(waits, default=1)))
    states = ", ".join(f"{route.name} {_state(route)}" for route in routes)
    message = f"no worker can answer now ({states}); try again in {wait_s} s"
    return _unavailable("no_worker_available", message, wait_s)


def _state(route: Route) -> str:
    if route.breaker.isolated:
        return "isolated"
    if route.up or route.breaker.state is State.OPEN:
        return route.breaker.state
    return "has not loaded it" if route.connected else "not connected"


def _unavailable(code: str, message: str, retry_after_s: int) -> ApiError:
    return ApiError(503, code, message, retry_after_s=retry_after_s)
