"""Actions over HTTP: who may do what, what is answered, and that nothing that is sent is a bug of the server's."""

import json

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.db import OperationalError
from django.test import Client
from rest_framework.authtoken.models import Token

from gateway_app.models import Event, ModelRecord, Revision, Worker
from gateway_app.operating.actions import ACTIONS
from gateway_app.operating.actionviews import ActionRate

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_rate_of_other_tests():
    cache.clear()


@pytest.fixture
def workers():
    return [Worker.objects.create(name=f"worker_{n}", host="127.0.0.1", port=8000 + n) for n in (1, 2, 3)]


@pytest.fixture
def user():
    return get_user_model().objects.create_user("olga", password="a long enough one")


def permit(user, *codenames):
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))
    return user


class Api:
    """Programs' way: a token, and no cookies."""

    def __init__(self, user):
        self.headers = {"Authorization": f"Token {Token.objects.get_or_create(user=user)[0].key}"}
        self.client = Client(enforce_csrf_checks=True)

    def get(self, name, **query):
        return self.client.get(f"/actions/{name}", query, headers=self.headers)

    def post(self, name, body, content_type="application/json", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body)
        return self.client.post(
            f"/actions/{name}", data, content_type=content_type, headers={**self.headers, **headers}
        )


@pytest.fixture
def api(user):
    return Api(permit(user, "operate_worker", "operate_modelrecord"))


def error(response, status):
    assert response.status_code == status, response.content
    found = response.json()
    assert set(found) == {"error", "code"}
    return found["code"]


def test_get_states_the_effect_and_post_does_it(api, workers):
    answer = api.get("drain", target="worker_2")
    assert answer.status_code == 200
    assert list(answer.json()) == ["action", "label", "target", "effect", "allowed", "why_not"]
    said = answer.json()
    assert (said["action"], said["label"], said["target"], said["allowed"]) == ("drain", "Drain", "worker_2", True)
    assert said["effect"].startswith("worker_2 stays connected and finishes what it has")
    assert not Worker.objects.get(name="worker_2").draining
    answer = api.post("drain", {"target": "worker_2", "comment": "new disk"})
    assert (answer.status_code, answer.json()) == (200, {"done": "worker_2: draining"})
    assert Worker.objects.get(name="worker_2").draining
    newest = Revision.objects.latest("id")
    assert (newest.author, newest.comment, newest.summary) == ("olga", "new disk", "worker_2 draining off → on")
    event = Event.objects.latest("id")
    assert (event.kind, event.worker, event.author) == ("action", "worker_2", "olga")
    assert event.reason == "worker_2: draining (new disk)"
    said = api.get("drain", target="worker_2").json()
    assert (said["effect"], said["allowed"], said["why_not"]) == ("", False, "worker_2 is draining already")
    assert error(api.post("drain", {"target": "worker_2"}), 409) == "nothing_to_do"


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_every_action_is_there(api, workers, name):
    action = ACTIONS[name]
    Worker.objects.update(**{field: not value for field, value in (action.values or {}).items()})
    target = "worker_1" if action.kind == "worker" else "digits"
    assert api.get(name, target=target).json()["allowed"]
    assert api.post(name, {"target": target}).json() == {"done": f"{target}: {action.done}"}


def test_flush_takes_every_worker_at_once(api, workers):
    count = Revision.objects.count()
    Worker.objects.filter(name="worker_3").update(enabled=False)
    assert "every worker" in api.get("flush", target="all").json()["effect"]
    assert api.post("flush", {"target": "all"}).json() == {"done": "every worker: cache flushed"}
    assert (
        list(Worker.objects.values_list("order", "order_number")) == [("flush", 1)] * 3
    )  # a disabled one keeps nothing either
    assert Revision.objects.count() == count + 2
    assert error(api.post("drain", {"target": "all"}), 404) == "unknown_target"


def test_a_stranger_is_told_how_to_sign_in(workers):
    for answer in (
        Client().get("/actions/trip", {"target": "worker_1"}),
        Client().post("/actions/trip", {"target": "worker_1"}, content_type="application/json"),
        Client(headers={"Authorization": "Token wrong"}).get("/actions/trip", {"target": "worker_1"}),
        Client(headers={"Authorization": "Token a b"}).get("/actions/trip", {"target": "worker_1"}),
        Client(headers={"Authorization": "Token"}).post("/actions/trip"),
    ):
        assert error(answer, 401) == "unauthenticated"
        assert answer["WWW-Authenticate"] == "Token"
        assert "drf_create_token" in answer.json()["error"]
    assert Worker.objects.get(name="worker_1").order_number == 0


def test_who_lacks_the_permission_is_told_which(user, workers):
    api = Api(permit(user, "operate_modelrecord", "change_worker"))
    assert error(api.post("trip", {"target": "worker_1"}), 403) == "forbidden"
    said = api.get("trip", target="worker_1").json()
    assert (said["allowed"], said["effect"][:13]) == (False, "The breaker o")
    assert "olga lacks the permission gateway_app.operate_worker" in said["why_not"]
    assert api.post("unload", {"target": "digits"}).status_code == 200
    user.is_active = False
    user.save()
    assert error(api.post("load", {"target": "digits"}), 401) == "unauthenticated"


