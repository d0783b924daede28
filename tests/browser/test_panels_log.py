"""What is listed on the gateway's page: events with their filters, and requests explained."""

import re
import threading
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support import pagefigures
from tests.support.axe import assert_sound, grave_faults
from tests.support.chromium import Browser
from tests.support.pages import Json, PagesSite, canary, event, guard, open_breaker
from tests.support.waiting import PATIENCE_S

NARROW = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
HOSTILE = "<img src=x id=hostile>"


def opened(browser: Browser, site: PagesSite, width: int = 1280, fragment: str = "") -> Browser:
    browser.open(site.url + fragment, width)
    return browser


def click(browser: Browser, selector: str) -> None:
    browser.driver.execute_script("arguments[0].click()", browser.driver.find_element(By.CSS_SELECTOR, selector))


CLOCK = r"^(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d "  # with the date, if that is not today's


def all_kinds() -> list[Json]:
    return [
        event("worker_2", "CLOSED", "OPEN", "5 failures in a row", 75.0),
        event("worker_2", "", "lost", "the connection was lost", 70.0, kind="worker"),
        event("", "", "READY", "served by 3 workers", 65.0, kind="model", model="digits"),
        event("", "rev 6", "rev 7", "requests per batch 32 → 64", 60.0, kind="config", author="ann"),
        event("worker_1", "", "", "drained: to be replaced", 50.0, kind="action", author="ann"),
    ]


# --- events ---


