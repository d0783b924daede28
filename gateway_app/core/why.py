"""Why a call goes to the worker that it goes to, in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gateway_app.core.breaker import State

if TYPE_CHECKING:
    from gateway_app.core.call import Call, Route
    from gateway_app.core.router import Router

# Of so many that come before it is said why they are passed over.
_NAMED = 3


def why(router: Router, call: Call, chosen: Route) -> str:
    """Why this worker gets this call, which is about to be sent."""
    trial = f"; it is on trial: its breaker is {chosen.breaker.state}" if call.permit < 0 else ""
    if call.first is not None:
        return f"beside {call.first.route.name}, which takes long{trial}"
    before = []
    for name in router.ring.owners(call.key):
        if name == chosen.name:
            break
        before.append(router.routes[name])
    if not before:
        return f"owner{trial}"
    bound = router.bound()
    reasons = [_passed_over(each, call, bound) for each in before]
    shown = "; ".join(reasons[:_NAMED])
    if len(reasons) > _NAMED:
        shown += f"; and {len(reasons) - _NAMED} more"
    spilled = any("the limit is" in each for each in reasons)
    return f"{'spilled' if spilled else 'next in line'}: {shown}{trial}"


def _passed_over(route: Route, call: Call, bound: float) -> str:
    """Why a worker that comes before is not the one."""
    name = route.name
    if route in call.tried:
        return f"{name} was asked before"
    if not route.up:
        return f"{name} has not loaded the model" if route.connected else f"{name} is not connected"
    if route.breaker.isolated:
        return f"{name} is isolated"
    if route.breaker.state is State.OPEN:
        return f"{name} is OPEN"
    if route.draining or route.leaving:
        return f"{name} is draining" if route.draining else f"{name} is about to stop"
    limit = min(route.limit, math.ceil(bound))
    if route.in_flight >= limit:
        return f"{name} has {route.in_flight} in flight, the limit is {limit}"
    if route.ramp_from is not None:
        return f"{name} is starting slowly"
    if call.suspect and route.suspect is not None:
        return f"{name} tries another input that may end workers"
    return f"{name} is {route.breaker.state} and has all the trials that it may have"
