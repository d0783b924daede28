"""The admin's history and its forms: seen before it is saved, explained, taken back; by those who may."""

import re

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.urls import reverse

from gateway_app.adminpages import previewedadmin
from gateway_app.core.vigil import Figures
from gateway_app.models import Canary, Guard, ModelRecord, Revision, Tuning, Worker, recorded
from gateway_app.previewing.present import Present
from tests.e2e.adminsite import Form

pytestmark = pytest.mark.django_db

TUNING = "/admin/gateway_app/tuning/1/change/"
WORKERS = "/admin/gateway_app/worker/"
HISTORY = "/admin/gateway_app/revision/"


def user(name, *permissions):
    made = get_user_model().objects.create_user(name, password="a long enough one", is_staff=True)
    for permission in permissions:
        made.user_permissions.add(Permission.objects.get(codename=permission))
    return made


@pytest.fixture
def ada(client):
    client.force_login(get_user_model().objects.create_superuser("ada", password="a long enough one"))
    return client


@pytest.fixture
def workers():
    with recorded():
        return [Worker.objects.create(name=f"worker_{n}", host="127.0.0.1", port=8000 + n) for n in (1, 2, 3)]


def filled(client, path, button="_save", **values):
    """The page's own form, with these fields filled in as a browser would: False empties a checkbox."""
    form = Form(client.get(path).content.decode()).values
    for name, value in values.items():
        form.pop(name, None) if value is False else form.__setitem__(name, "on" if value is True else str(value))
    return form | {button: "1"}


def text_of(response):
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


def tuned(**values):
    tuning, _ = Tuning.objects.get_or_create(pk=Tuning.ONLY)
    for name, value in values.items():
        setattr(tuning, name, value)
    tuning.save()
    return Revision.objects.latest("id")


# --- preview ---


def test_a_preview_saves_nothing_and_saving_from_it_saves_that(ada, workers):
    before = Revision.objects.latest("id")
    response = ada.post(TUNING, filled(ada, TUNING, "_preview", virtual_nodes=300, batch_eager=False, comment="why"))
    said = text_of(response)
    assert "virtual nodes per worker 150 300" in said
    assert "start at once when the model is free on off" in said
    assert re.search(r"\d+\.\d % of all inputs get another worker", said)
    assert "No gateway runs in this process" in said
    assert Revision.objects.latest("id") == before
    assert Tuning.objects.get().virtual_nodes == 150
    assert "was changed successfully" not in text_of(ada.get(TUNING))
    form = Form(response.content.decode()).values
    assert form["comment"] == "why"
    assert ada.post(TUNING, form).status_code == 302
    saved = Revision.objects.latest("id")
    assert (saved.author, saved.comment) == ("ada", "why")
    assert saved.summary == "virtual nodes per worker 150 → 300; start at once when the model is free on → off"


def test_back_from_the_preview_the_form_has_what_was_typed(ada, workers):
    response = ada.post(TUNING, filled(ada, TUNING, "_preview", virtual_nodes=300, hedging=False, comment="why"))
    back = ada.post(TUNING, Form(response.content.decode()).values | {"_edit": "1"})
    form = Form(back.content.decode()).values
    assert (form["virtual_nodes"], form["comment"], "hedging" in form) == ("300", "why", False)
    assert "Please correct" not in text_of(back)
    assert Tuning.objects.get().virtual_nodes == 150


def test_a_preview_of_what_is_refused_is_the_form_with_the_sentence(ada):
    response = ada.post(TUNING, filled(ada, TUNING, "_preview", queue_ms=20_000))
    said = text_of(response)
    assert "nobody waits for the end of a queue of 20,000 ms. Take 10,000 ms or less here" in said
    assert Form(response.content.decode()).values["queue_ms"] == "20000"
    assert Tuning.objects.get().queue_ms == 2000


def test_an_old_conflict_does_not_keep_other_settings_from_being_saved(ada):
    tuned(queue_ms=20_000)
    assert ada.post(TUNING, filled(ada, TUNING, virtual_nodes=300)).status_code == 302
    assert ada.post(TUNING, filled(ada, TUNING, queue_ms=30_000)).status_code == 200


def test_nothing_changed_is_said(ada):
    assert "Nothing would change." in text_of(ada.post(TUNING, filled(ada, TUNING, "_preview")))


