"""A configuration as one value: what the rows say, what is refused, and what has a default."""

import pytest

from gateway_app.config import Snapshot, WorkerEntry, load_snapshot
from gateway_app.core.breaker import BreakerConfig
from gateway_app.core.policy import Policy
from gateway_app.models import Revision, Worker
from gateway_app.snapshot import InvalidConfig, parse
from inference_site.lib.nodesettings import NodeSettings
from tests.gateway_app.following import save_tuning


def test_an_empty_database_means_the_defaults(database):
    assert (
        load_snapshot() == Snapshot() == Snapshot(0, (), 150, Policy(BreakerConfig(5, 2, 30.0), 10.0), NodeSettings())
    )


def test_a_snapshot_holds_all_that_was_saved(database):
    Worker.objects.create(
        name="b", host="::1", port=2, weight=0.5, draining=True, isolated=True, order="trip", order_number=4
    )
    Worker.objects.create(name="a", host="localhost", port=1, enabled=False)
    save_tuning(
        virtual_nodes=7, failure_threshold=3, success_threshold=4, open_seconds=1.5, cache_entries=0, cache_mib=2,
        batch_size=8, batch_wait_ms=2.5, batch_eager=False, request_timeout_ms=900, share_cap_percent=5,
        hot_cache=False, load_factor=2, load_floor=3, error_rate_percent=50, slow_factor=0, silence_ms=250,
        slow_start_seconds=1.5, check_seconds=0.5, retry_percent=10, hedging=False, queue_ms=700, hand_off=False,
    )  # fmt: skip
    revision = Revision.objects.latest("id").id
    assert load_snapshot() == Snapshot(
        revision=revision,
        workers=(
            WorkerEntry("a", "localhost", 1, enabled=False),
            WorkerEntry("b", "::1", 2, 0.5, draining=True, isolated=True, order="trip", order_number=4),
        ),
        virtual_nodes=7,
        share_cap_percent=5.0,
        hot_cache=False,
        policy=Policy(
            BreakerConfig(3, 4, 1.5, error_ratio=0.5),
            timeout_s=0.9,
            load_factor=2.0,
            load_floor=3,
            retry_ratio=0.1,
            hedging=False,
            slow_factor=0.0,
            silence_s=0.25,
            slow_start_s=1.5,
            check_s=0.5,
            hand_off=False,
        ),
        node=NodeSettings(
            revision=revision,
            cache_entries=0,
            cache_bytes=2 * 2**20,
            batch_size=8,
            batch_wait_ms=2.5,
            batch_eager=False,
            queue_ms=700.0,
        ),
    )
    assert [worker.address for worker in load_snapshot().workers] == ["localhost:1", "[::1]:2"]


GOOD = {"name": "a", "host": "h", "port": 1}


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ([], "is list, not an object"),
        ({"workers": {}}, "not a list"),
        ({"workers": ["a"]}, "worker 1 is 'a', not an object"),
        ({"workers": [{**GOOD, "name": "a b"}]}, "worker 1, name: 'a b' cannot be"),
        ({"workers": [{**GOOD, "port": 70000}]}, "worker 1, port: 70000 is out of range"),
        ({"workers": [{**GOOD, "port": "http"}]}, "worker 1, port:"),
        ({"workers": [{**GOOD, "enabled": None}]}, "worker 1, enabled:"),
        ({"workers": [{**GOOD, "weight": float("nan")}]}, "worker 1, weight: nan"),
        ({"workers": [{**GOOD, "colour": "red"}]}, "worker 1 has 'colour', which this version does not know"),
        ({"workers": [GOOD, {**GOOD, "port": 2}]}, "2 workers have the name a"),
        ({"workers": [GOOD, {**GOOD, "name": "b"}]}, "2 workers have the address h:1"),
        ({"workers": [{**GOOD, "order": "explode"}]}, "worker 1, order: 'explode' is no order. Use trip, reset"),
        ({"workers": [{**GOOD, "order_number": -1}]}, "worker 1, order_number:"),
        ({"tuning": {"silence_ms": 50}}, "tuning, silence_ms: 50 is out of range"),
        ({"tuning": []}, "tuning is [], not an object"),
        ({"tuning": {"batch_size": 0}}, "tuning, batch_size: 0 is out of range"),
        ({"tuning": {"open_seconds": float("inf")}}, "tuning, open_seconds: inf is out of range"),
        ({"tuning": {"batch_wait_ms": 900, "request_timeout_ms": 900, "batch_eager": False}}, "tuning, batch_wait_ms"),
    ],
)
def test_a_payload_edited_by_hand_is_refused_with_the_value(payload, says):
    with pytest.raises(InvalidConfig) as caught:
        parse(7, payload)
    assert says in str(caught.value)


def test_what_an_older_version_did_not_know_gets_its_default(database):
    Revision.objects.create(summary="old", payload={"workers": [GOOD], "tuning": {"batch_size": 8}})
    assert load_snapshot().node.batch_size == 8
    assert load_snapshot().virtual_nodes == 150
