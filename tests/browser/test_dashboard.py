"""The gateway's page in a real browser: what it says as a whole. Its parts have files of their own."""

import re

import pytest

from tests.support import pagefigures
from tests.support.chromium import Browser
from tests.support.pages import PagesSite, breaker, event, open_breaker, served_model

NAMES = ".card .who > a"
STATES = ".card [data-badge=state]"
DRAWN = "document.querySelectorAll('figure.chart canvas').length === 3"
NARROW = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


def findings(browser: Browser) -> list[str]:
    """With N for the seconds that are counted down."""
    return [re.sub(r"\bin \d+ s\b", "in N s", text) for text in browser.texts("#verdict li")]


def test_first_paint_needs_no_answer(browser: Browser, site: PagesSite) -> None:
    site.broken = True
    browser.open(site.url)
    assert browser.texts(STATES) == ["CLOSED"] * 3
    assert browser.texts(NAMES) == ["worker_1", "worker_2", "worker_3"]


def test_healthy_gateway(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    strip = dict(zip(browser.texts(".strip dt"), browser.texts(".strip dd:not(.sub)"), strict=True))
    assert strip == {
        "Requests/s": "8,423",
        "p50 latency": "1.84 ms",
        "p95 latency": "4.90 ms",
        "p99 latency": "12.6 ms",
        "Errors": "0.00 %",
        "Hit rate": "87.4 %",
        "Workers up": "3 of 3",
        "Config": "rev 7",
        "In flight": "18",
        "Retries": "4",
        "Hedges": "1,204",
        "Refused": "52",
    }
    strip_text = browser.text("#gateway")
    for part in (
        "1,210,863 in 2 h 15 min",
        "37 in all, < 0.01 %",
        "87.4 % in all",
        "in 4 of 4 processes",
        "within budget",
        "311 won",
        "7 too late · 1 client left",
    ):
        assert part in strip_text
    assert not browser.shows(".strip .trouble")
    assert browser.text("#verdict strong") == "All well"
    assert findings(browser) == ["3 of 3 workers up, no failed request of late"]
    assert browser.driver.title == "Inference gateway"
    assert not browser.shows(".banner.bad")
    assert browser.console_errors() == []


def test_who_was_lost_and_is_back_is_named_for_five_minutes(browser: Browser, site: PagesSite) -> None:
    site.stats["events"] = [
        event("worker_1", "connected", "lost", "the connection was lost", age_s=400.0, kind="worker"),
        event("worker_2", "connected", "lost", "the connection was lost", age_s=200.0, kind="worker"),
        event("worker_2", "lost", "connected", "connected again", age_s=199.0, kind="worker"),
    ]
    browser.open(site.url)
    assert browser.text("#verdict strong") == "All well"
    assert findings(browser) == [
        "3 of 3 workers up, no failed request of late",
        "Lost, or its breaker OPEN, in the last 5 minutes, and well again: worker_2",
    ]
    last = "document.querySelector('#verdict li:last-child a')"
    assert browser.evaluate(f"{last}.getAttribute('href')") == "#events-section"
    with site.change() as stats:  # somebody takes it out: it is not lost any more, but neither is it well
        stats["workers"][1].update(isolated=True, routable=False)
    browser.wait_for(lambda: findings(browser) == ["worker_2: isolated by hand"], "it is not called well")
    with site.change() as stats:
        stats["workers"][1].update(isolated=False, routable=True)
        stats["circuit_breakers"][1].update(state="HALF_OPEN", successes=1)
    trying = ["worker_2: breaker HALF_OPEN, 1 of 2 successes to close"]
    browser.wait_for(lambda: findings(browser) == trying, "it is still being tried")
    with site.change() as stats:
        stats["circuit_breakers"][1].update(state="CLOSED")
    browser.wait_for(lambda: len(findings(browser)) == 2, "now it is well")
    site.stats["events"][1]["age_s"] = 301.0
    browser.wait_for(lambda: findings(browser) == ["3 of 3 workers up, no failed request of late"], "it is forgotten")


def test_what_is_wrong_is_said_the_worst_first_and_leads_there(browser: Browser, site: PagesSite) -> None:
    open_breaker(site.stats, 2)
    site.stats["circuit_breakers"][2].update(state="HALF_OPEN", successes=1)
    site.stats["workers"][0].update(draining=True, routable=False, revision=6)
    site.stats["gateway"].update(error_percent=2.41, processes_current=3)
    browser.open(site.url)
    assert browser.text("#verdict strong") == "Trouble"
    assert findings(browser) == [
        "worker_2: breaker OPEN, disconnected, next probe in N s",
        "2.4 % of the requests of the last 10 s failed",
        "worker_3: breaker HALF_OPEN, 1 of 2 successes to close",
        "Revision 7 is in force in 3 of 4 processes: not yet in worker_1",
        "worker_1: draining",
    ]
    targets = browser.evaluate(
        "[...document.querySelectorAll('#verdict a')]"
        ".map((link) => document.getElementById(link.hash.slice(1)).tagName)"
    )
    assert targets == ["LI", "FIGURE", "LI", "SECTION", "LI"]
    assert browser.texts(".strip .trouble dt") == ["Errors", "Workers up", "Config"]
    assert browser.driver.title == "(!) 1 of 3 up — Inference gateway"
    assert "/icon-trouble.svg" in str(browser.evaluate("document.querySelector('link[rel=icon]').href"))


def test_the_verdict_counts_down_between_two_answers(browser: Browser, site: PagesSite) -> None:
    open_breaker(site.stats, 2)
    browser.open(site.url)
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    site.silent = True

    def shown() -> bool:
        return all("next probe in 16 s" in text for text in browser.texts("#verdict, #worker-worker_2"))

    browser.wait_for(shown, "a second has passed", passing_s=0.5)


def test_refused_requests_are_trouble_while_they_last(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    with site.change() as stats:
        stats["gateway"].update(shed=152, budget_exhausted=1)
    browser.wait_for(lambda: browser.text("#verdict strong") == "Trouble", "it says so")
    assert findings(browser) == [
        "100 requests refused in the last 10 s: every worker is full",
        "1 retry not made: over the budget",
    ]
    assert browser.driver.title == "(!) refusing requests — Inference gateway"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"silent": True}, "worker_1: silent: it does not answer a ping"),
        (
            {"connected": False, "routable": False, "last_error": "refused"},
            "worker_1: disconnected, refused",
        ),
        ({"routable": False}, "worker_1: takes no requests"),
        ({"stats_age_s": 65.0}, "worker_1: sends no figures, for 1 min 5 s"),
        ({"isolated": True, "routable": False}, "worker_1: isolated by hand"),
        (
            {"connected": False, "connection_s": 2.0, "leaving": True, "routable": False},
            "worker_1: stopped in order, its next process is awaited",
        ),
        (
            {"connected": False, "connection_s": 200.0, "leaving": True, "routable": False},
            "worker_1: stopped in order, and not back, for 3 min 20 s",
        ),
        ({"connected": False, "draining": True, "routable": False}, "worker_1: draining, disconnected"),
    ],
)
def test_what_can_be_wrong_with_a_worker(
    browser: Browser, site: PagesSite, change: dict[str, object], text: str
) -> None:
    site.stats["workers"][0].update(change)
    browser.open(site.url)
    assert findings(browser) == [text]