def test_workers_are_previewed_added_changed_in_the_list_and_removed(ada, workers):
    before = Revision.objects.latest("id")
    added = ada.post(f"{WORKERS}add/", filled(ada, f"{WORKERS}add/", "_preview", name="worker_4", host="h", port=8004))
    assert "Worker worker_4" in text_of(added)
    assert re.search(r"worker_4 0.0 % 2\d\.\d %", text_of(added))
    listed = ada.post(WORKERS, filled(ada, WORKERS, "_preview", **{"form-0-enabled": False}))
    assert "Worker worker_1 enabled on off" in text_of(listed)
    assert "worker_1 is let go" in text_of(listed)
    back = ada.post(WORKERS, Form(listed.content.decode()).values | {"_edit": "1"})
    assert "form-0-enabled" not in Form(back.content.decode()).values
    assert "Please correct" not in text_of(back)
    path = f"{WORKERS}{workers[1].pk}/delete/"
    removing = ada.get(path)
    assert "Worker worker_2 there removed" in text_of(removing)
    assert Revision.objects.latest("id") == before
    assert Worker.objects.filter(enabled=True).count() == 3
    assert ada.post(WORKERS, Form(listed.content.decode()).values | {"comment": "sick"}).status_code == 302
    assert not Worker.objects.get(name="worker_1").enabled
    assert Revision.objects.latest("id").comment == "sick"
    assert ada.post(path, Form(removing.content.decode()).values | {"comment": "sold"}).status_code == 302
    assert Revision.objects.latest("id").comment == "sold"


def test_several_workers_are_deleted_after_a_look_at_what_that_does(ada, workers):
    chosen = {"action": "delete_selected", "_selected_action": [workers[0].pk, workers[1].pk]}
    page = ada.post(WORKERS, chosen)
    said = text_of(page)
    assert "Worker worker_1 there removed" in said
    assert re.search(r"worker_3 3\d\.\d % 100.0 %", said)
    assert Worker.objects.count() == 3
    assert page.content.decode().count('name="_selected_action"') == 2
    assert ada.post(WORKERS, chosen | {"post": "yes", "comment": "sold"}).status_code == 302
    assert Worker.objects.get().name == "worker_3"
    assert Revision.objects.latest("id").comment == "sold"


def test_a_models_settings_that_do_not_go_together_are_refused(ada):
    tuned(batch_eager=False)
    path = "/admin/gateway_app/modelrecord/add/"
    response = ada.post(path, filled(ada, path, name="text", deadline_ms=10))
    assert "Model text: with 20 ms of waiting for a batch, a request would run into its limit of 10 ms" in text_of(
        response
    )
    assert not ModelRecord.objects.exists()


def test_what_is_tried_on_one_worker_leaves_the_tuning_as_it_is(ada, workers):
    response = ada.post(TUNING, filled(ada, TUNING, batch_size=8, try_on="worker_2", comment="careful"), follow=True)
    assert "Now tried on worker_2: requests per batch 8." in text_of(response)
    assert (Canary.objects.get().worker, Canary.objects.get().tuning) == ("worker_2", {"batch_size": 8})
    assert Tuning.objects.get().batch_size == 32
    assert (Revision.objects.latest("id").author, Revision.objects.latest("id").comment) == ("ada", "careful")
    Canary.objects.get().delete()
    refused = ada.post(TUNING, filled(ada, TUNING, virtual_nodes=300, try_on="worker_2"))
    assert refused.status_code == 200
    assert "virtual nodes" in text_of(refused)
    assert not Canary.objects.exists()
    seen = ada.post(TUNING, filled(ada, TUNING, "_preview", batch_size=8, try_on="worker_2"))
    assert "Canary" in text_of(seen)
    assert Form(seen.content.decode()).values["try_on"] == "worker_2"


# --- guards ---


def test_a_guard_is_set_with_a_change_and_compared_with_the_present(ada, monkeypatch):
    first = tuned(virtual_nodes=100)
    monkeypatch.setattr(previewedadmin, "present", lambda: Present(Figures(1000, 5, 20.0)))
    form = filled(ada, TUNING, batch_size=8, guard=True, guard_p99_factor=3, guard_minutes=10)
    said = text_of(ada.post(TUNING, form, follow=True))
    saved = Revision.objects.latest("id")
    guard = Guard.objects.get()
    assert (guard.revision_id, guard.back_to) == (saved.pk, first.pk)
    assert (guard.base_error_percent, guard.base_p99_ms) == (0.5, 20.0)
    assert f"Revision {saved.pk} is watched until" in said
    assert "errors exceed 1.5 % or the p99 latency 60.0 ms" in said


