"""Slow start: a worker that comes back with nothing in its cache gets a growing part of its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway_app.core.call import Route
    from gateway_app.core.router import Router

# What it gets at once.
FIRST_PART = 0.1


def begin(router: Router, route: Route, now: float) -> None:
    """From now on, if others can help."""
    if router.policy.slow_start_s and any(other is not route and other.routable for other in router.routes.values()):
        route.ramp_from = now


def leaves_out(route: Route, key: int, now: float, slow_start_s: float) -> bool:
    """Whether a key is not among those that the worker has got already."""
    return key & 0xFFFF >= _part(route, now, slow_start_s) * 0x10000


def passes_on(route: Route, key: int, now: float, slow_start_s: float) -> bool:
    """As `leaves_out`; ends the slow start when its time has passed."""
    part = _part(route, now, slow_start_s)
    if part >= 1:
        route.ramp_from = None
    return key & 0xFFFF >= part * 0x10000


def _part(route: Route, now: float, slow_start_s: float) -> float:
    """Of its keys; 1 and more: all."""
    if route.ramp_from is None or not slow_start_s:
        return 1.0
    return max(FIRST_PART, (now - route.ramp_from) / slow_start_s)
