"""Each worker's record of the last hour, by model."""

from __future__ import annotations

from gateway_app.core.breaker import BreakerConfig, State
from gateway_app.core.call import Owners
from gateway_app.core.replay import replay
from gateway_app.modelset import ModelSet, Rules
from gateway_app.outcomes import Outcomes
from tests.gateway_app.core.fleet import PLAIN, Clock
from tests.gateway_app.core.test_ring import ring


def lineup(clock: Clock, owners: Owners) -> ModelSet:
    found = ModelSet({}, clock, lambda model, worker, before, after, reason: None)
    found.configure(Rules(owners=owners, policy=PLAIN))
    return found


def test_each_worker_has_a_record_of_each_model_also_under_a_new_name():
    clock = Clock()
    models = lineup(clock, ring({"worker_1": 1.0, "worker_2": 1.0}))
    outcomes = Outcomes(models)
    (model,) = models.served.values()
    breaker = model.router.routes["worker_2"].breaker
    for _ in range(2):
        breaker.failure(breaker.acquire() or 0, "it broke")
    assert breaker.state is State.CLOSED
    assert {key: replay(record, PLAIN.breaker).failures for key, record in outcomes.records("worker_1").items()} == {
        model.key: 0
    }
    clock.now += 60
    (record,) = outcomes.records("worker_2").values()
    found = replay(record, BreakerConfig(failure_threshold=2, open_s=40.0))
    assert (found.opens, found.longest_s, found.first_s, found.covered_s) == (1, 40.0, 60.0, 60.0)
    models.rename("worker_2", "worker_7")
    assert outcomes.records("worker_2") == {}
    assert outcomes.records("worker_7")[model.key] == record
    models.configure(Rules(owners=ring({"worker_1": 1.0, "worker_7": 1.0}), policy=PLAIN))
    assert outcomes.records("worker_7")[model.key] == record


def test_a_worker_that_nobody_knows_has_no_record():
    assert Outcomes(lineup(Clock(), ring({"worker_1": 1.0}))).records("worker_9") == {}
