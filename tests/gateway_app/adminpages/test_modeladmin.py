"""The admin's page of models: real forms, what workers say, and orders by hand."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.urls import reverse

from gateway_app.models import ModelRecord, Revision
from inference_site.lib.catalog import ModelSettings
from inference_site.lib.record import Padding, Record
from tests.gateway_app.test_admin import form_of, sentences

pytestmark = pytest.mark.django_db

LIST = "admin:gateway_app_modelrecord_changelist"
ADD = "admin:gateway_app_modelrecord_add"
CHANGE = "admin:gateway_app_modelrecord_change"


@pytest.fixture
def ada(client):
    client.force_login(get_user_model().objects.create_superuser("ada", password="a long enough one"))
    return client


def version(name, number, *said):
    return {
        "name": name,
        "version": number,
        "state": "READY",
        "default": False,
        "workers": [{"name": worker, "state": state, "reason": reason, "number": 1} for worker, state, reason in said],
    }


@pytest.fixture
def says(monkeypatch):
    """A list to put into what the running gateway says of its models."""
    models: list[dict] = []
    stats = {"models": models, "workers": [], "circuit_breakers": [], "gateway": {"hot_entries": 0}}
    monkeypatch.setattr("gateway_app.figures.stats.gateway_stats", lambda: stats)
    return models


def test_settings_are_added_by_form_and_recorded_with_the_user(ada):
    page = ada.get(reverse(ADD), {"name": "text"})
    for heading in ("/infer", "Batches", "Lengths that vary", "Cache", "Requests and start"):
        assert f">{heading}</h2>" in page.content.decode()
    form = form_of(page)
    assert form["name"] == "text"
    assert "order_number" not in form
    sent = {
        "versions": "1, 2", "output": "logits", "pad_with_zeros": "false", "cached": "false", "batch_size": "16",
        "padding_dimension": "length", "padding_buckets": "16, 32", "padding_mask": "mask",
        "padding_values": "ids = 1", "warm_up": "ids = 1x16, mask = 1x16", "deadline_ms": "800",
    }  # fmt: skip
    assert ada.post(reverse(ADD), {**form, **sent}).status_code == 302
    assert ModelRecord.objects.get().settings == ModelSettings(
        versions=("1", "2"),
        record=Record(
            output="logits",
            pad_with_zeros=False,
            padding=Padding(dimension="length", buckets=(16, 32), mask="mask", values={"ids": 1.0}),
            cached=False,
            batch_size=16,
            deadline_ms=800,
            warm_up=({"ids": (1, 16), "mask": (1, 16)},),
        ),
    )
    newest = Revision.objects.get()
    assert newest.author == "ada"
    assert newest.summary.startswith("settings of model text added (versions 1, 2, output of /infer logits, ")


def test_a_form_saved_as_it_is_changes_nothing(ada):
    row = ModelRecord.objects.create(name="digits", cached=False, batch_size=8)
    url = reverse(CHANGE, args=(row.pk,))
    form = form_of(ada.get(url))
    sent = {**form, "cached": "false"}  # a browser sends the choice's own word
    assert ada.post(url, sent).status_code == 302
    assert Revision.objects.count() == 1
    ada.post(url, {**{name: value for name, value in sent.items() if name != "loaded"}, "cached": "unknown"})
    assert (
        Revision.objects.latest("id").summary
        == "model digits loaded on → off; model digits keep results off → as usual"
    )


def test_a_refused_form_says_why_and_changes_nothing(ada):
    ModelRecord.objects.create(name="digits")
    form = form_of(ada.get(reverse(ADD))) | {"name": "text"}
    for change, says in (
        ({"name": "stats"}, "cannot be a model&#x27;s name"),
        ({"name": "digits"}, "This model has settings already: edit those."),
        ({"versions": "1; 2"}, "&#x27;1; 2&#x27; is no version. Write the numbers of folders, as in 1, 3."),
        ({"batch_size": "0"}, "0 is out of range. Choose from 1 to 1,024."),
        ({"batch_size": "-1"}, "-1 is out of range. Choose from 1 to 1,024."),
        ({"deadline_ms": "abc"}, "&#x27;abc&#x27; is no whole number. Write one, as in 12."),
        ({"batch_wait_ms": "nan"}, "&#x27;nan&#x27; is no number. Write one, as in 0.5."),
        ({"padding_dimension": "seq", "padding_buckets": ","}, "&#x27;,&#x27; holds nothing but commas."),
        ({"padding_dimension": "length"}, "Something must be given here too"),
        ({"padding_dimension": "length", "padding_buckets": "32, 16"}, "16 follows 32. Write each length once"),
        ({"warm_up": "ids = 0"}, "is no shape of ids"),
    ):
        response = ada.post(reverse(ADD), {**form, **change})
        assert response.status_code == 200
        assert says in response.content.decode()
    assert Revision.objects.count() == 1


def test_the_list_shows_what_each_worker_says(ada, says):
    ModelRecord.objects.create(name="text", versions="1")
    ModelRecord.objects.create(name="gone")
    says += [
        version(
            "text", "1", ("worker_1", "READY", ""), ("worker_2", "UNAVAILABLE", "<b>no memory</b>"),
            ("worker_3", "READY", ""),
        ),
        version("text", "2", ("worker_1", "LOADING", "")),
        version("digits", "1", ("worker_1", "READY", "")),
        version("off", "", ("worker_1", "UNAVAILABLE", "unloaded")),
        version("kept", "1", ("worker_1", "READY", "the last change is not in force: it has no output nope")),
    ]  # fmt: skip
    page = ada.get(reverse(LIST)).content.decode()
    assert "version 1: READY (worker_1, worker_3)<br>" in page
    assert "version 1: UNAVAILABLE: &lt;b&gt;no memory&lt;/b&gt; (worker_2)<br>" in page
    assert "version 2: LOADING (worker_1)" in page
    assert "<td>UNAVAILABLE: unloaded (worker_1)</td>" in page
    assert "version 1: READY: the last change is not in force: it has no output nope (worker_1)" in page
    assert "No worker has it." in page
    assert '<input type="hidden" name="target" value="digits">' in page
    assert "Served without settings of their own" in page
    assert f'href="{reverse(ADD)}?name=digits"' in page
    assert f'href="{reverse(ADD)}?name=text"' not in page


def test_without_a_gateway_and_models_the_list_says_what_to_do(ada):
    page = ada.get(reverse(LIST)).content.decode()
    assert "Put a model at NAME/1/model.onnx into MODEL_REPOSITORY" in page
    assert "Served without settings" not in page


def test_the_list_takes_as_many_queries_for_many_models_as_for_one(ada, says, django_assert_num_queries):
    ModelRecord.objects.create(name="m0")
    says.append(version("m0", "1", ("worker_1", "READY", "")))
    ada.get(reverse(LIST))
    with django_assert_num_queries(6):  # session, user, count twice, rows, names
        ada.get(reverse(LIST))
    for number in range(1, 30):
        ModelRecord.objects.create(name=f"m{number}")
        says.append(version(f"other{number}", "1", ("worker_1", "READY", "")))
    with django_assert_num_queries(6):
        ada.get(reverse(LIST))


def confirm(client, page, **values):
    """Sends the form of a confirmation back, as a browser does."""
    context = page.context
    form = {"action": context["action"].name, "target": context["targets"], "confirmed": "yes", **values}
    return client.post(context["operate_url"], form, follow=True)


@pytest.mark.parametrize(("action", "loaded"), [("load", True), ("unload", False)])
def test_chosen_models_are_loaded_and_unloaded_in_one_revision(ada, action, loaded):
    rows = [ModelRecord.objects.create(name=name, loaded=not loaded) for name in ("a", "b", "c")]
    count, last = Revision.objects.count(), Revision.objects.latest("id").pk
    chosen = {"action": action, "_selected_action": [rows[0].pk, rows[2].pk]}
    page = ada.post(reverse(LIST), chosen)
    assert Revision.objects.count() == count  # nothing is done before it is confirmed
    response = confirm(ada, page, comment="for a test")
    assert f"Done: a: ordered to {action}; c: ordered to {action}." in sentences(response)
    assert list(ModelRecord.objects.values_list("loaded", "order_number")) == [
        (loaded, last + 1),
        (not loaded, 0),
        (loaded, last + 1),
    ]
    assert Revision.objects.count() == count + 1
    newest = Revision.objects.latest("id")
    assert (newest.author, newest.comment) == ("ada", "for a test")
    assert newest.summary == f"model a ordered to {action}; model c ordered to {action}"
    history = ada.get(reverse("admin:gateway_app_modelrecord_history", args=(rows[0].pk,)))
    assert f"{action.capitalize()}, by hand." in history.content.decode()


def test_to_load_again_is_an_order_and_to_unload_again_is_none(ada):
    row = ModelRecord.objects.create(name="a")
    last = Revision.objects.latest("id").pk
    for number in (last + 1, last + 2):  # workers look for new versions and changed files
        confirm(ada, ada.post(reverse(LIST), {"action": "load", "_selected_action": [row.pk]}))
        assert ModelRecord.objects.get().order_number == number
    ModelRecord.objects.update(loaded=False)
    page = ada.post(reverse(LIST), {"action": "unload", "_selected_action": [row.pk]})
    assert "Nothing to do: a is unloaded already." in page.content.decode()


def test_a_model_without_settings_is_unloaded_by_its_button(ada, says):
    says.append(version("digits", "1", ("worker_1", "READY", "")))
    page = ada.post(reverse("admin:modelrecord_operate"), {"target": "digits", "action": "unload"})
    assert "Clients get 404 for digits (version 1) until it is loaded again." in page.content.decode()
    assert not ModelRecord.objects.exists()
    assert "Done: digits: ordered to unload." in sentences(confirm(ada, page))
    assert ModelRecord.objects.get().settings == ModelSettings(loaded=False, order=1)
    assert Revision.objects.get().author == "ada"
    response = ada.post(reverse("admin:modelrecord_operate"), {"target": "a b", "action": "load"}, follow=True)
    assert "cannot be a model's name" in sentences(response)
    response = ada.post(reverse("admin:modelrecord_operate"), {"target": "nope", "action": "unload"}, follow=True)
    assert "There is no model 'nope'; the models are: digits." in sentences(response)
    assert ada.get(reverse("admin:modelrecord_operate")).status_code == 405


def test_deleting_settings_says_what_becomes_of_the_model(ada):
    row = ModelRecord.objects.create(name="digits", loaded=False)
    url = reverse("admin:gateway_app_modelrecord_delete", args=(row.pk,))
    text = " ".join(ada.get(url).content.decode().split())
    assert "This deletes the settings of digits, not its files" in text
    assert "It is unloaded now, and workers will load it again." in text
    ada.post(url, {"post": "yes"})
    assert Revision.objects.latest("id").summary == "settings of model digits removed"


def test_who_may_only_look_orders_and_uploads_nothing(client, says):
    says.append(version("digits", "1", ("worker_1", "READY", "")))
    user = get_user_model().objects.create_user("eve", password="a long enough one", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_modelrecord"))
    client.force_login(user)
    page = client.get(reverse(LIST)).content.decode()
    assert "digits" in page
    assert "Unload" not in page
    assert "upload" not in page
    values = {"target": "digits", "action": "unload", "confirmed": "yes"}
    assert client.post(reverse("admin:modelrecord_operate"), values).status_code == 403
    assert client.get(reverse("admin:model_upload")).status_code == 403
    assert not ModelRecord.objects.exists()