def test_many_with_the_same_trouble_are_one_finding(browser: Browser, site: PagesSite) -> None:
    for worker in site.stats["workers"]:
        worker.update(connected=False, routable=False)
    site.stats["workers"] += [{**site.stats["workers"][0], "name": "worker_4"}]
    site.stats["circuit_breakers"] = []
    browser.open(site.url)
    assert findings(browser) == [
        "No worker can answer: clients get 503",
        "4 workers: disconnected: worker_1, worker_2, worker_3 and 1 more",
    ]


def test_what_operators_have_taken_from_all_is_said(browser: Browser, site: PagesSite) -> None:
    for worker in site.stats["workers"]:
        worker.update(isolated=True, routable=False)
    browser.open(site.url)
    assert findings(browser)[0] == "Every worker is isolated: clients get 503"
    assert browser.driver.title.startswith("(!) ")
    with site.change() as stats:
        for worker in stats["workers"]:
            worker.update(isolated=False, draining=True)
    draining = "Nobody but draining workers is left: they go on answering"
    browser.wait_for(lambda: findings(browser)[0] == draining, "it says so")
    assert "Draining, but nobody else is left: it goes on getting requests." in browser.texts(".card .notes")[0]
    with site.change() as stats:
        for worker in stats["workers"]:
            worker.update(draining=False, routable=True)
        stats["models"][0].update(state="UNAVAILABLE", reason="unloaded")
        stats["gateway"]["uptime_s"] = 59.0
    browser.wait_for(lambda: findings(browser)[0] == "digits is unloaded: who asks gets 404", "it says so")
    assert findings(browser)[1].startswith("This gateway was started 59 s ago")
    assert browser.text("#verdict strong") == "All well"


