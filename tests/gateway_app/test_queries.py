"""What each page and each report of the gateway asks the database: nothing, but who has signed in."""

import asyncio
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

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
