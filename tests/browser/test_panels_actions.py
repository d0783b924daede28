"""The menus and the dialog by which operators act on the gateway's page, and what is being tried: canary and guard."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.axe import assert_sound, grave_faults
from tests.support.chromium import Browser
from tests.support.pages import Json, PagesSite, canary, guard

NARROW = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
HOSTILE = "<img src=x id=hostile>"
EFFECT = "worker_2's 33.1 % of the inputs go to worker_1 (16.9 %) and worker_3 (16.2 %) for 30 s or more."
WIDTHS = (1280, 390)
OPEN = "document.getElementById('actions-menu').matches(':popover-open')"


def sign_in(site: PagesSite, may: Callable[[str], bool] = lambda permission: True) -> None:
    site.user = SimpleNamespace(is_authenticated=True, get_username=lambda: "ann", has_perm=may)


def answers(site: PagesSite, action: str = "trip", **effect: Any) -> list[Json]:
    """Has the site answer one action; what it was asked to do is in the list."""
    asked: list[Json] = []

    def state(query: dict[str, list[str]], body: bytes) -> tuple[int, Json]:
        return 200, {"effect": EFFECT, "allowed": True, "why_not": "", "target": query["target"][0], **effect}

    def do(query: dict[str, list[str]], body: bytes) -> tuple[int, Json]:
        asked.append(json.loads(body))
        return 200, {"done": "worker_2's breaker is tripped"}

    site.handlers[("GET", f"/actions/{action}")] = state
    site.handlers[("POST", f"/actions/{action}")] = do
    return asked


def opened(browser: Browser, site: PagesSite, width: int = 1280) -> Browser:
    browser.open(site.url, width)
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    return browser


def slot(target: str, kind: str = "worker") -> str:
    return f"[data-actions='{target}'][data-kind={kind}] > button"


def open_menu(browser: Browser, target: str = "worker_2", kind: str = "worker") -> None:
    button = browser.driver.find_element(By.CSS_SELECTOR, slot(target, kind))
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.send_keys(Keys.ENTER)
    browser.wait_for(lambda: browser.evaluate(OPEN), "the menu is open")


def items(browser: Browser) -> list[str]:
    return [text for text in browser.texts("#actions-menu [role=menuitem]") if text]


def choose(browser: Browser, action: str, target: str = "worker_2", kind: str = "worker") -> None:
    open_menu(browser, target, kind)
    browser.driver.find_element(By.CSS_SELECTOR, f"#actions-menu [data-action={action}]").click()
    browser.wait_for(lambda: browser.shows("#action-dialog"), "the dialog is open")


def wait_for_focus(browser: Browser, selector: str) -> None:
    """What is closed gives the focus back a moment later."""
    focused = f'document.activeElement === document.querySelector("{selector}")'
    browser.wait_for(lambda: browser.evaluate(focused), f"{selector} has the focus")


def enabled(browser: Browser) -> object:
    return browser.evaluate("!document.getElementById('action-confirm').disabled")


@pytest.mark.parametrize("width", WIDTHS)
def test_an_action_states_its_effect_and_is_done_when_confirmed(browser: Browser, site: PagesSite, width: int) -> None:
    sign_in(site)
    asked = answers(site)
    opened(browser, site, width)
    choose(browser, "trip")
    browser.wait_for(lambda: browser.text("#action-effect") == EFFECT, "the effect is stated")
    assert browser.text("#action-title") == "Trip the breaker: worker_2"
    assert browser.text("#action-confirm") == "Trip the breaker"
    assert browser.evaluate("document.activeElement.id") == "action-comment"
    assert browser.evaluate(NARROW) is True
    assert grave_faults(browser) == []
    assert asked == []  # nothing is done before it is confirmed
    browser.driver.find_element(By.ID, "action-comment").send_keys(" to be replaced ", Keys.ENTER)
    browser.wait_for(lambda: browser.shows("#action-told"), "it is told that it was done")
    assert browser.text("#action-told-text") == "worker_2's breaker is tripped."
    assert asked == [{"target": "worker_2", "comment": "to be replaced"}]
    path, headers, _ = site.posted[-1]
    assert path == "/actions/trip"
    assert headers["X-CSRFToken"] == browser.evaluate(
        "JSON.parse(document.getElementById('user').textContent).csrf_token"
    )
    assert not browser.shows("#action-dialog")
    wait_for_focus(browser, slot("worker_2"))
    assert grave_faults(browser) == []
    browser.driver.find_element(By.ID, "action-told-close").click()
    assert not browser.shows("#action-told")
    assert browser.console_errors() == []


def test_nothing_is_done_when_it_is_not_confirmed(browser: Browser, site: PagesSite) -> None:
    sign_in(site)
    asked = answers(site)
    opened(browser, site)
    choose(browser, "trip")
    browser.wait_for(lambda: enabled(browser), "it can be confirmed")
    browser.driver.find_element(By.ID, "action-cancel").click()
    choose(browser, "trip")
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    browser.wait_for(lambda: not browser.shows("#action-dialog"), "the dialog is closed")
    wait_for_focus(browser, slot("worker_2"))
    assert asked == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_menu_has_what_can_be_done(browser: Browser, site: PagesSite, width: int) -> None:
    sign_in(site)
    site.stats["workers"][1].update(isolated=True, draining=True, enabled=False)
    opened(browser, site, width)
    common = ["Trip the breaker", "Reset the breaker"]
    open_menu(browser, "worker_1")
    assert items(browser) == [*common, "Isolate", "Drain", "Disable", "Flush the cache"]
    assert grave_faults(browser) == []
    place = "document.getElementById('actions-menu').getBoundingClientRect()"
    box = browser.evaluate(f"(({{left, right, top}}) => [left, innerWidth - right, top])({place})")
    assert isinstance(box, list)
    assert min(box) >= 0
    open_menu(browser, "worker_2")
    assert items(browser) == [*common, "End the isolation", "End the draining", "Enable", "Flush the cache"]
    open_menu(browser, "all", "all")
    assert items(browser) == ["Flush every cache"]
    open_menu(browser, "digits", "model")
    assert items(browser) == ["Load again", "Unload"]
    assert browser.evaluate("document.querySelectorAll('[data-actions] > [aria-expanded=true]').length") == 1


def test_its_own_button_closes_a_menu(browser: Browser, site: PagesSite) -> None:
    sign_in(site)
    opened(browser, site)
    open_menu(browser)
    button = browser.driver.find_element(By.CSS_SELECTOR, slot("worker_2"))
    button.click()
    browser.wait_for(lambda: button.get_attribute("aria-expanded") == "false", "the menu is closed")
    assert not browser.evaluate(OPEN)
    button.click()
    browser.wait_for(lambda: browser.evaluate(OPEN), "the menu is open again")


def test_a_key_opens_the_menu_that_the_mouse_has_closed(browser: Browser, site: PagesSite) -> None:
    sign_in(site)
    opened(browser, site)
    open_menu(browser)
    button = browser.driver.find_element(By.CSS_SELECTOR, slot("worker_2"))
    button.click()
    browser.wait_for(lambda: button.get_attribute("aria-expanded") == "false", "the menu is closed")
    button.send_keys(Keys.ENTER)
    browser.wait_for(lambda: browser.evaluate(OPEN), "the menu is open again")


def test_a_dialog_opened_at_once_after_another_has_its_effect(browser: Browser, site: PagesSite) -> None:
    sign_in(site)
    answers(site)
    opened(browser, site)
    choose(browser, "trip")
    browser.wait_for(lambda: enabled(browser), "it can be confirmed")
    browser.driver.execute_script(
        """document.getElementById("action-cancel").click();
        document.querySelector(arguments[0]).click();
        document.querySelector("#actions-menu [data-action=trip]").click();""",
        slot("worker_2"),
    )
    browser.wait_for(lambda: enabled(browser), "it can be confirmed")
    assert browser.text("#action-effect") == EFFECT


def test_an_unloaded_model_can_be_loaded(browser: Browser, site: PagesSite) -> None:
    sign_in(site)
    site.stats["models"][0].update(state="UNAVAILABLE", reason="unloaded")
    opened(browser, site)
    open_menu(browser, "digits", "model")
    assert items(browser) == ["Load"]


def test_a_menu_is_walked_by_keys(browser: Browser, site: PagesSite) -> None:
    sign_in(site)
    opened(browser, site)
    open_menu(browser)
    focused = "document.activeElement.textContent.trim()"
    seen = [browser.evaluate(focused)]
    for key in (Keys.ARROW_DOWN, Keys.END, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.HOME):
        browser.driver.switch_to.active_element.send_keys(key)
        seen.append(browser.evaluate(focused))
    trip, last = "Trip the breaker", "Flush the cache"
    assert seen == [trip, "Reset the breaker", last, trip, last, trip]
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    browser.wait_for(lambda: not browser.evaluate(OPEN), "the menu is closed")
    wait_for_focus(browser, slot("worker_2"))


@pytest.mark.parametrize("width", WIDTHS)
def test_who_is_not_signed_in_is_led_to_it(browser: Browser, site: PagesSite, width: int) -> None:
    opened(browser, site, width)
    open_menu(browser)
    assert items(browser) == ["Sign in to operate"]
    assert "/admin/login/" in str(browser.evaluate("document.activeElement.href"))
    assert not browser.shows("#actions-denied")
    assert grave_faults(browser) == []


def test_who_may_not_operate_is_told(browser: Browser, site: PagesSite) -> None:
    sign_in(site, lambda permission: "model" in permission)
    opened(browser, site)
    open_menu(browser)
    assert items(browser) == []
    assert browser.text("#actions-denied") == "ann may not operate workers: an administrator can permit it."
    open_menu(browser, "digits", "model")
    assert items(browser) == ["Load again", "Unload"]
    assert not browser.shows("#actions-denied")


def test_what_cannot_be_done_says_why(browser: Browser, site: PagesSite) -> None:
    sign_in(site)
    asked = answers(site, effect="", allowed=False, why_not="its breaker is OPEN already")
    opened(browser, site)
    choose(browser, "trip")
    browser.wait_for(lambda: browser.shows("#action-problem"), "it says why not")
    assert browser.text("#action-problem") == "its breaker is OPEN already."
    assert enabled(browser) is False
    browser.driver.find_element(By.ID, "action-comment").send_keys(Keys.ENTER)
    assert asked == []
    assert browser.shows("#action-dialog")


@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (409, {"error": "worker_2 is draining already", "code": "nothing_to_do"}, "worker_2 is draining already."),
        (401, {"error": "sign in", "code": "unauthenticated"}, "You are not signed in any more. Sign in"),
        (
            403,
            {"error": "CSRF check failed", "code": "csrf_failed"},
            "CSRF check failed. If you have signed in elsewhere meanwhile, reload the page.",
        ),
        (500, {}, "The gateway answered with status 500."),
        (400, {"error": HOSTILE, "code": "odd"}, f"{HOSTILE}."),
    ],
)
def test_a_refused_action_is_told_in_the_dialog(
    browser: Browser, site: PagesSite, status: int, answer: Json, told: str
) -> None:
    sign_in(site)
    answers(site)
    site.handlers[("POST", "/actions/trip")] = lambda query, body: (status, answer)
    opened(browser, site)
    choose(browser, "trip")
    browser.wait_for(lambda: enabled(browser), "it can be confirmed")
    browser.driver.find_element(By.ID, "action-confirm").click()
    browser.wait_for(lambda: browser.shows("#action-problem"), "the refusal is told")
    assert browser.text("#action-problem") == told
    assert browser.shows("#action-sign-in") is (status == 401)
    assert browser.shows("#action-dialog")
    assert enabled(browser)  # to be tried again
    assert browser.evaluate("document.getElementById('hostile')") is None
    assert grave_faults(browser) == []


def test_hostile_names_and_effects_stay_text(browser: Browser, site: PagesSite) -> None:
    sign_in(site)
    site.stats["workers"][1]["name"] = HOSTILE
    answers(site, effect=HOSTILE)
    opened(browser, site)
    choose(browser, "trip", HOSTILE)
    browser.wait_for(lambda: browser.text("#action-effect") == HOSTILE, "the effect is stated")
    assert browser.text("#action-title") == f"Trip the breaker: {HOSTILE}"
    assert browser.evaluate("document.getElementById('hostile')") is None
    assert browser.console_errors() == []


# --- what is being tried ---


def test_a_canary_is_compared_with_the_others(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    assert not browser.shows("#canary-section")
    site.stats["canary"] = canary() | {"state": "in force", "verdict": "worker_3 is faster than the others"}
    browser.wait_for(lambda: browser.shows("#canary-section"), "the canary is shown")
    trial = " ".join(browser.text("#canary-section .trial").split())
    assert trial.startswith("Tried now 3 worker_3 tries requests per batch 64 for 1 min 34 s, by admin")
    assert "worker_3 is faster than the others." in trial
    assert browser.evaluate("document.querySelector('#canary-section a').pathname") == "/admin/gateway_app/canary/"
    assert browser.texts("#canary-compare tr") == [
        "p99\t9.80 ms\t12.6 ms\t−22 %",
        "mean batch\t11.2 rows\t6 rows\t+87 %",
        "errors\t0 %\t0 %\t0.0 points",
    ]
    assert_sound(browser)
    assert browser.console_errors() == []


def test_a_canary_of_a_model_and_one_that_rests(browser: Browser, site: PagesSite) -> None:
    model = {"tuning": {}, "model": HOSTILE, "version": "2", "state": "idle"}
    verdict = "worker_3 is not connected: the others do its work"
    site.stats["canary"] = canary() | model | {"compare": [], "verdict": verdict}
    opened(browser, site)
    assert f"worker_3 tries {HOSTILE} version 2" in browser.text("#canary-section")
    assert f"{verdict}." in browser.text("#canary-section")
    assert browser.text("#canary-section .badge") == "Idle"
    assert not browser.shows("#canary-table")
    assert browser.evaluate("document.getElementById('hostile')") is None


def test_a_guard_counts_down_and_tells_how_it_ended(browser: Browser, site: PagesSite) -> None:
    site.stats["guard"] = guard()
    opened(browser, site)
    assert browser.text("#guard") == (
        "Revision 7 reverts to 6 by itself if errors rise by 1.0 points (0.01 % before, 0.02 % now) or p99 gets 2.0"
        " times as long (12.6 ms before, 13.1 ms now) in the next 4:31. Keep it, or take it back"
    )
    assert_sound(browser)
    assert browser.evaluate("document.querySelector('#guard a').pathname") == "/admin/gateway_app/revision/7/change/"
    outcome = "errors were 4.2 %, the limit is 1.01 %"
    site.stats["guard"].update(state="reverted", left_s=0.0, outcome=outcome)
    browser.wait_for(
        lambda: browser.text("#guard") == f"Revision 7 was taken back: {outcome}. In the history", "the outcome is told"
    )
    assert browser.evaluate("document.getElementById('guard').className") == "banner warn"
    site.stats["guard"] = None
    browser.wait_for(lambda: not browser.shows("#guard"), "the banner is gone")
