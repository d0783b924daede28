"""What is foretold of a request is what then happens to it, and telling changes nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_app.core.breaker import BreakerConfig, Cause
from gateway_app.core.call import Route
from gateway_app.core.foresight import foresee
from gateway_app.core.policy import Policy
from tests.gateway_app.core.fleet import PLAIN, World

NAMES = ["w0", "w1", "w2", "w3"]
KEY = 2**63

states = st.fixed_dictionaries(
    {
        "up": st.sampled_from([True, True, True, False]),
        "draining": st.sampled_from([False, False, True]),
        "leaving": st.sampled_from([False, False, True]),
        "in_flight": st.sampled_from([0, 1, 3, 9]),
        "limit": st.sampled_from([4096, 3]),
        "ramp_from": st.sampled_from([None, None, 999.0, 990.0]),
        "breaker": st.sampled_from(["closed", "closed", "open", "half open", "over", "isolated", "all trials"]),
    }
)
policies = st.builds(
    Policy,
    breaker=st.just(BreakerConfig(3, 2, 5.0, 0.0)),
    load_factor=st.sampled_from([0.0, 1.25]),
    load_floor=st.sampled_from([1, 8]),
    hedging=st.just(False),
    slow_factor=st.just(0.0),
    slow_start_s=st.sampled_from([0.0, 5.0]),
)


def put(world: World, route: Route, state: dict[str, object]) -> None:
    """Brings a worker into a state that it might be in."""
    breaker = route.breaker
    for name in ("up", "draining", "leaving", "in_flight", "limit", "ramp_from"):
        setattr(route, name, state[name])
    if state["breaker"] == "isolated":
        breaker.isolate(True)
    elif state["breaker"] != "closed":
        breaker.trip(Cause.OPERATOR, "by the test")
    if state["breaker"] in ("half open", "all trials"):
        breaker.revive("by the test")
    if state["breaker"] == "all trials":
        assert breaker.acquire() is not None
        assert breaker.acquire() is not None
    if state["breaker"] == "over":
        breaker.since = world.clock.now - 60


def seen(world: World) -> list[object]:
    """All that foretelling might change."""
    return [
        (name, getattr(route, name))
        for route in world.router.routes.values()
        for name in ("in_flight", "ramp_from", "requests", "suspect")
    ] + [(route.breaker.state, route.breaker.probes, route.breaker.opens) for route in world.router.routes.values()]


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**64 - 1), policies, st.lists(states, min_size=1, max_size=4))
def test_the_router_does_what_was_foretold(key: int, policy: Policy, found: list[dict[str, object]]) -> None:
    world = World(NAMES[: len(found)], policy)
    for name, state in zip(NAMES, found, strict=False):
        put(world, world.route(name), state)
    before = seen(world)
    chosen, why = foresee(world.router, key, world.clock())
    assert seen(world) == before
    call = world.submit(key)
    assert call.sent_to[:1] == ([chosen] if chosen is not None else [])
    owner = world.router.ring.owners(key)[0]
    if chosen is not None and chosen.name == owner:
        assert why.startswith(("owner; ", f"{owner} owns it, but ")), why
    else:
        assert why.startswith(f"{owner} owns it, but "), why
        assert why.endswith(chosen.name if chosen is not None else "no worker can take it now") or "nobody else" in why


def owners(world: World) -> list[str]:
    return list(world.router.ring.owners(KEY))


@pytest.mark.parametrize(
    ("state", "obstacle"),
    [
        ({"up": False, "connected": False}, "it is not connected"),
        ({"up": False}, "it has not got the model"),
        ({"draining": True}, "it is draining"),
        ({"in_flight": 4096}, "it is full: 4096 in flight"),
    ],
)
def test_why_the_owner_is_passed_over(state: dict[str, object], obstacle: str) -> None:
    world = World(NAMES, PLAIN)
    first, second, *_ = owners(world)
    for name, value in state.items():
        setattr(world.route(first), name, value)
    chosen, why = foresee(world.router, KEY, world.clock())
    assert (chosen, why) == (world.route(second), f"{first} owns it, but {obstacle}: next is {second}")


def test_breakers_are_named_and_of_many_workers_only_some() -> None:
    world = World([f"w{number}" for number in range(9)], PLAIN)
    first, second, *others, last = owners(world)
    assert foresee(world.router, KEY, world.clock()) == (world.route(first), "owner; its breaker is closed")
    world.route(first).breaker.trip(Cause.OPERATOR, "by the test")
    world.route(second).breaker.isolate(True)
    _, why = foresee(world.router, KEY, world.clock())
    assert why == f"{first} owns it, but its breaker is OPEN; {second}: it is isolated: next is {others[0]}"
    for name in others:
        world.route(name).draining = True
    _, why = foresee(world.router, KEY, world.clock())
    assert why.endswith(f"; and 4 more: next is {last}")


def test_without_workers_there_is_nobody() -> None:
    assert foresee(World().router, KEY, 0.0) == (None, "there are no workers")
