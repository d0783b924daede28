"""The workers' cards on the gateway's page."""

import copy

from tests.support import pagefigures
from tests.support.chromium import Browser
from tests.support.pages import PagesSite, breaker, gateway_worker, open_breaker

NAMES = ".card .who > a"


def card(browser: Browser, name: str) -> str:
    return " ".join(browser.text(f"#worker-{name}").split())


def state_of(browser: Browser, name: str) -> str:
    return browser.text(f"#worker-{name} [data-badge=state]")


def points_of(browser: Browser, path: str) -> int:
    """How many points the path of a sparkline goes through."""
    drawn = browser.evaluate(f"document.querySelector('{path}').getAttribute('d')")
    return str(drawn).count("L") + str(drawn).count("M")


def many(site: PagesSite, count: int) -> None:
    """So many workers, all well."""
    names = tuple(f"worker_{number}" for number in range(1, count + 1))
    site.stats["workers"] = [gateway_worker(number, 1000, 1 / count, 1 / count) for number in range(1, count + 1)]
    site.stats["circuit_breakers"] = [breaker(worker) for worker in site.stats["workers"]]
    site.stats.update(total_workers=count, point=pagefigures.point(0, names))
    site.history, site.ring = pagefigures.history(120, names), pagefigures.ring(names)


def test_a_card_tells_everything_of_a_worker(browser: Browser, site: PagesSite) -> None:
    site.stats["workers"][0].update(limit=64, weight=2.5)
    site.stats["circuit_breakers"][0].update(failures=2)
    browser.open(site.url)
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    shown = card(browser, "worker_1")
    for part in (
        "worker_1",
        "127.0.0.1:8001 · weight 2.5",
        "CLOSED",
        "for 2 h 15 min",
        "2 of 5 failures to open",
        "Requests/s 2,801",
        "p99 11.2 ms",
        "In flight 5 of 64",
        "Queue 0",
        "Hit rate 87.4 % 87.4 % in all",
        "Mean batch 6.0",
        "keys 33.8 %",
        "traffic 34.1 %",
        "queue 1.20 ms · compute 3.10 ms · network 0.40 ms",
        "8,654 batches: 961 full · 12 timeout · 7,681 free",
        "412,093 requests in all · 1,000 cached",
        "digits · CPU · rev 7",
    ):
        assert part in shown
    assert browser.evaluate("document.querySelector('#worker-worker_1 [data-bar=gauge]').style.width") == "40%"
    for place in (1, 2):
        assert points_of(browser, f"#worker-worker_1 .spark:nth-child({place}) .line") == 120
    assert browser.evaluate("document.querySelectorAll('#worker-worker_1 .sizes span').length") == 6


