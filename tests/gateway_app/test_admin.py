"""The admin's pages: what they change, what they refuse, and whose name the history shows."""

import pytest
from django.contrib.auth import get_user_model
from django.urls import reverse

from gateway_app.adminpages.modelstates import ModelState
from gateway_app.config import adopt_name
from gateway_app.models import Revision, Tuning, Worker

pytestmark = pytest.mark.django_db

WORKERS = "admin:gateway_app_worker_changelist"
TUNING = "admin:gateway_app_tuning_change"


@pytest.fixture
def ada(client):
    user = get_user_model().objects.create_superuser("ada", password="a long enough one")
    client.force_login(user)
    return client


@pytest.fixture
def workers():
    return [Worker.objects.create(name=f"worker_{n}", host="127.0.0.1", port=8000 + n) for n in (1, 2, 3)]


def sentences(response):
    return " ".join(str(message) for message in response.context["messages"])


def form_of(response):
    """What a browser would send back for the form on this page."""
    form = response.context["adminform"].form
    values = {name: form.get_initial_for_field(field, name) for name, field in form.fields.items()}
    return {
        name: "on" if value is True else value
        for name, value in values.items()
        if value is not None and value is not False
    }


def test_a_stranger_is_sent_to_the_login(client):
    response = client.get(reverse(WORKERS))
    assert response.status_code == 302
    assert "/login/" in response["Location"]


def test_a_worker_is_added_by_form_and_recorded_with_the_user(ada):
    page = ada.get(reverse("admin:gateway_app_worker_add"))
    form = {**form_of(page), "name": "worker_1", "host": "localhost", "port": "8001"}
    assert ada.post(reverse("admin:gateway_app_worker_add"), form).status_code == 302
    revision = Revision.objects.get()
    assert (revision.author, revision.summary) == ("ada", "worker_1 added at localhost port 8001")
    assert Worker.objects.get().weight == 1.0


def test_a_name_typed_for_a_bare_address_stays(ada):
    worker = Worker.objects.create(name="h-1", host="h", port=1, named=False)
    url = reverse("admin:gateway_app_worker_change", args=(worker.pk,))
    ada.post(url, {**form_of(ada.get(url)), "weight": "2"})
    assert not Worker.objects.get().named
    ada.post(url, {**form_of(ada.get(url)), "name": "worker_1"})
    assert Worker.objects.get().named
    assert not adopt_name("h", 1, "worker_7")


def test_a_refused_form_says_why_and_changes_nothing(ada, workers):
    before = Revision.objects.count()
    url = reverse("admin:gateway_app_worker_change", args=(workers[0].pk,))
    for change, says in (
        ({"port": "8002"}, "Another worker has this host and port already"),
        ({"name": "worker_2"}, "Another worker has this name already"),
        ({"name": "a b"}, "cannot be a worker&#x27;s name"),
        ({"host": "http://x"}, "is no host"),
        ({"weight": "0"}, "0.0 is out of range. Choose from 0.01 to 100."),
        ({"weight": "nan"}, "&#x27;nan&#x27; is no number. Write one, as in 0.5."),
        ({"port": "http"}, "&#x27;http&#x27; is no whole number. Write one, as in 12."),
        ({"port": "-1"}, "-1 is out of range. Choose from 1 to 65,535."),
    ):
        response = ada.post(url, {**form_of(ada.get(url)), **change})
        assert response.status_code == 200
        assert says in response.content.decode()
    assert Revision.objects.count() == before


def test_rows_edited_in_the_list_become_one_revision(ada, workers):
    before = Revision.objects.count()
    page = ada.get(reverse(WORKERS))
    formset = page.context["cl"].formset
    form = {
        "form-TOTAL_FORMS": 3,
        "form-INITIAL_FORMS": 3,
        "_save": "Save",
        **{f"form-{n}-id": row.instance.pk for n, row in enumerate(formset.forms)},
        "form-0-weight": "2",
        "form-0-enabled": "on",
        "form-1-weight": "1",
        "form-2-weight": "1",
        "form-2-enabled": "on",
        "form-2-draining": "on",
        "form-2-isolated": "on",
    }
    assert ada.post(reverse(WORKERS), form).status_code == 302
    assert Revision.objects.count() == before + 1
    newest = Revision.objects.latest("id")
    assert newest.author == "ada"
    assert newest.summary == (
        "worker_1 weight 1 → 2; worker_2 enabled on → off; worker_3 draining off → on; worker_3 isolated off → on"
    )