def test_without_a_change_there_is_nothing_to_guard(ada):
    tuned(virtual_nodes=100)
    said = text_of(ada.post(TUNING, filled(ada, TUNING, guard=True), follow=True))
    assert "Nothing has changed, so there is nothing to take back." in said
    assert not Guard.objects.exists()


def test_a_guards_limits_are_checked(ada):
    tuned(virtual_nodes=100)
    response = ada.post(TUNING, filled(ada, TUNING, virtual_nodes=300, guard=True, guard_p99_factor=1))
    assert "1.0 is out of range. Choose from 1.1 to 1,000." in text_of(response)
    assert Tuning.objects.get().virtual_nodes == 100


@pytest.mark.parametrize(("button", "state", "nodes"), [("keep", "superseded", 200), ("revert", "reverted", 100)])
def test_a_guard_is_ended_by_hand(ada, button, state, nodes):
    tuned(virtual_nodes=100)
    ada.post(TUNING, filled(ada, TUNING, virtual_nodes=200, guard=True))
    saved = Revision.objects.latest("id")
    page = ada.get(f"{HISTORY}{saved.pk}/change/")
    assert "Guard: watching" in text_of(page)
    url = reverse(f"admin:guard_{button}", args=(saved.pk,))
    assert url in page.content.decode()
    assert ada.get(url).status_code == 405
    ada.post(url)
    assert (Guard.objects.get().state, Tuning.objects.get().virtual_nodes) == (state, nodes)
    assert "This guard watches no more." in text_of(ada.post(url, follow=True))


# --- the history ---


def test_the_history_says_who_when_what_and_why(ada):
    ada.post(TUNING, filled(ada, TUNING, virtual_nodes=200, comment="for worker_4"))
    said = text_of(ada.get(HISTORY))
    for part in ("ada", "virtual nodes per worker 150 → 200", "for worker_4", "Restore"):
        assert part in said
    assert "for worker_4" in text_of(ada.get(HISTORY, {"q": "worker_4"}))
    assert "for worker_4" not in text_of(ada.get(HISTORY, {"q": "something else"}))


def test_a_revision_is_compared_with_the_one_before_and_with_now(ada):
    tuned(virtual_nodes=100)
    second = tuned(virtual_nodes=200, batch_size=16)
    third = tuned(virtual_nodes=300)
    said = text_of(ada.get(f"{HISTORY}{second.pk}/change/"))
    changed, since = said.split(f"What is otherwise now, in revision {third.pk}")
    assert "virtual nodes per worker 100 200" in changed
    assert "requests per batch 32 16" in changed
    assert "virtual nodes per worker 200 300" in since
    assert "requests per batch" not in since
    assert ada.get(f"{HISTORY}9999/change/").status_code == 302
    assert ada.get(f"{HISTORY}nonsense/change/").status_code == 302


def test_a_revision_is_restored_after_a_look_at_what_that_changes(ada, workers):
    first = Revision.objects.latest("id")
    Worker.objects.get(name="worker_3").delete()
    last = tuned(virtual_nodes=300)
    url = reverse("admin:revision_restore", args=(first.pk,))
    page = ada.get(url)
    said = text_of(page)
    assert "virtual nodes per worker 300 150" in said
    assert "Worker worker_3 added" in said
    assert re.search(r"worker_3 0.0 % 3\d.\d %", said)
    assert Tuning.objects.get().virtual_nodes == 300
    done = ada.post(url, Form(page.content.decode()).values | {"comment": "it was better"}, follow=True)
    made = Revision.objects.latest("id")
    assert f"Revision {first.pk} is restored, as revision {made.pk}." in text_of(done)
    assert reverse("admin:revision_restore", args=(last.pk,)) in done.content.decode()
    assert (made.author, made.comment) == ("ada", "it was better")
    assert sorted(Worker.objects.values_list("name", flat=True)) == ["worker_1", "worker_2", "worker_3"]
    assert "Nothing would change." in text_of(ada.get(url))


