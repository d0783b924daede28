"""The list of events: found by kind, worker, author and time, and as quick with very many rows."""

from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.urls import reverse
from django.utils import timezone

from gateway_app.adminpages import eventadmin
from gateway_app.models import Event, Worker

pytestmark = pytest.mark.django_db

EVENTS = "admin:gateway_app_event_changelist"


@pytest.fixture
def ada(client):
    client.force_login(get_user_model().objects.create_superuser("ada", password="a long enough one"))
    return client


def happened(reason, days=0, **values):
    at = timezone.now() - timedelta(days=days)
    fields = {"kind": "breaker", "gateway": "here/1", "worker": "worker_1", "before": "CLOSED", "after": "OPEN"}
    return Event.objects.create(at=at, reason=reason, **{**fields, **values})


def listed(client, **query):
    return [event.reason for event in client.get(reverse(EVENTS), query).context["cl"].result_list]


def test_events_are_listed_newest_first_and_found_by_what_they_are(ada):
    Worker.objects.create(name="worker_1", host="h", port=1)
    Event.objects.all().delete()  # of the revision
    happened("long ago", days=60)
    happened("digits 2 is served", days=2, kind="model", worker="", model="digits", before="", after="READY")
    happened("worker_1: draining (why)", kind="action", author="ada", gateway="", before="", after="")
    happened("another", worker="gone", author="eve", kind="config")
    assert listed(ada) == ["another", "worker_1: draining (why)", "digits 2 is served", "long ago"]
    assert listed(ada, kind__exact="action") == ["worker_1: draining (why)"]
    assert listed(ada, worker="worker_1") == ["worker_1: draining (why)", "long ago"]
    assert listed(ada, worker="gone") == ["another"]  # no worker of today
    assert listed(ada, within="day") == ["another", "worker_1: draining (why)"]
    assert listed(ada, within="month") == ["another", "worker_1: draining (why)", "digits 2 is served"]
    assert listed(ada, within="nonsense") == listed(ada)
    assert listed(ada, by="me") == ["worker_1: draining (why)"]
    assert listed(ada, by="anybody") == ["another", "worker_1: draining (why)"]
    assert listed(ada, by="nobody") == ["digits 2 is served", "long ago"]
    assert listed(ada, q="why") == ["worker_1: draining (why)"]
    assert listed(ada, q="digits", kind__exact="model") == ["digits 2 is served"]
    page = ada.get(reverse(EVENTS)).content.decode()
    assert "CLOSED → OPEN" in page
    assert ">worker_1</a>" in page  # a filter
    assert ">gone</a>" not in page


def test_an_event_is_read_only(ada):
    event = happened("it was silent")
    page = reverse("admin:gateway_app_event_change", args=(event.pk,))
    assert ada.get(page).status_code == 200
    assert ada.post(page, {"reason": "forged"}).status_code == 403
    assert ada.post(reverse("admin:gateway_app_event_delete", args=(event.pk,)), {"post": "yes"}).status_code == 403
    assert ada.get(reverse("admin:gateway_app_event_add")).status_code == 403


def test_pages_end_where_counting_does(ada, monkeypatch):
    monkeypatch.setattr(eventadmin, "MOST", 120)
    now = timezone.now()
    Event.objects.bulk_create(Event(at=now, reason=str(number), worker="worker_1") for number in range(500))
    page = ada.get(reverse(EVENTS), {"p": 3})
    assert page.context["cl"].result_count == 120
    assert [event.reason for event in page.context["cl"].result_list] == [str(number) for number in range(399, 379, -1)]
    assert ada.get(reverse(EVENTS), {"p": 4}).status_code == 302  # there is no such page: Django leads back


def test_each_list_takes_as_many_queries_for_100_000_events_as_for_a_few(ada, django_assert_num_queries):
    for number in range(100):
        Worker.objects.create(name=f"worker_{number}", host="127.0.0.1", port=8000 + number)
    ada.get(reverse(EVENTS))
    queries = [
        {},
        {"kind__exact": "breaker"},
        {"worker": "worker_7"},
        {"within": "week"},
        {"by": "me"},
        {"q": "silent"},
    ]
    for query in queries:
        with django_assert_num_queries(5):  # session, user, count, rows, workers
            ada.get(reverse(EVENTS), query)
    now = timezone.now()
    rows = (Event(at=now, reason="silent", worker=f"worker_{number % 100}") for number in range(100_000))
    Event.objects.bulk_create(rows, batch_size=5000)
    for query in queries:
        with django_assert_num_queries(5) as captured:
            page = ada.get(reverse(EVENTS), query)
        assert len(page.context["cl"].result_list) <= 50
        assert not any("DISTINCT" in each["sql"] for each in captured.captured_queries)
        counts = [each["sql"] for each in captured.captured_queries if "COUNT(" in each["sql"]]
        assert all("LIMIT 10000" in sql for sql in counts), counts
