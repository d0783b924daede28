"""What is kept of an hour, and how little room it takes."""

import pytest

from gateway_app.core.breaker import Breaker, BreakerConfig
from gateway_app.core.outcomes import BURST, KEPT_S, MERGED_S, Kind, Record
from tests.gateway_app.core.test_replay import Worker, healthy

NEVER = BreakerConfig(failure_threshold=10**9, error_ratio=0.0)


def requests(record: Record) -> int:
    return sum(
        each.ok + each.among + (each.times if each.kind in (Kind.FAILURE, Kind.FAILURES) else 0)
        for each in record.outcomes
    )


def test_an_hour_of_successes_is_a_few_outcomes():
    worker = Worker(NEVER)
    healthy(worker, 5000, per_s=4)
    record = worker.record()
    assert len(record.outcomes) < KEPT_S / MERGED_S + 15
    assert record.since == pytest.approx(worker.now - KEPT_S)
    assert requests(record) == pytest.approx(4 * KEPT_S, rel=0.1)


def test_it_says_since_when_it_knows():
    worker = Worker(NEVER)
    healthy(worker, 10)
    assert worker.record().since == 1000.0
    worker.wait(3 * KEPT_S)
    record = worker.record()
    assert record.outcomes == ()
    assert record.since == pytest.approx(worker.now - KEPT_S)


def test_the_state_before_the_record_is_known():
    worker = Worker(BreakerConfig(failure_threshold=1, open_s=3 * KEPT_S))
    worker.fail(1)
    worker.wait(1.5 * KEPT_S)
    record = worker.record()
    assert (record.outcomes, record.state) == ((), Kind.OPEN)
    assert worker.replay(NEVER).blind_s == pytest.approx(KEPT_S)


def test_a_worker_that_is_away_takes_an_outcome_a_minute():
    worker = Worker(BreakerConfig(failure_threshold=5, open_s=30))
    for _ in range(3000):
        worker.breaker.count_failure("connection refused")
        worker.wait(1)
    assert len(worker.record().outcomes) < 3000 / 60 + 15


def test_a_flood_of_failures_takes_little_and_none_is_lost():
    worker = Worker(NEVER)
    for number in range(600):
        for _ in range(40):
            worker.succeed(number % 7)
            worker.fail(1 + number % 3, f"failure {number} of many")
        worker.wait(1)
    record = worker.record()
    assert len(record.outcomes) < BURST + 600 * 6
    assert requests(record) == sum(40 * (number % 7 + 1 + number % 3) for number in range(600))


def test_a_breaker_without_a_log_keeps_nothing():
    breaker = Breaker(NEVER, lambda: 0.0)
    breaker.failure(breaker.acquire() or 0, "it broke")
    assert breaker.record() is None
