"""The ring on the gateway's page, the box that finds an input's worker, and the hottest inputs."""

import json
import threading

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support import pagefigures
from tests.support.axe import assert_sound, grave_faults
from tests.support.chromium import Browser
from tests.support.pages import Json, PagesSite, breaker, gateway_worker, open_breaker
from tests.support.waiting import PATIENCE_S

NARROW = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
HOSTILE = "<img src=x id=hostile>"
WIDTHS = (1280, 390)


def opened(browser: Browser, site: PagesSite, width: int = 1280) -> Browser:
    browser.open(site.url, width)
    return browser


def drawn(browser: Browser) -> None:
    browser.wait_for(lambda: browser.evaluate("document.querySelectorAll('.band').length > 0"), "the ring is drawn")


def many_workers(site: PagesSite, count: int) -> tuple[str, ...]:
    names = tuple(f"worker_{number}" for number in range(1, count + 1))
    site.ring = pagefigures.ring(names)
    shares = site.ring["shares"]
    site.stats["workers"] = [
        {**gateway_worker(1, 4000, shares[name], shares[name] * (2 if name == "worker_7" else 1)), "name": name}
        for name in names
    ]
    site.stats["circuit_breakers"] = [breaker(worker) for worker in site.stats["workers"]]
    return names


def write(browser: Browser, text: str) -> None:
    box = browser.driver.find_element(By.ID, "where-input")
    box.clear()
    box.send_keys(text)


def find(browser: Browser) -> None:
    """With the keyboard: what is above may still grow, and a mouse would miss."""
    browser.driver.find_element(By.CSS_SELECTOR, "#where [type=submit]").send_keys(Keys.ENTER)


