"""What is against sending a request to a worker, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway_app.core.slowstart import leaves_out

if TYPE_CHECKING:
    from gateway_app.core.call import Route
    from gateway_app.core.router import Router


def obstacle(router: Router, route: Route, key: int, now: float) -> str:
    """Why a worker is passed over at first; "" if it is not."""
    if not route.up:
        return "it has not got the model" if route.connected else "it is not connected"
    if route.draining or route.leaving:
        return "it is draining"
    if route.ramp_from is not None and leaves_out(route, key, now, router.policy.slow_start_s):
        return "it has just come back and gets only a part of its inputs yet"
    if is_busy(router, route):
        return f"it has {route.in_flight} in flight, and from {router.bound():.0f} on others help"
    return refusal(route)


def is_busy(router: Router, route: Route) -> bool:
    """Whether it has so much in flight that others are asked in its place."""
    policy = router.policy
    return bool(policy.load_factor) and route.in_flight >= policy.load_floor and route.in_flight >= router.bound()


def refusal(route: Route) -> str:
    """Why nothing could be sent to a worker that is up; "" if it could."""
    if route.in_flight >= route.limit:
        return f"it is full: {route.in_flight} in flight"
    if route.link is None or not route.breaker.routable():
        return "it is isolated" if route.breaker.isolated else f"its breaker is {route.breaker.state}"
    return ""
