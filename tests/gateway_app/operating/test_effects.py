"""What an action will do is said truly, with the figures that there are."""

import pytest

from gateway_app.core.heirs import heirs
from gateway_app.models import ModelRecord, Tuning, Worker
from gateway_app.operating.actions import ACTIONS, NothingToDo, UnknownTarget, effect, effects_of
from gateway_app.operating.situation import situation

pytestmark = pytest.mark.django_db


@pytest.fixture
def workers():
    return [Worker.objects.create(name=f"worker_{n}", host="127.0.0.1", port=8000 + n) for n in (1, 2, 3)]


def stats(states=("CLOSED", "CLOSED", "CLOSED"), connected=(True, True, True), in_flight=14, cached=812, models=()):
    """As a gateway would tell them."""
    return {
        "workers": [
            {
                "name": f"worker_{n}",
                "connected": connected[n - 1],
                "in_flight": in_flight,
                "node": {"cache_size": cached},
            }
            for n in (1, 2, 3)
        ],
        "circuit_breakers": [{"name": f"worker_{n}", "state": states[n - 1]} for n in (1, 2, 3)],
        "models": list(models),
        "gateway": {"hot_entries": 37},
    }


def model(name, version="1", default=False, workers=("worker_1", "worker_2"), state="READY"):
    said = [{"name": worker, "state": state} for worker in workers]
    return {"name": name, "version": version, "state": state, "default": default, "workers": said}


def said(action, target="worker_2", told=None):
    return effect(ACTIONS[action], target, situation(told) if told else None)


@pytest.mark.parametrize("action", ["trip", "isolate", "drain", "disable"])
def test_whose_keys_go_where(workers, action):
    sentence = said(action, told=stats())
    now = situation(stats())
    before = now.table(now.enabled)
    after = now.table(now.enabled - {"worker_2"}) if action == "disable" else before
    assert before is not None and after is not None
    parts = heirs(before, after, "worker_2", set())
    shown = [f"{name} ({part * 100:.1f} %)" for name, part in parts.items()]
    assert f"Its keys ({before.shares()['worker_2'] * 100:.1f} % of all) go to {' and '.join(shown)}." in sentence
    assert "14 requests are in flight there and will be answered." in sentence
    assert "Nothing is in flight there." in said(action, told=stats(in_flight=0))
    assert "1 request is in flight there and will be answered." in said(action, told=stats(in_flight=1))
    alone = said(action)  # the database says nothing of requests
    assert "in flight" not in alone
    assert "Its keys (" in alone


def test_those_who_cannot_take_keys_get_none(workers):
    for told in (stats(states=("OPEN", "CLOSED", "CLOSED")), stats(connected=(False, True, True))):
        sentence = said("drain", told=told)
        assert "worker_1" not in sentence
        assert "go to worker_3 (33.5 %)." in sentence
    Worker.objects.filter(name="worker_1").update(draining=True)
    assert "go to worker_3 (33.5 %)." in said("isolate")


@pytest.mark.parametrize(
    ("action", "warning"),
    [
        ("trip", "No other worker can answer: requests are still tried on worker_2."),
        ("drain", "No other worker can answer: until one can, worker_2 goes on getting requests."),
        ("isolate", "Nobody else can answer: clients will get 503."),
        ("disable", "Nobody else can answer: clients will get 503."),
    ],
)
def test_the_last_one_is_warned_of(workers, action, warning):
    assert warning not in said(action)
    assert warning in said(action, told=stats(connected=(False, True, False)))
    Worker.objects.exclude(name="worker_2").update(enabled=False)
    assert warning in said(action)


def test_a_draining_worker_still_answers_if_nobody_else_does(workers):
    Worker.objects.exclude(name="worker_2").update(draining=True)
    assert "503" not in said("isolate")
    assert "go to nobody else" in said("isolate")


def test_one_that_gets_nothing_as_it_is_has_nothing_to_move(workers):
    Worker.objects.filter(name="worker_2").update(draining=True)
    assert "It gets none of its keys (33.5 %) as it is." in said("isolate")


