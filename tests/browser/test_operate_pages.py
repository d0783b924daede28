"""Actions and events in the admin, by a person with a browser: chosen, read, confirmed; usable by all."""

import pytest

from gateway_app.models import Event, ModelRecord, Worker
from tests.support.axe import grave_faults
from tests.support.chromium import Browser

WIDTHS = pytest.mark.parametrize("width", [1280, 390])


@pytest.fixture
def admin(admin_url: str) -> str:
    """The admin's address, where the browser is logged in, with three workers and a model."""
    for number in (1, 2, 3):
        Worker.objects.create(name=f"worker_{number}", host="127.0.0.1", port=8000 + number)
    ModelRecord.objects.create(name="digits")
    return admin_url


def choose(browser: Browser, url: str, action: str, width: int) -> None:
    """All rows of a list, and an action; the page that asks."""
    browser.open(url, width)
    browser.wait_for(lambda: browser.has("#action-toggle"), "the list is there")
    assert grave_faults(browser) == []
    browser.driver.find_element("id", "action-toggle").click()
    browser.driver.find_element("css selector", f"select[name=action] option[value={action}]").click()
    browser.driver.find_element("css selector", "button[name=index]").click()
    browser.wait_for(lambda: browser.has("#id_comment"), "it asks")
    assert grave_faults(browser) == []


@WIDTHS
def test_workers_are_isolated_after_the_effect_has_been_read(browser: Browser, admin: str, width: int) -> None:
    choose(browser, f"{admin}/worker/", "isolate", width)
    said = browser.texts("#content li")
    assert len(said) == 3
    assert "go to worker_3 (16.3 %) and worker_2 (16.2 %)." in said[0]
    assert "Nobody else can answer: clients will get 503." in said[2]
    browser.driver.find_element("css selector", "a.cancel-link").click()
    browser.wait_for(lambda: browser.has("#action-toggle"), "back at the list")
    assert not Worker.objects.filter(isolated=True).exists()
    choose(browser, f"{admin}/worker/", "isolate", width)
    browser.driver.find_element("id", "id_comment").send_keys("<i>why</i>")
    browser.driver.find_element("css selector", "#content [type=submit]").click()
    browser.wait_for(lambda: browser.shows(".messagelist"), "it is done")
    assert "Done: worker_1: isolated; worker_2: isolated; worker_3: isolated." in browser.text(".messagelist")
    assert Worker.objects.filter(isolated=True).count() == 3
    browser.open(f"{admin}/event/?kind__exact=action", width)
    browser.wait_for(lambda: browser.shows("#result_list"), "the events are there")
    assert any("worker_1: isolated (<i>why</i>)" in text for text in browser.texts("#result_list .field-told"))
    assert Event.objects.filter(kind="action", author="admin").count() == 3
    assert grave_faults(browser) == []
    assert browser.console_errors() == []


@WIDTHS
def test_a_model_is_unloaded_after_the_effect_has_been_read(browser: Browser, admin: str, width: int) -> None:
    choose(browser, f"{admin}/modelrecord/", "unload", width)
    assert "Clients get 404 for digits until it is loaded again." in browser.text("#content li")
    browser.driver.find_element("css selector", "#content [type=submit]").click()
    browser.wait_for(lambda: browser.shows(".messagelist"), "it is done")
    assert "Done: digits: ordered to unload." in browser.text(".messagelist")
    assert not ModelRecord.objects.get().loaded
    assert browser.console_errors() == []
