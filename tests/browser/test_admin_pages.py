"""Every page of the admin that a person comes to, at a desk and on a phone: nothing sticks out, nobody is kept out."""

import pytest
from django.utils import timezone

from gateway_app.models import Event, ModelRecord, Worker
from tests.support.axe import assert_sound
from tests.support.chromium import Browser


@pytest.fixture
def admin(admin_url: str) -> str:
    """The admin's address, where the browser is logged in, with a worker, a model and an event."""
    Worker.objects.create(pk=1, name="worker_1", host="127.0.0.1", port=8001)
    ModelRecord.objects.create(pk=1, name="digits")
    Event.objects.create(
        at=timezone.now(), kind=Event.Kind.WORKER, worker="worker_1", after="connected", reason="at 127.0.0.1:8001"
    )
    return admin_url


@pytest.mark.parametrize(
    "pages",
    [
        ("worker/", "worker/add/", "worker/1/change/", "worker/1/delete/"),
        ("modelrecord/", "modelrecord/add/", "modelrecord/1/change/", "modelrecord/1/delete/"),
        ("../", "event/", "revision/", "../password_change/"),
    ],
    ids=["workers", "models", "others"],
)
def test_all_can_use_it(browser: Browser, admin: str, pages: tuple[str, ...]) -> None:
    for page in pages:
        browser.open(f"{admin}/{page}")
        assert browser.console_errors() == [], page
        assert_sound(browser)
        browser.console_errors()  # axe looks for imported style sheets in the wrong place


def test_the_page_to_sign_in(browser: Browser, admin: str) -> None:
    browser.driver.delete_all_cookies()
    browser.open(f"{admin}/worker/")
    assert browser.has("#id_username")
    assert browser.console_errors() == []
    assert_sound(browser)
