"""What each page and each report of the gateway asks the database: nothing, but who has signed in."""

import asyncio
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from gateway_app.models import ModelRecord, Worker
from inference_site import lifecycle
from tests.support.manyworkers import gateway_of
from tests.support.waiting import PATIENCE_S


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A gateway on a loop of its own, as views find it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def make() -> Any:
        return gateway_of(100)[0]

    made = asyncio.run_coroutine_threadsafe(make(), loop).result(PATIENCE_S)
    made.history.tick(made)
    monkeypatch.setattr(lifecycle, "_service", SimpleNamespace(gateway=made, loop=loop, stopping=False))
    yield made
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/", "/stats", "/health", "/history", "/ring", "/traces", "/metrics"])
def test_who_has_not_signed_in_costs_no_query(
    gateway: Any, client: Client, django_assert_num_queries: Any, path: str
) -> None:
    with django_assert_num_queries(0):
        assert client.get(path).status_code == 200


@pytest.mark.django_db
def test_where_an_input_goes_costs_no_query(gateway: Any, client: Client, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        answer = client.post("/where", b'{"input_data": [1]}', content_type="application/json")
    assert answer.status_code == 200
    assert answer.json()["owner"] in gateway.links


def facts(page: bytes) -> dict[str, Any]:
    """Who looks at the page, as it is told itself."""
    _, _, rest = page.decode().partition('<script id="user" type="application/json">')
    found: dict[str, Any] = json.loads(rest.partition("</script>")[0])
    return found


@pytest.mark.django_db
def test_a_stranger_may_only_look(gateway: Any, client: Client) -> None:
    answer = client.get("/")
    found = facts(answer.content)
    assert (found["name"], found["can_operate_workers"], found["can_operate_models"]) == ("", False, False)
    assert found["login_url"] == "/admin/login/?next=%2F"
    assert (found["csrf_token"], "csrftoken" in answer.cookies) == ("", False)


@pytest.mark.django_db
def test_the_page_knows_what_its_user_may_do(gateway: Any, client: Client, django_assert_num_queries: Any) -> None:
    user = User.objects.create_user("ann", password="a-password-for-tests")
    user.user_permissions.add(Permission.objects.get(codename="operate_worker"))
    client.force_login(user)
    with django_assert_num_queries(4):  # session, user, permissions of her own and of her groups
        answer = client.get("/")
    found = facts(answer.content)
    assert (found["name"], found["can_operate_workers"], found["can_operate_models"]) == ("ann", True, False)
    assert found["csrf_token"]
    assert "csrftoken" in answer.cookies


@pytest.mark.django_db
@pytest.mark.parametrize(
    "page",
    [
        "",
        "gateway_app/worker/add/",
        "gateway_app/worker/1/change/",
        "gateway_app/worker/1/delete/",
        "gateway_app/modelrecord/add/",
        "gateway_app/modelrecord/1/change/",
        "gateway_app/modelrecord/1/delete/",
        "gateway_app/modelrecord/upload/",
    ],
)
def test_pages_of_one_row_take_as_many_queries_among_many_rows(admin_client: Client, page: str) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as asked:
            assert admin_client.get(f"/admin/{page}").status_code == 200
        return len(asked)

    Worker.objects.create(pk=1, name="worker_1", host="h", port=1)
    ModelRecord.objects.create(pk=1, name="m_1")
    queries()  # Django keeps what kinds of rows there are
    few = queries()
    # What deleting it would change is found out by doing it, and taking it back.
    assert few <= (32 if page.endswith("/delete/") else 12)
    Worker.objects.bulk_create(Worker(name=f"worker_{n}", host="h", port=n) for n in range(2, 80))
    ModelRecord.objects.bulk_create(ModelRecord(name=f"m_{n}") for n in range(2, 80))
    assert queries() == few
