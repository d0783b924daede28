"""The router under everything that links, workers, operators, clients and time can do to it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway_app.core import budget as budget_module
from gateway_app.core.breaker import BreakerConfig
from gateway_app.core.policy import Policy
from inference_site.lib.frames import Tell
from tests.gateway_app.core.chaos import Chaos

NAMES = ["w0", "w1", "w2", "w3"]
KEYS = [3, 2**62, 2**63, 2**63 + 2**62, 2**64 - 5]
TEXTS = [b"[1]", b"[2]"]  # two texts of one key: near twins
LIMITS_S = [0.0, 60.0, 1.0, 0.04]
SECONDS = [0.025, 0.1, 0.3, 1.1, 5.1, 31.0]
ORDERS = ["release", "isolate", "trip", "reset"]
OUTCOMES = ["success", "failure", "release"]
EVENTS = ["worker_is_full", "worker_has_unloaded", "time_was_over", "worker_leaves", "client_leaves"]
FAILURES = [Tell.FAILED, 0, 9]
PACES_S = [0.001, 0.02, 2.0]


@pytest.fixture(autouse=True)
def budget_that_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "MINIMUM", 3)


# By hypothesis, which finds the shortest way to a failure.

numbers = st.integers(0, 10**6)
policies = st.builds(
    Policy,
    breaker=st.builds(
        BreakerConfig,
        failure_threshold=st.integers(1, 5),
        success_threshold=st.integers(1, 3),
        open_s=st.sampled_from([1.0, 5.0]),
        error_ratio=st.sampled_from([0.0, 0.2]),
    ),
    timeout_s=st.sampled_from([10.0, 1.0]),
    load_factor=st.sampled_from([0.0, 1.0, 1.25, 2.0]),
    load_floor=st.integers(1, 4),
    retry_ratio=st.sampled_from([0.0, 0.2, 1.0]),
    hedging=st.booleans(),
    slow_factor=st.sampled_from([0.0, 5.0]),
    slow_start_s=st.sampled_from([0.0, 5.0]),
)


class RouterMachine(RuleBasedStateMachine):
    """Any order of events."""

    world: Chaos

    @initialize(count=st.sampled_from([3, 2, 4, 1, 0]), policy=policies)
    def begin(self, count: int, policy: Policy) -> None:
        self.world = Chaos(NAMES[:count], policy)

    @rule(
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=6),
        text=st.sampled_from(TEXTS),
        limit_s=st.sampled_from(LIMITS_S),
    )
    def requests_come(self, keys: list[int], text: bytes, limit_s: float) -> None:
        self.world.requests_come(keys, text, limit_s)

    @rule(number=numbers, good=st.booleans())
    def worker_answers(self, number: int, good: bool) -> None:
        self.world.worker_answers(number, good)

    @rule(number=numbers, event=st.sampled_from(EVENTS))
    def happens(self, number: int, event: str) -> None:
        getattr(self.world, event)(number)

    @rule(number=numbers, kind=st.sampled_from(FAILURES))
    def worker_fails(self, number: int, kind: int) -> None:
        self.world.worker_fails(number, kind)

    @rule(number=numbers)
    def link_dies(self, number: int) -> None:
        self.world.link_dies(number)

    @rule(number=numbers, same_process=st.booleans())
    def worker_comes(self, number: int, same_process: bool) -> None:
        self.world.worker_comes(number, same_process)

    @rule(number=numbers, speaks=st.booleans())
    def worker_is_silent(self, number: int, speaks: bool) -> None:
        self.world.worker_is_silent(number, speaks)

    @rule(seconds=st.sampled_from(SECONDS))
    def time_passes(self, seconds: float) -> None:
        self.world.time_passes(seconds)

    @rule(number=numbers, takes_s=st.sampled_from(PACES_S))
    def worker_has_a_pace(self, number: int, takes_s: float) -> None:
        self.world.worker_has_a_pace(number, takes_s)

    @rule(number=numbers)
    def check_begins(self, number: int) -> None:
        self.world.check_begins(number)

    @rule(number=numbers, outcome=st.sampled_from(OUTCOMES))
    def check_ends(self, number: int, outcome: str) -> None:
        self.world.check_ends(number, outcome)

    @rule(
        weights=st.dictionaries(st.sampled_from(NAMES), st.sampled_from([1.0, 0.5, 2.0]), min_size=2),
        draining=st.sets(st.sampled_from(NAMES), max_size=2),
        policy=policies,
    )
    def operator_configures(self, weights: dict[str, float], draining: set[str], policy: Policy) -> None:
        self.world.operator_configures(weights, draining, policy)

    @rule(number=numbers, order=st.sampled_from(ORDERS))
    def operator_orders(self, number: int, order: str) -> None:
        self.world.operator_orders(number, order)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.end()


RouterMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestRouterMachine = RouterMachine.TestCase


# By chance alone, which goes deeper: hundreds of requests, most of them answered.

WEIGHTS = {
    "requests_come": 20.0,
    "worker_answers": 10.0,
    "time_passes": 12.0,
    "worker_comes": 8.0,
    "worker_fails": 5.0,
    "worker_is_full": 4.0,
    "link_dies": 4.0,
    "worker_has_unloaded": 2.0,
    "client_leaves": 3.0,
    "worker_is_silent": 2.0,
    "worker_has_a_pace": 2.0,
    "check_begins": 2.0,
    "check_ends": 2.0,
    "time_was_over": 1.0,
    "worker_leaves": 1.0,
    "operator_orders": 1.0,
    "operator_configures": 0.7,
}


def some_policy(dice: Random) -> Policy:
    breaker = BreakerConfig(dice.randint(1, 5), dice.randint(1, 3), dice.choice([1.0, 5.0]), dice.choice([0.0, 0.2]))
    return Policy(
        breaker,
        timeout_s=dice.choice([10.0, 1.0]),
        load_factor=dice.choice([0.0, 1.0, 1.25, 2.0]),
        load_floor=dice.randint(1, 4),
        retry_ratio=dice.choice([0.0, 0.2, 1.0, 1.0]),
        hedging=dice.random() < 0.7,
        slow_factor=dice.choice([0.0, 5.0]),
        slow_start_s=dice.choice([0.0, 5.0]),
    )


def details(event: str, dice: Random) -> dict[str, object]:
    """What an event is about."""
    number = dice.randint(0, 10**6)
    match event:
        case "requests_come":
            keys = dice.choices(KEYS, k=dice.randint(1, 6))
            return {"keys": keys, "text": dice.choice(TEXTS), "limit_s": dice.choice([0.0, *LIMITS_S])}
        case "worker_answers":
            return {"number": number, "good": dice.random() < 0.8}
        case "worker_fails":
            return {"number": number, "kind": dice.choice(FAILURES)}
        case "worker_comes":
            return {"number": number, "same_process": dice.random() < 0.4}
        case "worker_is_silent":
            return {"number": number, "speaks": dice.random() < 0.5}
        case "worker_has_a_pace":
            return {"number": number, "takes_s": dice.choice(PACES_S)}
        case "check_ends":
            return {"number": number, "outcome": dice.choice(OUTCOMES)}
        case "time_passes":
            return {"seconds": dice.choice(SECONDS if dice.random() < 0.4 else SECONDS[:2])}
        case "operator_orders":
            return {"number": number, "order": dice.choice(["release", *ORDERS])}
        case "operator_configures":
            names = dice.sample(NAMES, dice.randint(2, 4))
            weights = {name: dice.choice([0.5, 1.0, 2.0]) for name in names}
            return {"weights": weights, "draining": names[: dice.randint(0, 2)], "policy": some_policy(dice)}
    return {"number": number}


def storm(seed: int, steps: int) -> Chaos:
    dice = Random(seed)
    world = Chaos(NAMES[: dice.choice([1, 2, 3, 3, 4])], some_policy(dice))
    chances = [weight * dice.choice([0.2, 1.0, 1.0, 3.0]) for weight in WEIGHTS.values()]
    for event in dice.choices(list(WEIGHTS), chances, k=steps):
        getattr(world, event)(**details(event, dice))
        world.check()
    world.end()
    return world


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_storms(first: int) -> None:
    routers = [storm(seed, 150).router for seed in range(first, first + 100)]
    for counted in ("retries", "spills", "hedges", "hedge_wins", "expired", "cancelled", "shed", "suspects_refused"):
        assert sum(getattr(router, counted) for router in routers), f"there was none of {counted}"