def test_what_changed_while_one_looked_is_looked_at_again(ada):
    first = tuned(virtual_nodes=100)
    tuned(virtual_nodes=200)
    url = reverse("admin:revision_restore", args=(first.pk,))
    form = Form(ada.get(url).content.decode()).values
    tuned(batch_size=8)
    response = ada.post(url, form)
    assert "The configuration has changed meanwhile" in text_of(response)
    assert "requests per batch 8 32" in text_of(response)
    assert Tuning.objects.get().virtual_nodes == 200


def test_a_restored_revision_can_be_guarded(ada):
    first = tuned(virtual_nodes=100)
    last = tuned(virtual_nodes=200)
    url = reverse("admin:revision_restore", args=(first.pk,))
    ada.post(url, Form(ada.get(url).content.decode()).values | {"guard": "on"})
    assert (Guard.objects.get().revision_id, Guard.objects.get().back_to) == (last.pk + 1, last.pk)


def test_a_revision_that_cannot_be_restored_says_why(ada):
    first = tuned(batch_size=8)
    first.payload["tuning"]["batch_size"] = 5000
    first.save()
    tuned(batch_size=16)
    said = text_of(ada.get(reverse("admin:revision_restore", args=(first.pk,)), follow=True))
    assert "cannot be in force any more: tuning, batch_size: 5000 is out of range. Choose from 1 to 1,024." in said
    assert ada.get(reverse("admin:revision_restore", args=(9999,))).status_code == 404


# --- permissions ---


def test_who_may_only_look_sees_histories_and_effects_and_changes_nothing(client, workers):
    first = tuned(virtual_nodes=100)
    last = tuned(virtual_nodes=200)
    Guard.objects.create(
        revision=last, back_to=first.pk, until=last.created, error_points=1, p99_factor=2, base_error_percent=0
    )
    client.force_login(user("bob", "view_revision", "view_tuning", "view_worker"))
    assert client.get(HISTORY).status_code == 200
    page = client.get(f"{HISTORY}{last.pk}/change/")
    assert "Guard: watching" in text_of(page)
    assert "Keep the change now" not in text_of(page)
    url = reverse("admin:revision_restore", args=(first.pk,))
    assert "It takes the permission: change_tuning." in text_of(client.get(url))
    assert "virtual nodes per worker 200 100" in text_of(client.get(url))
    assert client.post(url, {"newest": last.pk}).status_code == 403
    for name in ("guard_keep", "guard_revert"):
        assert client.post(reverse(f"admin:{name}", args=(last.pk,))).status_code == 403
    page = client.get(TUNING)
    assert page.status_code == 200
    assert 'name="_preview"' not in page.content.decode()
    assert "When it is saved" not in text_of(page)
    assert client.post(TUNING, {"_preview": "1", "virtual_nodes": 9}).status_code == 403
    assert client.post(WORKERS, {"_preview": "1"}).status_code == 403
    assert Revision.objects.latest("id") == last


def test_a_stranger_sees_nothing(client):
    first = tuned(virtual_nodes=100)
    for url in (HISTORY, f"{HISTORY}{first.pk}/change/", f"{HISTORY}{first.pk}/restore/"):
        response = client.get(url)
        assert (response.status_code, "/login/" in response["Location"]) == (302, True)
    client.force_login(user("eve"))
    for url in (HISTORY, f"{HISTORY}{first.pk}/change/", f"{HISTORY}{first.pk}/restore/"):
        assert client.get(url).status_code == 403


def test_restoring_takes_the_permissions_of_what_it_does(client, workers):
    first = Revision.objects.latest("id")
    Worker.objects.get(name="worker_3").delete()
    tuned(virtual_nodes=300)
    client.force_login(user("bob", "view_revision", "change_tuning", "change_worker"))
    url = reverse("admin:revision_restore", args=(first.pk,))
    assert "It takes the permission: add_worker." in text_of(client.get(url))
    assert client.post(url, {"newest": first.pk + 2}).status_code == 403
    assert Worker.objects.count() == 2


# --- what pages cost ---


def grown(revisions, workers):
    with recorded():
        for n in range(workers):
            Worker.objects.create(name=f"more_{n}", host="h", port=n + 1)
    for n in range(revisions):
        tuned(batch_size=n + 1)