def test_ring_is_drawn_and_told_in_words(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    drawn(browser)
    assert browser.evaluate("[...document.querySelectorAll('.band')].map((each) => each.dataset.owner)") == [
        "worker_1",
        "worker_2",
        "worker_3",
    ]
    # Never told by colour alone: each part has a number, the list says whose it is.
    assert browser.texts("#ring-arcs text") == browser.texts("#ring-workers .swatch") == ["1", "2", "3"]
    assert browser.texts("#ring-workers [data-text=name]") == ["worker_1", "worker_2", "worker_3"]
    assert browser.texts("#ring-workers [data-text=keys]") == ["33.8 %", "33.1 %", "33.1 %"]
    assert browser.texts("#ring-workers [data-text=traffic]") == ["34.1 %", "32.9 %", "33.0 %"]
    assert browser.text("#ring-centre") == "3 workers"
    assert_sound(browser)
    assert browser.console_errors() == []


def test_each_slot_has_the_colour_of_its_owner(browser: Browser, site: PagesSite) -> None:
    site.ring["owners"] = [0] * 256 + [1] * 512 + [2] * 128 + [0] * 128
    opened(browser, site)
    drawn(browser)
    bands = "[...document.querySelectorAll('.band')]"
    # Half of the 1024 are drawn: lengths of what is owned and of what is not, in turn.
    assert browser.evaluate(f"{bands}.map((each) => each.getAttribute('stroke-dasharray'))") == [
        "128 320 64 0",
        "0 128 256 128",
        "0 384 64 64",
    ]
    colours = browser.evaluate(f"{bands}.map((each) => getComputedStyle(each).stroke)")
    assert isinstance(colours, list)
    assert len(set(colours)) == 3


def test_a_worker_in_the_list_is_found_in_the_ring(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    drawn(browser)
    second = browser.driver.find_element(By.CSS_SELECTOR, "#ring-workers [data-owner=worker_2]")
    chosen = "[...document.querySelectorAll('#ring-drawing .chosen')].map((each) => each.dataset.owner)"
    browser.driver.execute_script("arguments[0].focus()", second)
    assert browser.evaluate(chosen) == ["worker_2", "worker_2"]  # its slots, and the arc of its share
    assert browser.text("#ring-centre") == f"{site.ring['shares']['worker_2']:.1%}".replace("%", " %")
    second.send_keys(Keys.ENTER)
    assert second.get_attribute("aria-pressed") == "true"
    browser.driver.execute_script("arguments[0].blur()", second)
    assert browser.evaluate(chosen) == ["worker_2", "worker_2"]
    second.send_keys(Keys.ENTER)
    browser.driver.execute_script("arguments[0].blur()", second)
    assert browser.evaluate(chosen) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_hundred_workers_have_twelve_colours_and_all_are_listed(
    browser: Browser, site: PagesSite, width: int
) -> None:
    names = many_workers(site, 100)
    opened(browser, site, width)
    drawn(browser)
    assert browser.evaluate("document.querySelectorAll('.band').length") == 12
    assert browser.texts("#ring-arcs text")[-1] == "+89"
    assert len(browser.texts("#ring-workers tr")) == 11
    more = browser.driver.find_element(By.ID, "ring-more")
    assert more.text == "Show all 100 workers"
    more.send_keys(Keys.ENTER)
    assert browser.evaluate("[...document.querySelectorAll('#ring-workers button')].map((each) => each.title)") == list(
        names
    )
    assert browser.text("#ring-workers tr:nth-child(7) .load") == "2.0 × of inputs"
    # One of the others has no colour, and is still to be found.
    colourless = browser.evaluate("Panels.hasColour('worker_100')")
    assert colourless is False
    browser.driver.execute_script("document.querySelector('#ring-workers [data-owner=worker_100]').focus()")
    assert browser.evaluate("document.querySelector('.band.alone').dataset.owner") == "worker_100"
    assert browser.evaluate(NARROW) is True
    assert grave_faults(browser) == []


def test_ring_follows_the_configuration(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    drawn(browser)
    many_workers(site, 2)
    site.stats["gateway"]["revision"] = 8
    browser.wait_for(lambda: browser.text("#ring-centre") == "2 workers", "the ring is the new one", passing_s=0.5)
    assert browser.texts("#ring-arcs text") == ["1", "2"]


def test_nobody_on_the_ring_says_what_to_do(browser: Browser, site: PagesSite) -> None:
    site.ring = pagefigures.ring(())
    for worker in site.stats["workers"]:
        worker.update(enabled=False, key_share=0.0)
    opened(browser, site)
    browser.wait_for(lambda: browser.shows("#ring-empty"), "the ring is empty")
    assert "every worker is disabled" in browser.text("#ring-empty")
    assert browser.evaluate("document.querySelector('#ring-empty a').pathname") == "/admin/gateway_app/worker/"
    assert not browser.shows("#ring-body")


def test_a_ring_that_cannot_be_read_is_told_and_read_later(browser: Browser, site: PagesSite) -> None:
    ring = site.ring
    site.handlers[("GET", "/ring")] = lambda query, body: (503, {"error": "the gateway is draining"})
    opened(browser, site)
    browser.wait_for(lambda: browser.shows("#ring-error"), "the error is shown")
    assert browser.text("#ring-error") == "The ring can't be shown: the gateway is draining. Trying again."
    site.handlers[("GET", "/ring")] = lambda query, body: (200, ring)
    browser.wait_for(lambda: not browser.shows("#ring-error"), "the ring was read", passing_s=0.5)
    assert len(browser.texts(".band")) == 3


# --- where does this input go? ---


def test_where_an_input_goes(browser: Browser, site: PagesSite) -> None:
    open_breaker(site.stats, 2)
    opened(browser, site)
    drawn(browser)
    # One that worker_2 owns.
    body = next(
        body
        for number in range(100)
        if pagefigures.where((body := json.dumps({"input_data": [number]})).encode(), site.stats)[1]["owner"]
        == "worker_2"
    )
    write(browser, body)
    find(browser)
    browser.wait_for(lambda: browser.shows("#where-answer"), "the answer is shown")
    expected = pagefigures.where(body.encode(), site.stats)[1]
    answer = browser.text("#where-answer")
    assert f"worker_2 owns it, but its breaker is OPEN: next is {expected['now']}" in answer
    assert browser.text("#where-answer [data-text=now]") == expected["now"]
    assert [text.split("\n")[-1].strip() for text in browser.texts("#where-line [data-text=name]")] == [
        "worker_2 (owner)",
        *expected["successors"],
    ]
    assert expected["key"] in answer
    assert f"slot {expected['slot']:,} of 65,536" in answer
    turned = browser.evaluate("document.getElementById('ring-mark').getAttribute('transform')")
    assert isinstance(turned, str)
    assert float(turned[len("rotate(") : -1]) == pytest.approx((expected["slot"] + 0.5) / 65_536 * 360)
    assert_sound(browser)
    # What is shown is of the text that is shown.
    browser.driver.find_element(By.ID, "where-input").send_keys(" ")
    assert not browser.shows("#where-answer")
    assert not browser.shows("#ring-mark")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_bad_input_is_answered_with_a_sentence(browser: Browser, site: PagesSite, width: int) -> None:
    opened(browser, site, width)
    write(browser, '{"input_data": [1')
    browser.driver.find_element(By.ID, "where-input").send_keys(Keys.CONTROL, Keys.ENTER)
    browser.wait_for(lambda: browser.shows("#where-error"), "the error is shown")
    assert browser.text("#where-error") == "the body is not valid JSON: it ends too early."
    assert not browser.shows("#where-answer")
    assert grave_faults(browser) == []
    # The refused request itself is all that the console tells of.
    assert all("/where" in line and "400" in line for line in browser.console_errors())


def test_nobody_to_ask_is_told(browser: Browser, site: PagesSite) -> None:
    site.stats["circuit_breakers"] = [{**each, "state": "OPEN"} for each in site.stats["circuit_breakers"]]
    opened(browser, site)
    find(browser)
    browser.wait_for(lambda: browser.shows("#where-answer"), "the answer is shown")
    assert browser.text("#where-answer [data-text=now]") == "Nobody"
    assert "no worker can take it now" in browser.text("#where-answer")


def test_where_is_asked_again_when_the_ring_changes(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    drawn(browser)
    find(browser)
    browser.wait_for(lambda: len(browser.texts("#where-line li")) == 3, "three are in line")
    many_workers(site, 2)
    site.stats["gateway"]["revision"] = 8
    browser.wait_for(lambda: len(browser.texts("#where-line li")) == 2, "two are in line", passing_s=0.5)


def test_an_answer_for_another_text_is_not_shown(browser: Browser, site: PagesSite) -> None:
    go_on = threading.Event()

    def late(query: dict[str, list[str]], body: bytes) -> tuple[int, Json]:
        go_on.wait(PATIENCE_S)
        return pagefigures.where(body, site.stats)

    site.handlers[("POST", "/where")] = late
    opened(browser, site)
    find(browser)
    assert browser.asked_for("/where") == 1
    browser.driver.find_element(By.ID, "where-input").send_keys(" ")
    go_on.set()
    answers = "performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/where')).length"
    browser.wait_for(lambda: browser.evaluate(answers) == 1, "the answer has come")
    browser.driver.execute_async_script("setTimeout(arguments[0], 50)")  # a page that took it would show it by then
    assert not browser.shows("#where-answer")
    find(browser)
    browser.wait_for(lambda: browser.shows("#where-answer"), "the answer is shown")


def test_hostile_answers_stay_text(browser: Browser, site: PagesSite) -> None:
    answer = {"model": HOSTILE, "version": "1", "key": HOSTILE, "slot": 1, "owner": HOSTILE, "successors": [HOSTILE]}
    site.handlers[("POST", "/where")] = lambda query, body: (200, {**answer, "now": HOSTILE, "why": HOSTILE, "kept": 1})
    opened(browser, site)
    find(browser)
    browser.wait_for(lambda: browser.shows("#where-answer"), "the answer is shown")
    assert browser.text("#where-answer").count(HOSTILE) >= 5
    site.handlers[("POST", "/where")] = lambda query, body: (400, {"error": HOSTILE, "code": "no"})
    find(browser)
    browser.wait_for(lambda: browser.text("#where-error") == f"{HOSTILE}.", "the error is shown")
    assert browser.evaluate("document.getElementById('hostile')") is None


# --- hottest inputs ---


def test_hottest_inputs(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    rows = browser.texts("#hot-inputs tr")
    assert len(rows) == 4
    for part in ("[0.1,0.2,0.3,0.4,0.5]", "000000000000000a", "digits", "412", "13.0 %", "worker_1", "yes"):
        assert part in rows[0]
    assert "no" in rows[2].split()
    assert browser.evaluate("document.querySelector('#hot-inputs [data-bar=share]').style.width") == "100%"
    assert browser.evaluate(
        "(({scrollHeight, clientHeight}) => scrollHeight === clientHeight)(document.getElementById('hot-table'))"
    )
    assert_sound(browser)


def test_no_hot_inputs_says_when_there_are_some(browser: Browser, site: PagesSite) -> None:
    site.stats["hottest"] = []
    opened(browser, site)
    assert "No input has been asked several times of late" in browser.text("#hot-empty")
    assert not browser.shows("#hot-table")


def test_hostile_inputs_stay_text(browser: Browser, site: PagesSite) -> None:
    site.stats["hottest"][0].update(input=HOSTILE, owner=HOSTILE, model=HOSTILE)
    opened(browser, site)
    assert browser.text("#hot-inputs tr:first-child").count(HOSTILE) == 3
    assert browser.evaluate("document.getElementById('hostile')") is None
