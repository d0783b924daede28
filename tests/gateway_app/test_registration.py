"""Workers from the command line, and the names that they give themselves."""

import pytest

from gateway_app.config import WorkerEntry, adopt_name, load_snapshot, register_workers
from gateway_app.models import Revision, Worker


def addresses():
    return {w.name: (w.host, w.port, w.enabled) for w in Worker.objects.all()}


def test_workers_given_by_name_are_written_and_the_others_disabled(database):
    Worker.objects.create(name="old", host="h", port=1)
    before = Revision.objects.count()
    register_workers([("worker_1", "127.0.0.1", 8001), ("worker_2", "127.0.0.1", 8002)])
    assert addresses() == {
        "old": ("h", 1, False),
        "worker_1": ("127.0.0.1", 8001, True),
        "worker_2": ("127.0.0.1", 8002, True),
    }
    assert Revision.objects.count() == before + 1
    register_workers([("worker_1", "127.0.0.1", 8001), ("worker_2", "127.0.0.1", 8002)])
    assert Revision.objects.count() == before + 1


def test_a_known_worker_keeps_weight_and_draining_at_a_new_address(database):
    Worker.objects.create(name="worker_1", host="h", port=1, weight=3, draining=True, enabled=False)
    register_workers([("worker_1", "h", 2)])
    assert load_snapshot().workers == (WorkerEntry("worker_1", "h", 2, weight=3.0, draining=True),)


def test_workers_can_swap_and_take_over_addresses(database):
    register_workers([("a", "h", 1), ("b", "h", 2), ("c", "h", 3)])
    Worker.objects.filter(name="a").update(weight=5)
    register_workers([("a", "h", 2), ("b", "h", 1), ("d", "h", 3)])
    assert addresses() == {"a": ("h", 2, True), "b": ("h", 1, True), "d": ("h", 3, True)}
    assert Worker.objects.get(name="a").weight == 5


def test_a_bare_address_is_named_by_its_handshake(database):
    register_workers([(None, "127.0.0.1", 8001), (None, "::1", 8001)])
    assert [(w.name, w.named) for w in load_snapshot().workers] == [("--1-8001", False), ("127.0.0.1-8001", False)]
    assert adopt_name("127.0.0.1", 8001, "worker_1")
    assert Worker.objects.get(port=8001, host="127.0.0.1").named
    assert adopt_name("127.0.0.1", 8001, "worker_1")
    assert not adopt_name("127.0.0.1", 8001, "worker_9")
    assert not adopt_name("127.0.0.1", 9999, "worker_9")
    # Given again as a bare address, it keeps the name it is known by.
    register_workers([(None, "127.0.0.1", 8001)])
    assert addresses()["worker_1"] == ("127.0.0.1", 8001, True)


def test_a_name_is_taken_over_from_a_disabled_row_but_not_from_an_enabled_one(database, caplog):
    Worker.objects.create(name="worker_1", host="gone", port=1, weight=2)
    register_workers([(None, "h", 8001), (None, "h", 8002)])
    assert adopt_name("h", 8001, "worker_1")
    assert Worker.objects.get(name="worker_1").weight == 2
    assert not adopt_name("h", 8002, "worker_1")
    assert "The workers at h:8002 and h:8001 both call themselves worker_1" in caplog.text
    assert addresses() == {"worker_1": ("h", 8001, True), "h-8002": ("h", 8002, True)}


def test_a_handshake_with_an_impossible_name_changes_nothing(database, caplog):
    register_workers([(None, "h", 8001)])
    assert not adopt_name("h", 8001, "worker 1")
    assert "keeps its address as its name" in caplog.text
    assert addresses() == {"h-8001": ("h", 8001, True)}


def test_a_name_given_to_another_address_leaves_the_bare_one_without(database):
    register_workers([("worker_1", "h", 1)])
    register_workers([(None, "h", 1), ("worker_1", "h", 2)])
    assert addresses() == {"h-1": ("h", 1, True), "worker_1": ("h", 2, True)}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([("a b", "h", 1)], "worker a b=h:1: 'a b' cannot be a worker's name"),
        ([(None, "h:x", 1)], "is no host"),
        ([("a", "h", 0)], "0 is out of range"),
        ([("a", "h", 1), ("a", "h", 2)], "the name a is given to 2 workers"),
        ([("a", "h", 1), ("b", "H", 1)], "the address h:1 is given to 2 workers"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_written(database, given, says):
    register_workers([("good", "g", 1)])
    before = addresses()
    with pytest.raises(ValueError) as caught:
        register_workers(given)
    assert says in str(caught.value)
    assert addresses() == before