def test_a_page_acts_by_its_session_and_its_csrf_token(user, workers):
    permit(user, "operate_worker")
    page = Client(enforce_csrf_checks=True)
    page.force_login(user)
    page.get("/admin/login/")
    body = json.dumps({"target": "worker_1"})
    assert page.get("/actions/trip", {"target": "worker_1"}).json()["allowed"]
    refused = page.post("/actions/trip", body, content_type="application/json")
    assert error(refused, 403) == "csrf_failed"
    assert "X-CSRFToken" in refused.json()["error"]
    # What another site's form can send.
    assert error(page.post("/actions/trip", body, content_type="text/plain"), 403) == "csrf_failed"
    headers = {"X-CSRFToken": page.cookies["csrftoken"].value}
    done = page.post("/actions/trip", body, content_type="application/json", headers=headers)
    assert done.json() == {"done": "worker_1: breaker tripped"}
    assert Worker.objects.get(name="worker_1").order_number == 1


def test_what_is_not_there_is_said_with_what_is(api, workers):
    answer = api.post("bounce", {"target": "worker_1"})
    assert error(answer, 404) == "unknown_action"
    assert "trip, reset, isolate" in answer.json()["error"]
    assert error(api.get("bounce"), 404) == "unknown_action"
    for answer in (api.post("trip", {"target": "worker_9"}), api.get("trip", target="worker_9"), api.get("trip")):
        assert error(answer, 404) == "unknown_target"
        assert "the workers are: worker_1, worker_2, worker_3" in answer.json()["error"]
    assert error(api.post("load", {"target": "a b"}), 400) == "invalid_body"
    for method in ("put", "delete", "patch"):
        answer = getattr(api.client, method)("/actions/trip", headers=api.headers)
        assert error(answer, 405) == "method_not_allowed"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"[" * 10_000, "invalid_body"),
        (b"null", "invalid_body"),
        (b"[]", "invalid_body"),
        (b'{"comment": "x"}', "invalid_body"),
        (b'{"target": 1}', "invalid_body"),
        (b'{"target": "worker_1", "comment": null}', "invalid_body"),
        (b'{"target": "worker_1", "commment": "misspelt"}', "invalid_body"),
        (b"target=worker_1", "invalid_json"),
    ],
)
@pytest.mark.parametrize(
    "content_type", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_what_cannot_be_read_is_refused(api, workers, body, code, content_type):
    assert error(api.post("trip", body, content_type), 400) == code
    assert Worker.objects.get(name="worker_1").order_number == 0


def test_the_body_and_the_comment_have_limits(api, workers):
    assert error(api.post("trip", b" " * 20_000), 413) == "body_too_large"
    answer = api.post("trip", {"target": "worker_1", "comment": "x" * 1001})
    assert error(answer, 400) == "invalid_body"
    assert "1,001 characters" in answer.json()["error"]
    assert api.post("trip", {"target": "worker_1", "comment": " a\0b\n" + "ä" * 990}).status_code == 200
    assert Revision.objects.latest("id").comment == "ab\n" + "ä" * 990


def test_one_user_out_of_hand_is_slowed_down_and_others_are_not(api, workers, monkeypatch):
    monkeypatch.setattr(ActionRate, "rate", "3/min")
    monkeypatch.setattr(ActionRate, "timer", lambda self: 1_000_000.0)
    for _ in range(3):
        assert api.post("trip", {"target": "worker_1"}).status_code == 200
    answer = api.post("trip", {"target": "worker_1"})
    assert error(answer, 429) == "too_many_actions"
    assert int(answer["Retry-After"]) == 60
    assert api.get("trip", target="worker_1").status_code == 200  # it changes nothing
    other = Api(permit(get_user_model().objects.create_user("otto"), "operate_worker"))
    assert other.post("trip", {"target": "worker_1"}).status_code == 200
    assert Worker.objects.get(name="worker_1").order_number == 4


def test_a_database_that_is_away_is_no_bug(api, monkeypatch):
    def away(**kwargs):
        raise OperationalError("could not connect")

    monkeypatch.setattr("gateway_app.operating.actions.recorded", away)
    answer = api.post("trip", {"target": "worker_1"})
    assert error(answer, 503) == "database_away"
    assert "could not connect" in answer.json()["error"]
    assert answer["Retry-After"] == "5"


def test_a_comment_is_data(api, workers):
    hostile = "'); DROP TABLE x; --<script>{{ 7*7 }}%s"
    assert api.post("drain", {"target": "worker_1", "comment": hostile}).status_code == 200
    assert Revision.objects.latest("id").comment == hostile
    assert hostile in Event.objects.latest("id").reason


def test_to_unload_what_nobody_knows_needs_the_gateway_to_know(api, monkeypatch):
    assert api.post("unload", {"target": "digits"}).status_code == 200  # without a gateway it may be served
    assert not ModelRecord.objects.get().loaded
    stats = {"models": [], "workers": [], "circuit_breakers": [], "gateway": {"hot_entries": 0}}
    monkeypatch.setattr("gateway_app.figures.stats.gateway_stats", lambda: stats)
    answer = api.post("unload", {"target": "nope"})
    assert error(answer, 404) == "unknown_target"
    assert "the models are: digits" in answer.json()["error"]
