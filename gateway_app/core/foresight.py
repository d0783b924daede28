"""Whom the router would ask, and why: the same rules as `Router.dispatch`, but nothing is sent and nothing changes."""

from __future__ import annotations

from gateway_app.core.breaker import State
from gateway_app.core.call import Route
from gateway_app.core.router import RAMP_START, Router

_NOBODY = "no worker can take it now"
# Of those that are passed over after the owner, so many are named.
_NAMED = 3


def foresee(router: Router, key: int, now: float) -> tuple[Route | None, str]:
    """The worker that a new request with this key would be sent to; None if it would be refused. And why, in words."""
    owners = [router.routes[name] for name in router.ring.owners(key)]
    if not owners:
        return None, "there are no workers"
    obstacles = [_obstacle(router, route, key, now) for route in owners]
    chosen = next((route for route, obstacle in zip(owners, obstacles, strict=True) if not obstacle), None)
    if chosen is owners[0]:
        probe = chosen.breaker.state is not State.CLOSED
        return chosen, "owner; this would be a probe of its breaker" if probe else "owner; its breaker is closed"
    skipped = obstacles[: owners.index(chosen)] if chosen is not None else obstacles
    because = f"{owners[0].name} owns it, but {skipped[0]}"
    more = [f"{route.name}: {obstacle}" for route, obstacle in zip(owners[1:], skipped[1:], strict=False)]
    if len(more) > _NAMED:
        more[_NAMED:] = [f"and {len(more) - _NAMED} more"]
    if chosen is None:
        chosen, how = _last_resort(owners)
        more.append(how.format(name=chosen.name) if chosen is not None else _NOBODY)
        return chosen, "; ".join((because, *more))
    return chosen, f"{'; '.join((because, *more))}: next is {chosen.name}"


def _obstacle(router: Router, route: Route, key: int, now: float) -> str:
    """Why a worker is passed over at first; "" if it is not."""
    policy = router.policy
    if not route.up:
        return "it has not got the model" if route.connected else "it is not connected"
    if route.draining or route.leaving:
        return "it is draining"
    if route.ramp_from is not None and policy.slow_start_s:
        part = (now - route.ramp_from) / policy.slow_start_s
        if part < 1 and key & 0xFFFF >= max(RAMP_START, part) * 0x10000:
            return "it has just come back and gets only a part of its inputs yet"
    if policy.load_factor and route.in_flight >= policy.load_floor and route.in_flight >= (bound := router.bound()):
        return f"it has {route.in_flight} in flight, and from {bound:.0f} on others help"
    return _refusal(route)


def _refusal(route: Route) -> str:
    """Why nothing could be sent to a worker that is up; "" if it could."""
    if route.in_flight >= route.limit:
        return f"it is full: {route.in_flight} in flight"
    if route.link is None or not route.breaker.routable():
        return "it is isolated" if route.breaker.isolated else f"its breaker is {route.breaker.state}"
    return ""


def _last_resort(owners: list[Route]) -> tuple[Route | None, str]:
    """Who is asked though there is something against it, and how that is said; nobody else is left."""
    for route in owners:
        if route.staying and not _refusal(route):
            return route, "nobody else is left: {name}"
    for route in owners:
        if route.up and not _refusal(route):
            return route, "nobody else is left: {name}, which is draining"
    for route in owners:
        is_open = route.breaker.state is State.OPEN and not route.breaker.isolated
        if route.up and is_open and route.in_flight < route.limit:
            return route, "nobody else is left: {name} gets a probe"
    return None, ""
