"""The admin's pages of changes as people meet them: at a desk and on a phone, in light and dark, by keyboard.

With SCREENSHOTS=1 the picture in docs/ is taken anew.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core.servers.basehttp import WSGIRequestHandler
from django.test import Client
from pytest_django.live_server_helper import LiveServer
from selenium.webdriver.common.keys import Keys

from gateway_app.adminpages import previewedadmin
from gateway_app.core.outcomes import Kind, Outcome, Record
from gateway_app.core.vigil import Figures
from gateway_app.models import Guard, Revision, Tuning, Worker, recorded
from gateway_app.previewing import previews
from gateway_app.previewing.present import ModelOnWorker, Present
from tests.support.axe import grave_faults
from tests.support.chromium import Browser

DOCS = Path(__file__).resolve().parents[2] / "docs"
Look = Callable[[], None]


def present(with_records: bool = False) -> Present:
    failures = tuple(Outcome(60.0 + n, 60.0 + n, 0, 0, Kind.FAILURE, reason="down") for n in range(4))
    return Present(
        figures=Figures(5_000, 10, 12.0),
        models=(ModelOnWorker("worker_2", "digits", "1", 0.002, 0.001, 1, 32, 0.0, (180.0, 240.0, 210.0)),),
        records={
            ("worker_1", "digits", "1"): Record((), 0.0, 3600.0),
            ("worker_2", "digits", "1"): Record(failures, 0.0, 3600.0),
        },
        cached={f"worker_{n}": (900, 350_000) for n in (1, 2, 3)},
        hot_entries=64,
    )


@pytest.fixture
def admin(browser: Browser, live_server: LiveServer, admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> str:
    """The admin's address; the browser is logged in there, and three workers are known."""
    # A connection that the browser keeps would outlive the server, and with it a thread that holds the database.
    monkeypatch.setattr(WSGIRequestHandler, "protocol_version", "HTTP/1.0")
    for module in (previews, previewedadmin):
        monkeypatch.setattr(module, "present", present)
    with recorded(note="command line"):
        for n in (1, 2, 3):
            Worker.objects.create(name=f"worker_{n}", host="127.0.0.1", port=8000 + n)
    browser.open(f"{live_server.url}/livez")
    session = admin_client.cookies[django_settings.SESSION_COOKIE_NAME].value
    browser.driver.add_cookie({"name": django_settings.SESSION_COOKIE_NAME, "value": session})
    return f"{live_server.url}/admin/gateway_app"


@pytest.fixture
def look(browser: Browser) -> Look:
    """Looks at the page that is shown, in both widths and colours: nothing grave, nothing beside the window."""

    def at_it() -> None:
        assert browser.console_errors() == []
        for width in (1280, 390):
            for colours in ("light", "dark"):
                browser.resize(width)
                browser.colours(colours)
                browser.wait_for(lambda: browser.evaluate("document.getAnimations().length === 0"), "colours stay")
                wide = browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide == 0, f"{browser.driver.title} is {wide} px too wide at {width} px"
                assert grave_faults(browser) == [], f"{browser.driver.title}, {width} px, {colours}"
        browser.console_errors()  # those that axe-core makes, looking for style sheets where there are none
        browser.resize(1280)
        browser.colours("light")

    return at_it


def fill(browser: Browser, **values: object) -> None:
    for name, value in values.items():
        field = browser.driver.find_element("name", name)
        if field.get_attribute("type") == "checkbox":
            if field.is_selected() != value:
                field.click()
        else:
            field.clear()
            field.send_keys(str(value))


def press(browser: Browser, selector: str) -> None:
    """A button of the page, with the keyboard; returns when the next page is there."""
    page = browser.driver.find_elements("tag name", "html")
    browser.driver.find_element("css selector", selector).send_keys(Keys.ENTER)

    def has_left() -> bool:
        now = browser.driver.find_elements("tag name", "html")  # none for a moment between two pages
        return bool(now) and now != page

    browser.wait_for(has_left, f"{selector} leads to another page")


