"""Whom the router would ask, and why: the same rules as `Router.dispatch`, but nothing is sent and nothing changes."""

from __future__ import annotations

from gateway_app.core.breaker import State
from gateway_app.core.call import Route
from gateway_app.core.obstacles import obstacle, refusal
from gateway_app.core.router import Router

_NOBODY = "no worker can take it now"
# Of those that are passed over after the owner, so many are named.
_NAMED = 3


def foresee(router: Router, key: int, now: float) -> tuple[Route | None, str]:
    """The worker that a new request with this key would be sent to; None if it would be refused. And why, in words."""
    owners = [router.routes[name] for name in router.ring.owners(key)]
    if not owners:
        return None, "there are no workers"
    obstacles = [obstacle(router, route, key, now) for route in owners]
    chosen = next((route for route, against in zip(owners, obstacles, strict=True) if not against), None)
    if chosen is owners[0]:
        probe = chosen.breaker.state is not State.CLOSED
        return chosen, "owner; this would be a probe of its breaker" if probe else "owner; its breaker is closed"
    skipped = obstacles[: owners.index(chosen)] if chosen is not None else obstacles
    because = f"{owners[0].name} owns it, but {skipped[0]}"
    more = [f"{route.name}: {against}" for route, against in zip(owners[1:], skipped[1:], strict=False)]
    if len(more) > _NAMED:
        more[_NAMED:] = [f"and {len(more) - _NAMED} more"]
    if chosen is None:
        chosen, how = _last_resort(owners)
        more.append(how.format(name=chosen.name) if chosen is not None else _NOBODY)
        return chosen, "; ".join((because, *more))
    return chosen, f"{'; '.join((because, *more))}: next is {chosen.name}"


def _last_resort(owners: list[Route]) -> tuple[Route | None, str]:
    """Who is asked though there is something against it, and how that is said; nobody else is left."""
    for route in owners:
        if route.staying and not refusal(route):
            return route, "nobody else is left: {name}"
    for route in owners:
        if route.up and not refusal(route):
            return route, "nobody else is left: {name}, which is draining"
    for route in owners:
        is_open = route.breaker.state is State.OPEN and not route.breaker.isolated
        if route.up and is_open and route.in_flight < route.limit:
            return route, "nobody else is left: {name} gets a probe"
    return None, ""
