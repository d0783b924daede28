"""Actions in the list of workers: confirmed on a page that states their effect, by who has the permission."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.urls import reverse

from gateway_app.models import Event, Revision, Worker
from tests.gateway_app.test_admin import sentences

pytestmark = pytest.mark.django_db

WORKERS = "admin:gateway_app_worker_changelist"
OPERATE = "admin:worker_operate"


@pytest.fixture
def workers():
    return [Worker.objects.create(name=f"worker_{n}", host="127.0.0.1", port=8000 + n) for n in (1, 2, 3)]


@pytest.fixture
def user():
    return get_user_model().objects.create_user("olga", password="a long enough one", is_staff=True)


@pytest.fixture
def olga(client, user):
    """May operate workers, and nothing else."""
    user.user_permissions.add(Permission.objects.get(codename="operate_worker"))
    client.force_login(user)
    return client


def choose(client, action, workers):
    return client.post(reverse(WORKERS), {"action": action, "_selected_action": [worker.pk for worker in workers]})


def confirm(client, page, **values):
    """Sends the form of a confirmation back, as a browser does."""
    context = page.context
    form = {"action": context["action"].name, "target": context["targets"], "confirmed": "yes", **values}
    return client.post(context["operate_url"], form, follow=True)


@pytest.mark.parametrize(
    ("action", "field", "before", "after", "done"),
    [
        ("drain", "draining", False, True, "draining"),
        ("undrain", "draining", True, False, "taking requests again"),
        ("enable", "enabled", False, True, "enabled"),
        ("disable", "enabled", True, False, "disabled"),
        ("isolate", "isolated", False, True, "isolated"),
        ("unisolate", "isolated", True, False, "no longer isolated"),
    ],
)
def test_a_confirmed_action_changes_the_chosen_workers_in_one_revision(
    olga, workers, action, field, before, after, done
):
    Worker.objects.update(**{field: before})
    count = Revision.objects.count()
    page = choose(olga, action, [workers[0], workers[2]])
    assert page.status_code == 200
    assert Revision.objects.count() == count  # nothing is done before it is confirmed
    response = confirm(olga, page, comment="for a test")
    assert f"Done: worker_1: {done}; worker_3: {done}." in sentences(response)
    assert list(Worker.objects.values_list(field, flat=True)) == [after, before, after]
    assert Revision.objects.count() == count + 1
    newest = Revision.objects.latest("id")
    assert (newest.author, newest.comment) == ("olga", "for a test")
    told = [f"worker_1: {done} (for a test)", f"worker_3: {done} (for a test)"]
    events = Event.objects.filter(kind="action").order_by("id")
    assert [(event.author, event.worker, event.reason) for event in events] == [
        ("olga", "worker_1", told[0]),
        ("olga", "worker_3", told[1]),
    ]
    again = choose(olga, action, [workers[0], workers[2]])
    assert not again.context["targets"]
    assert "Nothing would change." in again.content.decode()


@pytest.mark.parametrize(
    ("action", "done"), [("trip", "breaker tripped"), ("reset", "breaker reset"), ("flush", "cache flushed")]
)
def test_an_order_reaches_the_enabled_ones_of_the_chosen_workers_in_one_revision(olga, workers, action, done):
    Worker.objects.filter(name="worker_2").update(enabled=False)
    count = Revision.objects.count()
    for number in (1, 2):
        page = choose(olga, action, workers)
        assert page.context["targets"] == ["worker_1", "worker_3"]
        assert "Nothing to do: worker_2 is disabled" in page.content.decode()
        assert f"Done: worker_1: {done}; worker_3: {done}." in sentences(confirm(olga, page))
        orders = [(action, number), ("", 0), (action, number)]
        assert list(Worker.objects.values_list("order", "order_number")) == orders
        assert Revision.objects.count() == count + number
    newest = Revision.objects.latest("id")
    assert newest.author == "olga"
    assert newest.summary == f"worker_1 {done} by hand; worker_3 {done} by hand"
    page = olga.get(reverse("admin:gateway_app_worker_history", args=(workers[0].pk,)))
    assert f"{choose(olga, action, workers).context['action'].label}, by hand." in page.content.decode()


def test_the_page_states_the_effect_of_one_after_the_other(olga, workers):
    effects = choose(olga, "isolate", workers).context["effects"]
    assert [target for target, _, _ in effects] == ["worker_1", "worker_2", "worker_3"]
    sentences = [sentence for _, sentence, _ in effects]
    assert "worker_2 (" in sentences[0] and "worker_3 (" in sentences[0]
    assert "worker_1 (" not in sentences[1] and "worker_3 (" in sentences[1]
    assert "Nobody else can answer: clients will get 503." in sentences[2]


def test_what_was_done_meanwhile_is_not_done_again(olga, workers):
    page = choose(olga, "drain", workers[:2])
    Worker.objects.filter(name="worker_1").update(draining=True)
    response = confirm(olga, page)
    assert "Done: worker_2: draining. Nothing to do: worker_1 is draining already." in sentences(response)
    Worker.objects.filter(name="worker_3").delete()
    response = olga.post(reverse(OPERATE), {"action": "drain", "target": "worker_3", "confirmed": "yes"}, follow=True)
    assert "There is no worker 'worker_3'; the workers are: worker_1, worker_2." in sentences(response)


def test_who_may_operate_need_not_be_allowed_to_edit(olga, workers):
    page = olga.get(reverse(WORKERS))
    assert page.context["cl"].formset is None
    assert {"trip", "flush", "disable"} <= {name for name, _ in page.context["action_form"].fields["action"].choices}
    url = reverse("admin:gateway_app_worker_change", args=(workers[0].pk,))
    assert olga.get(url).status_code == 200
    assert olga.post(url, {"name": "renamed"}).status_code == 403
    assert olga.get(reverse("admin:gateway_app_tuning_changelist")).status_code in (302, 403)
    assert olga.get(reverse("admin:gateway_app_modelrecord_changelist")).status_code == 403


@pytest.mark.parametrize("codename", ["change_worker", "view_worker"])
def test_who_may_only_edit_or_look_cannot_operate(client, user, workers, codename):
    user.user_permissions.add(Permission.objects.get(codename=codename))
    client.force_login(user)
    page = client.get(reverse(WORKERS))
    form = page.context["action_form"]
    assert form is None or "trip" not in {name for name, _ in form.fields["action"].choices}
    values = {"action": "trip", "target": "worker_1", "confirmed": "yes"}
    assert client.post(reverse(OPERATE), values).status_code == 403
    assert client.post(reverse(OPERATE), {**values, "action": "load"}).status_code == 403
    assert Worker.objects.get(name="worker_1").order_number == 0


def test_a_confirmation_is_never_a_get_nor_of_a_stranger(client, olga, workers):
    assert olga.get(reverse(OPERATE), {"action": "trip", "target": "worker_1", "confirmed": "yes"}).status_code == 405
    for values in ({}, {"action": "trip"}, {"action": "unknown", "target": "worker_1"}):
        assert olga.post(reverse(OPERATE), values).status_code == 403
    client.logout()
    response = client.post(reverse(OPERATE), {"action": "trip", "target": "worker_1", "confirmed": "yes"})
    assert "/login/" in response["Location"]
    assert Worker.objects.get(name="worker_1").order_number == 0


def test_names_and_comments_are_shown_as_text(olga, workers):
    page = confirm(olga, choose(olga, "drain", workers[:1]), comment="<b>why</b>")
    assert "<b>why</b>" not in page.content.decode()
    too_long = confirm(olga, choose(olga, "undrain", workers[:1]), comment="x" * 1001)
    assert "The comment has 1,001 characters; write 1,000 at the most." in sentences(too_long)
    assert Worker.objects.get(name="worker_1").draining


def test_the_list_takes_as_many_queries_for_a_hundred_workers_as_for_three(
    admin_client, workers, django_assert_num_queries
):
    admin_client.get(reverse(WORKERS))  # whatever is read once and kept
    with django_assert_num_queries(5):  # session, user, count twice, rows
        admin_client.get(reverse(WORKERS))
    for number in range(4, 101):
        Worker.objects.create(name=f"worker_{number}", host="127.0.0.1", port=8000 + number)
    with django_assert_num_queries(5):
        admin_client.get(reverse(WORKERS))


def test_a_confirmation_takes_as_many_queries_for_a_hundred_workers_as_for_three(
    admin_client, workers, django_assert_num_queries
):
    choose(admin_client, "disable", workers)
    with django_assert_num_queries(8) as three:  # of which 3 are the list's, and 3 say how it is
        choose(admin_client, "disable", workers)
    for number in range(4, 101):
        workers.append(Worker.objects.create(name=f"worker_{number}", host="127.0.0.1", port=8000 + number))
    with django_assert_num_queries(len(three)):
        page = choose(admin_client, "disable", workers)
    assert len(page.context["effects"]) == 100
