"""Going back to an earlier revision: exactly what it held comes back, and no order is carried out twice."""

import random

import pytest

from gateway_app.config import adopt_name, load_snapshot, register_workers
from gateway_app.models import Canary, ModelRecord, Revision, Tuning, Worker, recorded
from gateway_app.operating.restore import RestoreRefused, restore
from gateway_app.revisions import without_orders

pytestmark = pytest.mark.django_db


def newest():
    return Revision.objects.latest("id")


def tune(**values):
    tuning, _ = Tuning.objects.get_or_create(pk=Tuning.ONLY)
    for name, value in values.items():
        setattr(tuning, name, value)
    tuning.save()
    return newest()


class Operators:
    """Change the configuration at random, in all the ways that there are."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.made = 0

    def change(self):
        ways = [
            self.tune, self.add, self.remove, self.edit, self.order, self.swap, self.rename, self.command_line,
            self.model, self.forget_model, self.canary,
        ]  # fmt: skip
        self.random.choice(ways)()

    def worker(self):
        return self.random.choice(list(Worker.objects.all()) or [None])

    def tune(self):
        tune(virtual_nodes=self.random.randint(1, 500), batch_eager=self.random.random() < 0.5)

    def add(self):
        self.made += 1
        Worker.objects.create(name=f"worker_{self.made}", host="h", port=self.made, weight=self.random.choice((1, 2)))

    def remove(self):
        if (worker := self.worker()) is not None:
            worker.delete()

    def edit(self):
        if (worker := self.worker()) is not None:
            worker.draining, worker.isolated = self.random.random() < 0.5, self.random.random() < 0.5
            worker.save()

    def order(self):
        if (worker := self.worker()) is not None:
            worker.order, worker.order_number = self.random.choice(("trip", "reset")), worker.order_number + 1
            worker.save()

    def swap(self):
        workers = list(Worker.objects.all())
        if len(workers) > 1:
            one, other = self.random.sample(workers, 2)
            register_workers([(one.name, other.host, other.port), (other.name, one.host, one.port)])

    def rename(self):
        if (worker := self.worker()) is not None:
            self.made += 1
            Worker.objects.filter(pk=worker.pk).update(named=False)
            adopt_name(worker.host, worker.port, f"worker_{self.made}")

    def command_line(self):
        self.made += 1
        register_workers([(None, "bare", self.made)])

    def model(self):
        row, _ = ModelRecord.objects.get_or_create(name=f"model_{self.random.randint(1, 3)}")
        row.loaded, row.batch_size = self.random.random() < 0.5, self.random.choice((None, 4, 8))
        row.order_number += self.random.randint(0, 1)
        row.save()

    def forget_model(self):
        ModelRecord.objects.filter(name=f"model_{self.random.randint(1, 3)}").delete()

    def canary(self):
        Canary.objects.all().delete()
        if self.random.random() < 0.5:
            Canary.objects.create(worker="worker_1", tuning={"batch_size": self.random.randint(1, 9)})


@pytest.mark.parametrize("seed", range(12))
def test_any_revision_comes_back_exactly_whatever_happened_since(seed):
    operators = Operators(seed)
    for _ in range(25):
        operators.change()
    numbers: dict[str, int] = {}  # of the last order that each worker was given
    for number in operators.random.sample(sorted(Revision.objects.values_list("id", flat=True)), 8):
        for worker in Worker.objects.all():
            numbers[worker.name] = max(worker.order_number, numbers.get(worker.name, 0))
        before = newest()
        wanted = without_orders(Revision.objects.get(pk=number).payload)
        made = restore(number, "ada", "as before")
        assert without_orders(newest().payload) == wanted
        assert (made is None) == (without_orders(before.payload) == wanted)
        if made is not None:
            assert (made.author, made.comment) == ("ada", "as before")
            assert made.summary.startswith(f"restored revision {number}: ")
        orders = {worker.name: (worker.order, worker.order_number) for worker in Worker.objects.all()}
        given = {row["name"]: (row["order"], row["order_number"]) for row in before.payload["workers"]}
        for name, order in orders.items():
            assert order == given.get(name, order)  # who is still there is told nothing new
            assert name in given or order == ("", order[1])  # and who is back, nothing that it had been told
            assert order[1] >= numbers.get(name, 0)
        assert load_snapshot().revision == newest().id
        operators.change()


def test_a_restored_revision_is_undone_by_restoring_the_one_before():
    first = tune(virtual_nodes=100)
    second = tune(virtual_nodes=200)
    restored = restore(first.pk, "ada")
    assert restored is not None
    assert restored.summary == f"restored revision {first.pk}: virtual nodes per worker 200 → 100"
    undone = restore(second.pk, "bob")
    assert undone is not None
    assert Tuning.objects.get().virtual_nodes == 200
    assert restore(second.pk, "bob") is None


def test_rows_stay_the_same_rows_over_a_swap_and_a_new_name():
    with recorded():
        Worker.objects.create(name="one", host="h", port=1)
        Worker.objects.create(name="two", host="h", port=2)
    before = newest()
    register_workers([("one", "h", 2), ("two", "h", 1)])
    swapped = newest()
    one, two = Worker.objects.order_by("name")
    restore(before.pk, "ada")
    assert {worker.pk: (worker.name, worker.port) for worker in Worker.objects.all()} == {
        one.pk: ("one", 1),
        two.pk: ("two", 2),
    }
    Worker.objects.filter(pk=one.pk).update(name="uno", order="trip", order_number=5)
    restore(swapped.pk, "ada")
    back = Worker.objects.get(name="one")
    assert (back.port, back.order) == (2, "")


def test_a_revision_with_what_is_no_longer_valid_is_refused_with_the_value():
    first = tune(batch_size=8)
    first.payload["tuning"]["batch_size"] = 5000
    first.save()
    last = tune(batch_size=9)
    with pytest.raises(RestoreRefused, match=r"5000 is out of range. Choose from 1 to 1,024"):
        restore(first.pk, "ada")
    first.payload["tuning"]["batch_size"] = 8
    first.payload["tuning"]["magic"] = True
    first.save()
    with pytest.raises(RestoreRefused, match="has 'magic', which this version does not know"):
        restore(first.pk, "ada")
    with pytest.raises(RestoreRefused, match="There is no revision 999"):
        restore(999, "ada")
    assert newest() == last


def test_settings_that_do_not_go_together_come_back_only_if_what_is_now_is_worse():
    first = tune(queue_ms=20_000)
    tune(queue_ms=2_000)
    with pytest.raises(RestoreRefused, match="nobody waits for the end of a queue of 20,000 ms"):
        restore(first.pk, "ada")
    assert Tuning.objects.get().queue_ms == 2_000
    assert restore(first.pk, "guard", whatever=True) is not None
    assert Tuning.objects.get().queue_ms == 20_000


def test_what_an_older_version_stored_gets_the_defaults_of_what_it_did_not_know():
    first = tune(virtual_nodes=100)
    first.payload = {"workers": [{"name": "old", "host": "h", "port": 1}], "tuning": {"virtual_nodes": 100}}
    first.save()
    tune(virtual_nodes=200)
    restore(first.pk, "ada")
    assert Tuning.objects.get().virtual_nodes == 100
    assert Worker.objects.get().weight == 1.0


def test_a_canary_that_is_the_same_goes_on_as_it_is():
    Canary.objects.create(worker="worker_1", tuning={"batch_size": 4}, author="bob")
    first = newest()
    started = Canary.objects.get().started
    tune(virtual_nodes=200)
    restore(first.pk, "ada")
    assert (Canary.objects.get().started, Canary.objects.get().author) == (started, "bob")
    Canary.objects.get().delete()
    restore(first.pk, "ada")
    assert (Canary.objects.get().author, Canary.objects.get().tuning) == ("ada", {"batch_size": 4})
