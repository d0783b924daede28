"""The admin's page of the canary, used by a person: at a desk and on a phone."""

from typing import Any

import pytest
from selenium.webdriver.support.select import Select

from gateway_app.adminpages import canaryadmin
from gateway_app.models import Canary, Tuning, Worker
from tests.support.axe import grave_faults
from tests.support.chromium import Browser

TOLD: dict[str, Any] = {
    "verdict": "Worse: p99 of computed answers 9.8 ms, the others' 4.1 ms.",
    "compare": [
        {"what": "requests per worker", "canary": 210.4, "others": 205.1, "unit": "/s"},
        {"what": "p99 of computed answers", "canary": 9.81, "others": 4.12, "unit": "ms"},
        {"what": "mean batch", "canary": 12.5, "others": None, "unit": "rows"},
    ],
}


@pytest.fixture
def page(admin_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's address, where the browser is logged in."""
    monkeypatch.setattr(canaryadmin, "_told", lambda: TOLD)
    for number in (1, 2):
        Worker.objects.create(name=f"worker_{number}", host="127.0.0.1", port=8000 + number)
    return f"{admin_url}/canary/"


def press(browser: Browser, selector: str, then: str) -> None:
    browser.driver.find_element("css selector", selector).click()
    browser.wait_for(lambda: browser.shows(then), f"{then} is shown")


def is_sound(browser: Browser) -> None:
    assert browser.console_errors() == []
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert grave_faults(browser) == []
    browser.console_errors()  # axe looks for imported style sheets in the wrong place


@pytest.mark.parametrize("width", [1280, 390])
def test_something_is_tried_looked_at_and_promoted(browser: Browser, page: str, width: int) -> None:
    browser.open(page, width)
    is_sound(browser)
    size = browser.driver.find_element("name", "batch_size")
    size.clear()
    size.send_keys("0")
    Select(browser.driver.find_element("name", "worker")).select_by_value("worker_2")
    press(browser, "[value=Start]", ".errornote")
    assert "0 is out of range. Choose from 1 to 1,024." in browser.text("#content-main")
    is_sound(browser)
    size = browser.driver.find_element("name", "batch_size")
    size.clear()
    size.send_keys("64")
    press(browser, "[value=Start]", ".messagelist")
    assert "Now tried on worker_2: requests per batch 64." in browser.text(".messagelist")
    assert browser.text("#verdict") == TOLD["verdict"]
    assert "9.81 ms" in browser.text("#content-main table") and "–" in browser.text("#content-main table")
    is_sound(browser)
    press(browser, "[value^=Promote]", "[for=id_comment]")
    assert Canary.objects.exists()
    assert "All workers get what it has tried" in browser.text("#content-main")
    is_sound(browser)
    browser.driver.find_element("id", "id_comment").send_keys("good enough")
    press(browser, "[value^=Promote]", ".messagelist")
    assert "All workers get what worker_2 has tried" in browser.text(".messagelist")
    assert Tuning.objects.get().batch_size == 64


def test_it_is_aborted_or_not(browser: Browser, page: str) -> None:
    Canary.objects.create(worker="worker_2", tuning={"batch_size": 64}, author="<i>ann</i>")
    browser.open(page)
    assert "by <i>ann</i>" in browser.text("#content-main")
    press(browser, "[value^=Abort]", "[for=id_comment]")
    press(browser, ".cancel-link", "#verdict")
    assert Canary.objects.exists()
    press(browser, "[value^=Abort]", "[for=id_comment]")
    press(browser, "[value^=Abort]", ".messagelist")
    assert "No longer tried on worker_2: requests per batch 64." in browser.text(".messagelist")
    assert not Canary.objects.exists()
    assert Tuning.objects.get().batch_size == 32