def test_events_of_all_kinds_the_newest_first(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    assert "Nothing has happened yet" in browser.text("#events-none")
    site.stats["events"] = all_kinds()
    browser.wait_for(lambda: len(browser.texts("#events li")) == 5, "all events are listed")
    shown = [" ".join(text.split()) for text in browser.texts("#events li")]
    assert all(re.match(CLOCK, text) for text in shown), shown
    assert [re.sub(CLOCK, "", text) for text in shown] == [
        "50 s ago Action worker_1 drained: to be replaced by ann",
        "1 min 0 s ago Config rev 6 → rev 7 requests per batch 32 → 64 by ann",
        "1 min 5 s ago Model digits READY served by 3 workers",
        "1 min 10 s ago Worker worker_2 lost the connection was lost",
        "1 min 15 s ago Breaker worker_2 CLOSED → OPEN 5 failures in a row",
    ]
    assert browser.evaluate("document.querySelector('#events time').dateTime") == "2026-11-23T12:00:00.000+00:00"
    assert browser.evaluate("document.getElementById('events-admin').pathname") == "/admin/gateway_app/event/"
    assert browser.evaluate("document.querySelector('#events li:last-child .badge').className") == "badge bad"
    assert_sound(browser)
    assert browser.console_errors() == []


@pytest.mark.parametrize(
    ("kind", "worker", "text", "reasons"),
    [
        ("breaker", "", "", ["5 failures in a row"]),
        ("", "worker_2", "", ["the connection was lost", "5 failures in a row"]),
        ("", "", "ANN", ["drained: to be replaced", "requests per batch 32 → 64"]),
        ("worker", "worker_2", "connection", ["the connection was lost"]),
        ("model", "worker_2", "", []),
    ],
)
def test_events_are_filtered(
    browser: Browser, site: PagesSite, kind: str, worker: str, text: str, reasons: list[str]
) -> None:
    site.stats["events"] = all_kinds()
    opened(browser, site)
    if kind:
        click(browser, f"#events-filter [value={kind}]")
    if worker:
        browser.driver.find_element(By.CSS_SELECTOR, f"#events-worker [value={worker}]").click()
    if text:
        browser.driver.find_element(By.CSS_SELECTOR, "#events-filter [type=search]").send_keys(text)
    assert browser.texts("#events [data-text=reason]") == reasons
    # The admin, which has them all, is asked for the same.
    asked = {"kind__exact": kind, "worker": worker, "q": text}
    found = browser.evaluate("Object.fromEntries(new URLSearchParams(document.getElementById('events-admin').search))")
    assert found == {name: value for name, value in asked.items() if value}
    if not reasons:
        assert browser.text("#events-none") == "None of the newest 5 events is like that."
    # The address keeps it: a reload shows the same.
    browser.driver.refresh()
    browser.wait_for(lambda: browser.texts("#events [data-text=reason]") == reasons, "the same events are shown")
    assert browser.evaluate("document.getElementById('events-worker').value") == worker
    click(browser, "#events-clear")
    assert len(browser.texts("#events li")) == 5
    assert browser.evaluate("location.hash") == ""
    assert browser.evaluate("document.activeElement.name") == "text"


def test_kinds_are_chosen_with_the_arrow_keys(browser: Browser, site: PagesSite) -> None:
    site.stats["events"] = all_kinds()
    opened(browser, site)
    chosen = browser.driver.find_element(By.CSS_SELECTOR, "#events-filter [name=kind]")
    chosen.send_keys(Keys.ARROW_RIGHT)
    assert browser.texts("#events .kind") == ["Breaker"]
    assert browser.evaluate("location.hash") == "#kind=breaker"


def test_the_address_of_a_filter_can_be_followed_on_the_open_page(browser: Browser, site: PagesSite) -> None:
    site.stats["events"] = all_kinds()
    opened(browser, site)
    browser.driver.execute_script("location.hash = 'kind=config&text=batch'")
    browser.wait_for(lambda: browser.texts("#events .kind") == ["Config"], "the filter is the address's")
    # A link to a place on the page is no filter.
    browser.driver.execute_async_script(
        "addEventListener('hashchange', () => arguments[0](), {once: true}); location.hash = 'ring-section'"
    )
    assert browser.texts("#events .kind") == ["Config"]


def test_unknown_filters_of_an_address_show_all_or_nothing_but_break_nothing(browser: Browser, site: PagesSite) -> None:
    site.stats["events"] = all_kinds()
    opened(browser, site, fragment=f"#kind={HOSTILE}&worker=gone&requests=odd")
    assert browser.text("#events-none") == "None of the newest 5 events is like that."
    assert browser.evaluate("document.getElementById('events-worker').value") == "gone"
    assert browser.console_errors() == []


def test_new_events_are_told_politely(browser: Browser, site: PagesSite) -> None:
    site.stats["events"] = all_kinds()[:1]
    opened(browser, site)
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    assert browser.text("#events-news") == ""  # what was there before is no news
    late = event("worker_1", "CLOSED", "OPEN", "it is silent", 0.1, at="2026-11-23T12:00:07.000+00:00")
    site.stats["events"].append(late)
    browser.wait_for(lambda: browser.text("#events-news") == "worker_1 OPEN: it is silent", "the news are told")
    assert browser.evaluate("document.getElementById('events-news').getAttribute('role')") == "status"


def test_hostile_events_stay_text(browser: Browser, site: PagesSite) -> None:
    values: dict[str, Any] = {"kind": HOSTILE, "author": HOSTILE, "model": HOSTILE}
    site.stats["events"] = [event(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0, **values)]
    opened(browser, site)
    assert browser.text("#events li").count(HOSTILE) == 6
    assert HOSTILE in browser.texts("#events-worker")[0]
    assert browser.evaluate("document.getElementById('hostile')") is None
    assert browser.console_errors() == []


# --- requests explained ---


def scroll_there(browser: Browser) -> None:
    """What is above may still grow: then it has left the window again."""
    browser.driver.execute_script("document.getElementById('traces-section').scrollIntoView()")


def explained(browser: Browser, rows: int) -> None:
    def listed() -> bool:
        scroll_there(browser)
        return len(browser.texts("#traces > li")) == rows

    browser.wait_for(listed, f"{rows} requests are listed")


def widths(browser: Browser, row: int) -> list[float]:
    script = """return [...document.querySelectorAll('#traces > li')[arguments[0]].querySelectorAll('.stack > span')]
        .map((part) => parseFloat(part.style.width))"""
    found: list[float] = browser.driver.execute_script(script, row)
    return found


def test_requests_are_explained(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    explained(browser, 4)
    rows = [" ".join(text.split()) for text in browser.texts("#traces summary")]
    for part in ("200", "digits", "worker_2 · miss", "4.76 ms"):
        assert part in rows[0]
    assert "2 attempts" in rows[2]
    assert "504" in rows[3]
    shares = [part / 4.76 * 100 for part in (0.05, 0.0, 0.31, 0.1, 1.2, 3.1)]
    assert widths(browser, 0) == pytest.approx(shares, abs=0.01)
    click(browser, "#traces > li:nth-child(3) summary")
    browser.wait_for(lambda: browser.shows("#traces .details"), "the request's details are shown")
    details = " ".join(browser.text("#traces > li:nth-child(3) .details").split())
    for part in (
        "Answered by worker_2, in 7.96 ms",
        "Why next in line: worker_1 is OPEN",
        "Found nowhere: the model ran",
        "number 1,236, 7 rows of 7 requests, started because the model was free, in session 0",
        "digits, version 1",
        "waiting for earlier attempts 3.20 ms 40.2 %",
        "worker_1 lost after < 0.01 ms 3.20 ms the connection was lost",
        "worker_2 answered after 3.20 ms 4.70 ms",
    ):
        assert part in details
    assert_sound(browser)
    assert browser.console_errors() == []


def test_a_failed_request_of_which_little_is_known(browser: Browser, site: PagesSite) -> None:
    attempt = {"worker": "worker_1", "began_ms": None, "took_ms": None, "outcome": "busy", "reason": ""}
    parts = pagefigures.trace()["parts_ms"] | {"queue": None, "compute": None}
    unknown = {"cache": None, "key": "", "owner": "", "batch": None, "kept": "failed", "answered_by": "gateway"}
    site.traces["traces"] = [pagefigures.trace(0, status=503, parts_ms=parts, attempts=[attempt], **unknown)]
    opened(browser, site)
    explained(browser, 1)
    click(browser, "#traces summary")
    browser.wait_for(lambda: browser.shows("#traces .details"), "the request's details are shown")
    details = " ".join(browser.text("#traces .details").split())
    assert "Answered by gateway, status 503 Owner none" in details
    assert "Kept because it failed" in details
    assert "worker_1 busy – –" in details
    assert not {"Key", "Found", "Batch"} & set(details.split())
    assert browser.evaluate("document.querySelector('#traces .badge').className") == "badge bad"
    assert not {"null", "NaN", "undefined"} & set(details.split())


def test_an_open_request_stays_open_while_others_come(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    explained(browser, 4)
    summary = browser.driver.find_element(By.CSS_SELECTOR, "#traces summary")
    summary.send_keys(Keys.ENTER)
    browser.wait_for(lambda: browser.shows("#traces .details"), "the request's details are shown")
    site.traces["traces"].insert(0, pagefigures.trace(99))
    browser.wait_for(lambda: len(browser.texts("#traces > li")) == 5, "another request is listed", passing_s=0.5)
    second = "document.querySelectorAll('#traces > li')[1]"
    assert browser.evaluate(f"{second}.querySelector('details').open") is True
    assert browser.evaluate(f"document.activeElement.closest('li') === {second}") is True


@pytest.mark.parametrize(
    ("wanted", "statuses"), [("failed", ["504"]), ("slow", ["200", "504"]), ("", ["200"] * 3 + ["504"])]
)
def test_requests_are_filtered(browser: Browser, site: PagesSite, wanted: str, statuses: list[str]) -> None:
    opened(browser, site)
    explained(browser, 4)
    assert browser.text("#traces-slow") == "Slow: over 4.90 ms"  # the p95 of the strip
    click(browser, f"#traces-filter [value='{wanted}']")
    shown = "#traces [data-text=status]"
    browser.wait_for(lambda: browser.texts(shown) == statuses, "the requests are filtered")
    browser.driver.refresh()
    explained(browser, len(statuses))
    assert browser.texts(shown) == statuses


def test_no_failed_request_is_told_from_none_at_all(browser: Browser, site: PagesSite) -> None:
    site.traces["traces"] = [pagefigures.trace(0)]
    opened(browser, site, fragment="#requests=failed")

    def told(text: str) -> bool:
        scroll_there(browser)
        return text in browser.text("#traces-none")

    browser.wait_for(lambda: told("1 request kept"), "it says that none failed")
    site.traces["traces"] = []
    browser.wait_for(lambda: told("No request has been sampled yet"), "it says there is none", passing_s=0.5)


def test_a_paused_list_stays_as_it_is(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    explained(browser, 4)
    click(browser, "#traces-pause")
    before = browser.asked_for("/traces")
    site.traces["traces"] = [pagefigures.trace(50)]
    browser.pass_time(30.0)  # longer than it waits between two
    assert browser.asked_for("/traces") == before
    assert len(browser.texts("#traces > li")) == 4
    click(browser, "#traces-pause")
    browser.wait_for(lambda: len(browser.texts("#traces > li")) == 1, "it goes on")


def test_a_list_that_is_paused_while_it_is_asked_for_stays_too(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    explained(browser, 4)
    go_on, newer = threading.Event(), {**site.traces, "traces": [pagefigures.trace(50)]}

    def late(query: dict[str, list[str]], body: bytes) -> tuple[int, Json]:
        go_on.wait(PATIENCE_S)
        return 200, newer

    site.handlers[("GET", "/traces")] = late
    before = browser.asked_for("/traces")
    browser.pass_time(3.0)
    assert browser.asked_for("/traces") == before + 1
    click(browser, "#traces-pause")
    go_on.set()
    answers = "performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/traces')).length"
    browser.wait_for(lambda: browser.evaluate(answers) == before + 1, "the answer has come")
    browser.driver.execute_async_script("setTimeout(arguments[0], 50)")  # a page that took it would show it by then
    assert len(browser.texts("#traces > li")) == 4


def test_requests_are_not_asked_for_while_nobody_sees_them(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    assert browser.asked_for("/traces") == 0
    explained(browser, 4)
    assert browser.asked_for("/traces") > 0


def test_requests_that_cannot_be_read_are_told(browser: Browser, site: PagesSite) -> None:
    site.handlers[("GET", "/traces")] = lambda query, body: (503, {"error": "the gateway is draining"})
    opened(browser, site)
    told = "Requests can't be shown: the gateway is draining. Trying again."

    def refused() -> bool:
        scroll_there(browser)
        return browser.text("#traces-error") == told

    browser.wait_for(refused, "the error is shown")
    del site.handlers[("GET", "/traces")]
    browser.wait_for(lambda: len(browser.texts("#traces > li")) == 4, "the requests are shown", passing_s=0.5)
    assert not browser.shows("#traces-error")


def test_hostile_traces_stay_text(browser: Browser, site: PagesSite) -> None:
    attempt = {"worker": HOSTILE, "began_ms": 0.0, "took_ms": 1.0, "outcome": HOSTILE, "reason": HOSTILE}
    values: dict[str, Any] = dict.fromkeys(
        ("id", "model", "version", "key", "answered_by", "cache", "why", "owner"), HOSTILE
    )
    site.traces["traces"] = [pagefigures.trace(0, **values, attempts=[attempt])]
    opened(browser, site)
    explained(browser, 1)
    click(browser, "#traces summary")
    browser.wait_for(lambda: browser.shows("#traces .details"), "the request's details are shown")
    assert browser.text("#traces .details").count(HOSTILE) >= 9
    assert browser.evaluate("document.getElementById('hostile')") is None
    assert browser.console_errors() == []


def test_how_to_explain_a_request(browser: Browser, site: PagesSite) -> None:
    opened(browser, site)
    click(browser, ".howto summary")
    example = browser.text("#traces-example")
    assert example.startswith(f"curl -si {site.url}infer -H 'X-Explain: 1' -d '{{")
    for width in (1280, 390):
        browser.resize(width)
        assert browser.evaluate(NARROW) is True, width


def test_long_words_stick_out_nowhere(browser: Browser, site: PagesSite) -> None:
    long = "a-worker-with-a-rather-long-name-in-rack-17" + "x" * 57
    site.stats["workers"][0]["name"] = long
    site.ring["workers"][0] = long
    site.ring["shares"] = {long: 0.34, "worker_2": 0.33, "worker_3": 0.33}
    site.stats["hottest"][0].update(input="1" * 120, owner=long, model=long)
    site.stats["events"] = [event(long, "CLOSED", "OPEN", "y" * 300, 1.0, author="z" * 150, model=long)]
    site.traces["traces"] = [pagefigures.trace(0, model=long, answered_by=long, owner=long, why="w" * 200)]
    site.stats["canary"] = canary() | {"worker": long, "verdict": "v" * 200, "author": "z" * 150}
    opened(browser, site)
    explained(browser, 1)
    click(browser, "#traces summary")
    browser.driver.execute_script("document.getElementById('where').requestSubmit()")
    browser.wait_for(lambda: browser.shows("#where-answer"), "the answer is shown")
    browser.wait_for(lambda: browser.shows("#traces .details"), "the request's details are shown")
    for width in (1280, 1024, 768, 320):
        browser.resize(width)
        assert browser.evaluate(NARROW) is True, width


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_full_panels_can_be_read_by_all(browser: Browser, site: PagesSite, width: int, scheme: str) -> None:
    open_breaker(site.stats, 2)
    site.stats["events"] = all_kinds() * 10
    site.stats["canary"], site.stats["guard"] = canary(), guard()
    site.traces["traces"] = [pagefigures.trace(number, status=(200, 422, 503)[number % 3]) for number in range(30)]
    opened(browser, site, width)
    browser.colours(scheme)
    explained(browser, 30)
    click(browser, "#traces summary")
    click(browser, ".howto summary")
    browser.driver.execute_script("document.getElementById('where').requestSubmit()")
    browser.wait_for(lambda: browser.shows("#where-answer"), "the answer is shown")
    browser.wait_for(lambda: browser.shows("#traces .details"), "the request's details are shown")
    browser.wait_for(lambda: browser.texts(".band"), "the ring is drawn")
    assert grave_faults(browser) == []
    browser.driver.find_element(By.CSS_SELECTOR, "[data-actions=worker_2] > button").send_keys(Keys.ENTER)
    browser.wait_for(lambda: browser.shows("#actions-sign-in"), "the menu is open")
    assert grave_faults(browser) == []
    assert browser.evaluate(NARROW) is True
    assert browser.console_errors() == []