def test_an_order_is_not_typed_into_the_form(ada, workers):
    url = reverse("admin:gateway_app_worker_change", args=(workers[0].pk,))
    form = form_of(ada.get(url))
    assert not {"order", "order_number", "named"} & set(form)
    ada.post(url, {**form, "order": "trip", "order_number": "7", "weight": "2"})
    row = Worker.objects.get(name="worker_1")
    assert (row.order, row.order_number, row.weight) == ("", 0, 2.0)


def test_workers_are_deleted_in_one_revision(ada, workers):
    count = Revision.objects.count()
    chosen = {"action": "delete_selected", "_selected_action": [w.pk for w in workers], "post": "yes"}
    assert ada.post(reverse(WORKERS), chosen).status_code == 302
    assert not Worker.objects.exists()
    assert Revision.objects.count() == count + 1
    newest = Revision.objects.latest("id")
    assert (newest.author, newest.summary) == ("ada", "worker_1 removed; worker_2 removed; worker_3 removed")


def test_tuning_is_one_form_that_the_list_leads_to(ada):
    url = reverse(TUNING, args=(1,))
    assert ada.get(reverse("admin:gateway_app_tuning_changelist"))["Location"] == url
    page = ada.get(url)
    for heading in ("Ring", "Load", "Breaker", "Health", "Cache", "Batches", "Requests"):
        assert f">{heading}</h2>" in page.content.decode()
    assert ada.get(reverse("admin:gateway_app_tuning_add")).status_code == 403
    assert ada.post(reverse("admin:gateway_app_tuning_delete", args=(1,)), {"post": "yes"}).status_code == 403
    response = ada.post(url, {**form_of(page), "virtual_nodes": "300", "batch_wait_ms": "0"})
    assert response.status_code == 302
    newest = Revision.objects.latest("id")
    assert (newest.author, newest.summary) == ("ada", "virtual nodes per worker 150 → 300; longest wait (ms) 20 → 0")


@pytest.mark.parametrize(("name", "warned"), [("nope", True), ("text", False), ("", False)])
def test_a_model_of_infer_that_nobody_serves_is_warned_of(ada, monkeypatch, name, warned):
    said = [ModelState("text", "1", "READY", "", ("worker_1",)), ModelState("nope", "1", "UNAVAILABLE", "", ())]
    monkeypatch.setattr("gateway_app.adminpages.tuningadmin.model_states", lambda: said)
    url = reverse(TUNING, args=(1,))
    response = ada.post(url, {**form_of(ada.get(url)), "default_model": name}, follow=True)
    warning = "No worker serves nope, the model of /infer: load it, or name one of these: text."
    assert (warning in sentences(response)) is warned
    assert Tuning.objects.get().default_model == name


def test_tuning_that_is_refused_keeps_the_old_values(ada):
    url = reverse(TUNING, args=(1,))
    form = form_of(ada.get(url))
    count = Revision.objects.count()
    for change, says in (
        ({"virtual_nodes": "0"}, "0 is out of range. Choose from 1 to 10,000."),
        ({"batch_wait_ms": "nan"}, "&#x27;nan&#x27; is no number. Write one, as in 0.5."),
        ({"slow_factor": "1"}, "1.0 is out of range. Choose from 1.5 to 1,000, or 0 to switch it off."),
        ({"batch_eager": "", "request_timeout_ms": "20"}, "would run into its limit of 20 ms"),
    ):
        sent = {name: value for name, value in {**form, **change}.items() if value != ""}
        response = ada.post(url, sent)
        assert response.status_code == 200
        assert says in response.content.decode()
    assert Revision.objects.count() == count
    assert Tuning.objects.get().virtual_nodes == 150


def test_the_history_can_be_read_but_not_changed(ada, workers):
    listing = ada.get(reverse("admin:gateway_app_revision_changelist")).content.decode()
    assert "worker_3 added at 127.0.0.1 port 8003" in listing
    assert "command line" in listing
    newest = Revision.objects.latest("id")
    url = reverse("admin:gateway_app_revision_change", args=(newest.pk,))
    assert ada.get(url).status_code == 200
    assert ada.post(url, {"summary": "forged"}).status_code == 403
    assert ada.get(reverse("admin:gateway_app_revision_add")).status_code == 403
    assert ada.post(reverse("admin:gateway_app_revision_delete", args=(newest.pk,)), {"post": "yes"}).status_code == 403
    newest.refresh_from_db()
    assert newest.summary == "worker_3 added at 127.0.0.1 port 8003"