def test_a_breaker_says_why_it_is_open_and_how_old_its_last_error_is(browser: Browser, site: PagesSite) -> None:
    open_breaker(site.stats, 2)
    error = site.stats["workers"][1]["last_error"]
    site.stats["circuit_breakers"][0].update(last_error="it took too long", last_error_age_s=190.0)
    browser.open(site.url)
    well, sick, _ = browser.texts(".card .notes")
    assert well == "Last error of a request, 3 min 10 s ago: it took too long."
    assert sick.endswith(f"OPEN because: 5 failures in a row, the last: {error}")


def test_disabled_workers_and_none_at_all(browser: Browser, site: PagesSite) -> None:
    for worker in site.stats["workers"]:
        worker.update(enabled=False, routable=False, connected=False)
    browser.open(site.url)
    assert findings(browser) == ["Every worker is disabled: clients get 503"]
    site.stats.update(total_workers=0, workers=[], circuit_breakers=[], point=None)
    browser.wait_for(lambda: findings(browser) == ["There is no worker: clients get 503"], "it says so")
    assert browser.driver.title == "(!) No workers — Inference gateway"
    assert "manage.py runcluster" in browser.text("#empty")
    assert not browser.shows("#workers-section")
    assert browser.console_errors() == []


def test_a_gateway_without_traffic_or_points(browser: Browser, site: PagesSite) -> None:
    nothing = {"p50_ms": None, "p95_ms": None, "p99_ms": None, "error_percent": None, "hit_rate": None}
    site.stats["gateway"].update(nothing, requests=0, errors=0, requests_per_s=0.0, split_ms=None)
    site.stats["point"] = None
    site.history = {"step_s": 1, "points": []}
    for worker in site.stats["workers"]:
        worker.update(node=None, stats_age_s=None, split_ms=None, recent_hit_rate=None, batches=[], revision=None)
    browser.open(site.url)
    assert findings(browser) == ["3 of 3 workers up, no requests of late"]
    assert browser.text("#tile-errors dd:not(.sub)") == "–"
    assert not browser.shows("#charts-section figure")
    shown = browser.text("body")
    assert "undefined" not in shown
    assert "NaN" not in shown
    assert "null" not in shown
    assert browser.console_errors() == []


def test_config_error_and_draining(browser: Browser, site: PagesSite) -> None:
    site.stats["gateway"].update(config_error="the database does not answer", draining=True)
    browser.open(site.url)
    error, draining = findings(browser)
    assert error == "Revision 7 stays in force, newer settings cannot be read: the database does not answer"
    assert "takes no new requests" in draining
    assert browser.driver.title == "(!) Draining, config error — Inference gateway"


def test_nothing_sticks_out_sideways(browser: Browser, site: PagesSite) -> None:
    open_breaker(site.stats, 2)
    site.stats["workers"][0].update(name="a-worker-with-a-rather-long-name-in-rack-17", weight=2.5)
    browser.open(site.url)
    browser.wait_for(lambda: browser.evaluate(DRAWN), "the charts are drawn")
    for width in (1280, 1024, 768, 375, 320):
        browser.resize(width)
        assert browser.evaluate(NARROW) is True, width


def test_hostile_text_stays_text(browser: Browser, site: PagesSite) -> None:
    site.stats["workers"][0].update(name="</script><b id=hostile>", last_error="<img src=x onerror=alert(1)>")
    site.stats["workers"][0].update(connected=False, routable=False)
    browser.open(site.url)
    assert browser.texts(NAMES)[0] == "</script><b id=hostile>"
    assert "<img src=x" in browser.texts(".card .notes")[0]
    assert findings(browser) == ["</script><b id=hostile>: disconnected, <img src=x onerror=alert(1)>"]
    assert not browser.shows("#hostile")
    browser.driver.execute_script("document.querySelector('#verdict a').click()")
    target = "document.querySelector(':target')?.dataset.worker"
    browser.wait_for(lambda: browser.evaluate(target) == "</script><b id=hostile>", "its card is what is linked to")


def test_no_name_gets_in_the_way_of_the_page(browser: Browser, site: PagesSite) -> None:
    names = ("template", "__proto__", "constructor")
    for worker, name in zip(site.stats["workers"], names, strict=True):
        worker["name"] = name
    site.stats["models"] = [served_model(name) for name in names]
    site.stats["circuit_breakers"] = [breaker(worker) for worker in site.stats["workers"]]
    site.history = pagefigures.history(120, names)
    site.ring = pagefigures.ring(names)
    browser.open(site.url)
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    assert browser.texts(NAMES) == list(names)
    assert browser.texts(".served .who > a") == list(names)
    assert browser.evaluate("document.querySelectorAll('.card .line[d^=M]').length") == 6
    assert browser.console_errors() == []