def test_open_breaker_shows_without_reload_and_recovers(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    browser.driver.execute_script("window.notReloaded = true")
    healthy = copy.deepcopy(site.stats)
    with site.change() as stats:
        open_breaker(stats, 2)
    browser.wait_for(lambda: state_of(browser, "worker_2") == "OPEN", "worker_2's breaker is OPEN")
    shown = card(browser, "worker_2")
    assert "for 1" in shown
    assert "next probe in 1" in shown
    assert "Disconnected" in shown
    assert "opened 1 time" in shown
    assert shown.count("connection to 127.0.0.1:8002 refused") == 1
    icon = "document.querySelector('#worker-worker_2 [data-badge=state] use').getAttribute('href')"
    assert browser.evaluate(icon) == "#icon-bad"
    assert state_of(browser, "worker_1") == state_of(browser, "worker_3") == "CLOSED"
    browser.wait_for(lambda: browser.driver.title == "(!) 2 of 3 up — Inference gateway", "the title tells of it")
    assert browser.evaluate("document.getElementById('announce').textContent") == "2 of 3 up"

    site.stats["circuit_breakers"][1].update(state="HALF_OPEN", successes=1, retry_after_s=None)
    browser.wait_for(lambda: state_of(browser, "worker_2") == "HALF_OPEN", "worker_2's breaker is HALF_OPEN")
    assert "1 of 2 successes to close" in card(browser, "worker_2")

    site.stats = healthy
    browser.wait_for(lambda: state_of(browser, "worker_2") == "CLOSED", "worker_2's breaker is CLOSED again")
    browser.wait_for(lambda: browser.driver.title == "Inference gateway", "the title is calm again")
    assert "refused" not in card(browser, "worker_2")
    assert browser.evaluate("window.notReloaded") is True


def test_seconds_are_counted_between_two_answers(browser: Browser, site: PagesSite) -> None:
    open_breaker(site.stats, 2)
    browser.open(site.url)
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    site.silent = True

    def counted() -> bool:
        shown = card(browser, "worker_2")
        return "next probe in 17 s" in shown and "for 13 s" in shown

    browser.wait_for(counted, "it counts down, and up", passing_s=0.5)
    site.stats["circuit_breakers"][1].update(retry_after_s=0.0)
    site.silent = False
    browser.wait_for(lambda: "next probe is due" in card(browser, "worker_2"), "the time has passed")
    site.stats["circuit_breakers"][1].update(retry_after_s=None)
    browser.wait_for(lambda: "held open: no probes" in card(browser, "worker_2"), "nothing is waited for")


def test_workers_come_go_and_are_switched_off(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    with site.change() as stats:
        stats["workers"][0].update(draining=True, routable=False)
        stats["workers"][1].update(enabled=False, routable=False, connected=False, node=None, stats_age_s=None)
        del stats["workers"][2], stats["circuit_breakers"][1:]
    browser.wait_for(lambda: browser.texts(NAMES) == ["worker_1", "worker_2"], "worker_3 is gone")
    assert browser.texts(".card .badges") == ["CLOSED\nDraining", "Disabled"]
    assert "0 of 1" in browser.text("#tile-workers")  # nobody is up: that is trouble, though it was wanted
    assert browser.shows("#tile-workers.trouble")
    assert "1 draining · 1 disabled" in browser.text("#tile-workers")
    assert "no report yet" in card(browser, "worker_2")


def test_an_isolated_worker_is_told_from_a_sick_one(browser: Browser, site: PagesSite) -> None:
    site.stats["workers"][0].update(isolated=True, routable=False)
    site.stats["circuit_breakers"][0].update(state="OPEN", cause="operator", reason="isolated by an operator")
    site.stats["workers"][1].update(silent=True, routable=False, limit=64)
    browser.open(site.url)
    assert browser.texts(".card .badges")[:2] == ["OPEN\nIsolated", "CLOSED\nSilent"]
    assert "1 down · 1 isolated" in browser.text("#tile-workers")
    isolated, silent = browser.texts(".card .notes")[:2]
    assert isolated == "Isolated by hand: it stays connected and gets no requests, not even if nobody else is left."
    assert silent == "Silent: it does not even answer a ping."
    assert browser.evaluate("document.querySelectorAll('.card.trouble').length") == 1
    assert "6 of 64" in card(browser, "worker_2")


def test_whose_process_was_stopped_is_missed_after_a_while(browser: Browser, site: PagesSite) -> None:
    gone = {"connected": False, "routable": False, "leaving": True, "in_flight": 0}
    site.stats["workers"][0].update(gone, connection_s=4.0, stats_age_s=4.2)
    browser.open(site.url)
    shown = card(browser, "worker_1")
    assert "CLOSED Stopped" in shown and "for 4 s" in shown
    assert browser.text("#worker-worker_1 .notes") == (
        "Its process was stopped in order. The next one is connected as soon as it is there. "
        "Its last report is 4 s old."
    )
    assert "1 stopped" in browser.text("#tile-workers")
    assert browser.driver.title == "Inference gateway"
    assert not browser.shows(".card.trouble")
    assert browser.shows("#worker-worker_1.old") and not browser.shows("#worker-worker_2.old")
    site.stats["workers"][0].update(connection_s=31.0)
    browser.wait_for(lambda: browser.driver.title == "(!) 2 of 3 up — Inference gateway", "it is missed")
    assert "CLOSED Disconnected" in card(browser, "worker_1")
    assert "1 down" in browser.text("#tile-workers")
    assert browser.shows("#worker-worker_1.trouble")


def test_a_worker_that_lags_behind_says_so(browser: Browser, site: PagesSite) -> None:
    site.stats["workers"][0].update(revision=6, stats_age_s=61.0)
    browser.open(site.url)
    notes = browser.text("#worker-worker_1 .notes")
    assert notes == "Its last report is 1 min 1 s old. Has revision 6 of the settings, not 7."
    assert not browser.shows("#worker-worker_2 .notes")


def test_links_lead_to_the_worker_and_to_its_row_in_the_admin(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    links = browser.evaluate("[...document.querySelectorAll('#worker-worker_2 a')].map((link) => link.href)")
    assert isinstance(links, list)
    assert links[0] == "http://127.0.0.1:8002/"
    assert links[1].endswith("?name=worker_2")


def test_each_card_and_the_whole_have_a_place_for_actions(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    found = browser.evaluate(
        "[...document.querySelectorAll('#workers-section [data-actions]')]"
        ".map((slot) => `${slot.dataset.kind} ${slot.dataset.actions}`)"
    )
    assert found == ["all all", "worker worker_1", "worker worker_2", "worker worker_3"]


def test_of_many_workers_the_worst_are_shown_and_all_on_demand(browser: Browser, site: PagesSite) -> None:
    many(site, 100)
    for number in (61, 90):
        open_breaker(site.stats, number)
    site.stats["circuit_breakers"][41].update(state="HALF_OPEN", successes=1)
    browser.open(site.url)
    assert browser.texts(NAMES)[:4] == ["worker_61", "worker_90", "worker_42", "worker_1"]
    assert len(browser.texts(NAMES)) == 12
    assert browser.text("#workers-note") == "the 12 worst of 100"
    browser.driver.execute_script("document.getElementById('workers-more').click()")
    assert len(browser.texts(NAMES)) == 100
    assert browser.text("#workers-more") == "Show the worst only"
    browser.driver.execute_script("document.getElementById('workers-more').click()")
    assert len(browser.texts(NAMES)) == 12
    assert browser.console_errors() == []


def test_the_order_stays_while_the_keyboard_is_in_the_cards(browser: Browser, site: PagesSite) -> None:
    many(site, 13)
    browser.open(site.url)
    browser.driver.execute_script("document.querySelector('#worker-worker_3 .who a').focus()")
    with site.change() as stats:
        open_breaker(stats, 5)
    browser.wait_for(lambda: state_of(browser, "worker_5") == "OPEN", "the breaker is OPEN")
    assert browser.texts(NAMES)[:5] == [f"worker_{number}" for number in range(1, 6)]
    assert browser.evaluate("document.activeElement.textContent") == "worker_3"
    browser.driver.execute_script("document.activeElement.blur()")
    browser.wait_for(lambda: browser.texts(NAMES)[0] == "worker_5", "the worst is the first")


def test_a_hundred_workers_stick_out_nowhere(browser: Browser, site: PagesSite) -> None:
    many(site, 100)
    open_breaker(site.stats, 7)
    browser.open(site.url)
    browser.driver.execute_script("document.getElementById('workers-more').click()")
    for width in (1280, 390):
        browser.resize(width)
        narrow = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert browser.evaluate(narrow) is True, width