def test_what_comes_back_and_what_is_new(workers):
    Worker.objects.filter(name="worker_2").update(draining=True, isolated=True)
    assert said("undrain").endswith("Its keys (33.5 % of all) go to it again, at once.")
    assert said("unisolate").endswith("Its keys (33.5 % of all) go to it again, when they succeed.")
    assert "isolated: its breaker stays open" in said("reset")
    Worker.objects.filter(name="worker_2").update(enabled=False)
    now = situation()
    share = now.share("worker_2", now.enabled | {"worker_2"})
    assert said("enable") == (
        f"Gateways connect to worker_2. Once it is connected it gets {share * 100:.1f} % of all keys, which the others"
        " give up."
    )


def test_a_reset_says_whether_there_is_anything_to_close(workers):
    assert "In this gateway it is closed already." in said("reset", told=stats())
    assert "go to it again, at once, without a trial." in said("reset", told=stats(states=("CLOSED", "OPEN", "CLOSED")))


def test_a_flush_counts_what_is_lost(workers):
    assert "The cache of worker_2 is emptied (812 results)" in said("flush", told=stats())
    assert "each gateway keeps itself (37 in this one)" in said("flush", told=stats())
    assert "The cache of every worker is emptied (2,436 results)" in said("flush", "all", stats())
    assert "(" not in said("flush", "all")


def test_models(workers):
    told = stats(models=[model("digits", default=True), model("digits", "2"), model("text", workers=("worker_3",))])
    assert said("unload", "digits", told) == (
        "Clients get 404 for digits (versions 1, 2) until it is loaded again. It is let go by 2 workers, with its"
        " cached results. It is the model of a plain /infer: that is answered by 404 too."
    )
    assert "(version 1) until it is loaded again. It is let go by 1 worker," in said("unload", "text", told)
    assert "/infer" not in said("unload", "text", told)
    assert "What serves now (versions 1, 2) serves on until all of them have the new one" in said(
        "load", "digits", told
    )
    assert "No worker has spoken of new yet" in said("load", "new", told)
    ModelRecord.objects.create(name="off", loaded=False)
    assert "Workers load off; clients can ask for it once" in said("load", "off", told)
    with pytest.raises(NothingToDo, match="off is unloaded already"):
        said("unload", "off", told)
    with pytest.raises(UnknownTarget, match="the models are: digits, off, text"):
        said("unload", "nope", told)


def test_several_are_judged_one_after_the_other(workers):
    found = effects_of(ACTIONS["trip"], ["worker_1", "worker_2", "worker_3"])
    assert ["No other worker can answer" in sentence for _, sentence, _ in found] == [False, False, True]
    Worker.objects.filter(name="worker_2").update(draining=True)
    found = effects_of(ACTIONS["drain"], ["worker_1", "worker_2", "worker_3"])
    assert [(bool(sentence), why) for _, sentence, why in found] == [
        (True, ""),
        (False, "worker_2 is draining already"),
        (True, ""),
    ]
    with pytest.raises(UnknownTarget):
        effects_of(ACTIONS["drain"], ["worker_1", "worker_9"])


def test_several_that_leave_or_join_the_ring_do_so_at_once(workers):
    (_, first, _), (_, second, _) = effects_of(ACTIONS["disable"], ["worker_1", "worker_2"])
    assert first.endswith("Its keys (32.6 % of all) go to worker_3 (32.6 %).")
    assert second.endswith("Its keys (33.5 % of all) go to worker_3 (33.5 %).")
    everyone = effects_of(ACTIONS["disable"], ["worker_1", "worker_2", "worker_3"])
    assert all(sentence.endswith("Nobody else can answer: clients will get 503.") for _, sentence, _ in everyone)
    Worker.objects.exclude(name="worker_1").update(enabled=False)
    found = effects_of(ACTIONS["enable"], ["worker_1", "worker_2", "worker_3"])
    assert found[0] == ("worker_1", "", "worker_1 is enabled already")
    assert "it gets 33.5 % of all keys" in found[1][1]
    assert "it gets 34.0 % of all keys" in found[2][1]


def test_many_heirs_are_counted_and_a_ring_too_large_to_compute_is_told_by_weights():
    for number in range(20):
        Worker.objects.create(name=f"worker_{number}", host="127.0.0.1", port=8000 + number, weight=1 + number % 2)
    assert ", " in said("drain") and " and 16 others (" in said("drain")
    Tuning.objects.update(virtual_nodes=10_000)
    assert "Its keys (3.3 % of all) go to the others." in said("drain")
