"""Why a call goes to the worker that it goes to, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway_app.core.obstacles import is_busy, obstacle

if TYPE_CHECKING:
    from gateway_app.core.call import Call, Route
    from gateway_app.core.router import Router

# Of so many that come before it is said why they are passed over.
_NAMED = 3


def why(router: Router, call: Call, chosen: Route, now: float) -> str:
    """Why this worker gets this call, which is about to be sent."""
    trial = f"; it is on trial: its breaker is {chosen.breaker.state}" if call.permit < 0 else ""
    if call.first is not None:
        return f"beside {call.first.route.name}, which takes long{trial}"
    before: list[Route] = []
    for name in router.ring.owners(call.key):
        if name == chosen.name:
            break
        before.append(router.routes[name])
    if not before:
        return f"owner{trial}"
    shown = "; ".join(f"{each.name}: {_against(router, each, call, now)}" for each in before[:_NAMED])
    if len(before) > _NAMED:
        shown += f"; and {len(before) - _NAMED} more"
    spilled = any(each not in call.tried and is_busy(router, each) for each in before)
    return f"{'spilled' if spilled else 'next in line'}: {shown}{trial}"


def _against(router: Router, route: Route, call: Call, now: float) -> str:
    """Why a worker that comes before is not the one."""
    if route in call.tried:
        return "it was asked before"
    found = obstacle(router, route, call.key, now)
    if not found and call.suspect:
        return "it tries another input that may end workers"
    return found or f"its breaker is {route.breaker.state} and gives out no more trials"