@pytest.mark.parametrize("size", [1, 30])
def test_pages_ask_the_database_a_fixed_number_of_times(ada, size, django_assert_max_num_queries):
    grown(size, size)
    first = Revision.objects.earliest("id")
    form = filled(ada, TUNING, "_preview", virtual_nodes=300)
    for url, most in (
        (HISTORY, 5),
        (f"{HISTORY}{first.pk}/change/", 5),
        (reverse("admin:revision_restore", args=(first.pk,)), 5),
        (TUNING, 6),
    ):
        with django_assert_max_num_queries(most):
            assert ada.get(url).status_code == 200
    with django_assert_max_num_queries(95):  # Django asks it about each constraint of the row
        assert ada.post(TUNING, form).status_code == 200


# --- two people at once ---


def test_what_somebody_else_saved_meanwhile_is_not_undone_unseen(ada, workers):
    form = filled(ada, TUNING, virtual_nodes=300)
    with recorded(author="bob"):
        tuned(batch_size=8)
    refused = ada.post(TUNING, form)
    said = text_of(refused)
    assert "has been saved by bob since this form was opened (requests per batch 32 → 8)" in said
    assert "It would undo that: Requests per batch. Save again to do so, or open the form anew." in said
    assert (Tuning.objects.get().batch_size, Tuning.objects.get().virtual_nodes) == (8, 150)
    again = Form(refused.content.decode()).values | {"_save": "1"}
    assert ada.post(TUNING, again).status_code == 302
    assert (Tuning.objects.get().batch_size, Tuning.objects.get().virtual_nodes) == (32, 300)


def test_what_somebody_else_saved_elsewhere_is_no_hindrance(ada, workers):
    path = f"{WORKERS}{workers[0].pk}/change/"
    forms = filled(ada, TUNING, virtual_nodes=300), filled(ada, path, weight=2)
    Worker.objects.filter(name="worker_2").update(weight=3)
    assert ada.post(TUNING, forms[0]).status_code == 302
    assert ada.post(path, forms[1]).status_code == 302
    assert sorted(Worker.objects.values_list("weight", flat=True)) == [1, 2, 3]


@pytest.mark.parametrize("number", ["0", "9" * 18, "9" * 30, "9" * 5000, "²", "-1", "x"])
def test_what_is_no_revisions_number_is_not_found(ada, number):
    tuned(virtual_nodes=200)
    assert "exist" in text_of(ada.get(f"{HISTORY}{number}/change/", follow=True))
    assert ada.get(f"{HISTORY}{number}/restore/").status_code in (302, 404)
    for step in ("keep", "revert"):
        assert ada.post(f"{HISTORY}{number}/{step}/").status_code in (302, 404)
    assert Tuning.objects.get().virtual_nodes == 200


def test_a_list_saves_what_was_changed_in_it_and_not_what_it_showed(ada, workers):
    before = filled(ada, WORKERS)
    Worker.objects.filter(name="worker_1").update(draining=True)
    Worker.objects.filter(name="worker_2").update(weight=3.0, enabled=False)
    sent = before | {"form-0-weight": "2", "form-2-isolated": "on"}
    preview = text_of(ada.post(WORKERS, {**sent, "_preview": "1"}))
    assert "worker_1 weight 1 2" in preview and "draining" not in preview
    ada.post(WORKERS, sent)
    said = Worker.objects.values_list("weight", "enabled", "draining", "isolated")
    assert list(said) == [(2.0, True, True, False), (3.0, False, False, False), (1.0, True, False, True)]
    assert "draining" not in Revision.objects.latest("id").summary


def test_a_list_that_was_edited_is_shown_again_and_saved_from_its_preview(ada, workers):
    sent = filled(ada, WORKERS, "_preview") | {"form-0-weight": "2"}
    preview = ada.post(WORKERS, sent)
    Worker.objects.filter(name="worker_3").update(draining=True)
    shown = Form(ada.post(WORKERS, Form(preview.content.decode()).values | {"_edit": "1"}).content.decode()).values
    assert (shown["form-0-weight"], shown["initial-form-0-weight"]) == ("2", "1.0")
    ada.post(WORKERS, shown | {"_save": "1"})
    assert list(Worker.objects.values_list("weight", "draining")) == [(2.0, False), (1.0, False), (1.0, True)]