def test_a_change_is_previewed_edited_saved_and_guarded(browser: Browser, admin: str, look: Look) -> None:
    browser.open(f"{admin}/tuning/1/change/")
    look()
    fill(browser, virtual_nodes=300, failure_threshold=3, batch_size=1, cache_entries=100, comment="to see")
    press(browser, "[name=_preview]")
    look()
    assert "virtual nodes per worker" in browser.text("#differences")
    assert "of all inputs get another worker" in browser.text("#ring")
    assert "opened once, longest 30 s" in " ".join(browser.text("#breakers").split())
    assert "1 breaker would have stayed closed either way" in browser.text("#breakers")
    assert "digits version 1" in browser.text("#batches")
    assert "worker_1 forgets 800 of its 900 results" in browser.text("#effects")
    if os.environ.get("SCREENSHOTS") == "1":
        browser.screenshot(DOCS / "preview.png")
    press(browser, "[name=_edit]")
    assert browser.driver.find_element("name", "virtual_nodes").get_attribute("value") == "300"
    assert browser.driver.find_element("name", "comment").get_attribute("value") == "to see"
    press(browser, "[name=_preview]")
    fill(browser, guard=True, guard_minutes=7)
    press(browser, "input.default")
    assert "was changed successfully" in browser.text(".messagelist li.success:first-child")
    assert Tuning.objects.get().virtual_nodes == 300
    revision = Revision.objects.latest("id")
    assert (revision.author, revision.comment) == ("admin", "to see")
    assert Guard.objects.get().base_p99_ms == 12.0


def test_workers_are_previewed_in_the_list_and_before_they_are_deleted(
    browser: Browser, admin: str, look: Look
) -> None:
    browser.open(f"{admin}/worker/")
    browser.driver.find_element("name", "form-2-enabled").click()
    press(browser, "[name=_preview]")
    look()
    assert "worker_3 is let go" in browser.text("#effects")
    press(browser, "[name=_edit]")
    assert not browser.driver.find_element("name", "form-2-enabled").is_selected()
    assert not browser.shows(".errornote")
    browser.open(f"{admin}/worker/{Worker.objects.get(name='worker_3').pk}/delete/")
    look()
    assert "of all inputs get another worker" in browser.text("#ring")
    fill(browser, comment="sold")
    press(browser, "#content input[type=submit]")
    assert sorted(Worker.objects.values_list("name", flat=True)) == ["worker_1", "worker_2"]
    assert Revision.objects.latest("id").comment == "sold"


def test_the_history_leads_back(browser: Browser, admin: str, look: Look) -> None:
    first = Revision.objects.latest("id").pk
    tuning = Tuning.objects.get()
    tuning.virtual_nodes = 300
    with recorded(author="ann", comment="<b>larger</b> rings"):
        tuning.save()
    browser.open(f"{admin}/revision/")
    look()
    assert "<b>larger</b> rings" in browser.text("#result_list tbody tr:first-child .field-comment")
    press(browser, "#result_list tbody tr:first-child th a")
    look()
    assert "ann" in browser.text("#content")
    browser.open(f"{admin}/revision/{first}/change/")
    assert "virtual nodes per worker" in browser.text("#since")
    press(browser, ".object-tools a")
    look()
    assert "virtual nodes per worker" in browser.text("#differences")
    fill(browser, comment="it was better")
    press(browser, "input.default")
    assert f"Revision {first} is restored, as revision {first + 2}." in browser.text(".messagelist li.success")
    assert Tuning.objects.get().virtual_nodes == 150
    press(browser, ".messagelist a")
    assert f"Restore revision {first + 1}" in browser.text("#content h1")


def test_a_guard_is_ended_on_the_page_of_its_revision(browser: Browser, admin: str, look: Look) -> None:
    browser.open(f"{admin}/tuning/1/change/")
    fill(browser, batch_size=8, guard=True)
    press(browser, "[name=_save]")
    press(browser, ".messagelist a[href*='/revision/']")
    look()
    assert "if errors exceed 1.2 % or the p99 latency 24.0 ms" in browser.text("#guard")
    press(browser, "#guard button[formaction]")
    look()
    assert Tuning.objects.get().batch_size == 32
    assert Guard.objects.get().state == Guard.State.REVERTED
    assert "reverted" in browser.text("#guard").lower()
