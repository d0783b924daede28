"""How the gateway's page gets its figures: pushed, or polled for; and what it says when neither brings any."""

from tests.support.chromium import Browser
from tests.support.pages import PagesSite

# Longer than data takes to be old, and than any page waits before it asks again.
LONG_S = 60.0


def wait_until_live(browser: Browser, how: str = "live", passing_s: float = 0.0) -> None:
    browser.wait_for(lambda: browser.text("#freshness-text") == how, f"the page is {how}", passing_s=passing_s)


def hide(browser: Browser, hidden: bool) -> None:
    """Told, not really hidden: a headless browser shows every tab."""
    change = "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
    browser.driver.execute_script(change if hidden else "delete document.hidden")
    browser.driver.execute_script("document.dispatchEvent(new Event('visibilitychange'))")


def show_revision(site: PagesSite, revision: int) -> None:
    with site.change() as stats:
        stats["gateway"]["revision"] = revision


def wait_for_revision(browser: Browser, revision: int, passing_s: float = 0.0) -> None:
    shown = f"rev {revision}"
    browser.wait_for(
        lambda: browser.text("#tile-config dd:not(.sub)") == shown, f"{shown} is shown", passing_s=passing_s
    )


def test_figures_are_pushed_and_nothing_is_asked(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    wait_until_live(browser)
    show_revision(site, 8)
    wait_for_revision(browser, 8)
    assert site.pages == 1
    assert browser.asked_for("/stats") == 0
    assert browser.console_errors() == []


def test_without_a_socket_it_polls_and_has_the_history(browser: Browser, site: PagesSite) -> None:
    site.live = False
    browser.open(site.url)
    wait_until_live(browser, "live, polling")
    show_revision(site, 8)
    wait_for_revision(browser, 8, passing_s=0.5)

    def least() -> bool:
        told = browser.evaluate("document.querySelector('#chart-traffic .plot').getAttribute('aria-label')")
        return "answered: 8,423 now, 7,8" in str(told)  # its least is of the history

    browser.wait_for(least, "the history is told")
    drawn = "document.querySelector('#chart-traffic canvas') !== null"
    browser.wait_for(lambda: browser.evaluate(drawn), "it is drawn")
    assert site.pages == 0


def test_the_socket_comes_back_without_a_reload(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    browser.driver.execute_script("window.notReloaded = true")
    wait_until_live(browser)
    site.live = False
    wait_until_live(browser, "live, polling")
    show_revision(site, 8)
    wait_for_revision(browser, 8, passing_s=0.5)
    site.live = True
    wait_until_live(browser, passing_s=0.5)
    asked = browser.asked_for("/stats")
    show_revision(site, 9)
    wait_for_revision(browser, 9)
    browser.pass_time(1.5)  # when a page that still polled would ask
    assert browser.asked_for("/stats") == asked
    assert browser.evaluate("window.notReloaded") is True


def test_a_socket_that_says_nothing_is_given_up_for_polling(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    wait_until_live(browser)
    site.silent = True
    browser.wait_for(lambda: browser.shows("#stale"), "the page says that its data is old", passing_s=0.5)
    wait_until_live(browser, "live, polling", passing_s=0.5)
    assert not browser.shows("#stale")


def test_a_socket_that_never_begins_is_not_waited_for(browser: Browser, site: PagesSite) -> None:
    site.silent = True
    browser.open(site.url)
    wait_until_live(browser, "live, polling", passing_s=0.5)


def test_stale_page_says_so_and_recovers(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    wait_until_live(browser)
    site.broken = True
    told = "status 500 from stats"
    browser.wait_for(lambda: told in browser.text("#stale"), "the page says what is wrong")
    browser.pass_time(2.5)
    assert "data is 2 s old" in browser.text("#freshness-text")
    assert "The data is 2 s old" in browser.text("#stale")
    assert browser.evaluate("getComputedStyle(document.querySelector('#workers-section')).filter") == "grayscale(1)"
    assert browser.driver.title == "(!) No data — Inference gateway"
    assert "/icon-trouble.svg" in str(browser.evaluate("document.querySelector('link[rel=icon]').href"))
    site.broken = False
    browser.wait_for(
        lambda: browser.text("#freshness-text").startswith("live"), "the page is live again", passing_s=0.5
    )
    assert not browser.shows("#stale")
    assert browser.driver.title == "Inference gateway"
    wait_until_live(browser, passing_s=0.5)


def test_a_page_that_hears_nothing_says_so_by_itself(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url, clock_stands=False)
    site.silent, site.broken = True, True
    browser.wait_for(lambda: browser.shows("#stale"), "the page says that its data is old")
    site.silent, site.broken = False, False
    browser.wait_for(lambda: not browser.shows("#stale"), "the page has found the gateway again")


def test_a_gateway_that_is_gone_is_no_connection(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    wait_until_live(browser)
    browser.driver.set_network_conditions(offline=True, latency=0, throughput=0)
    try:
        site.live = False  # the socket that is open is not the network's
        told = "no connection. Trying again every second."
        browser.wait_for(lambda: told in browser.text("#stale"), "the page says that it is alone")
    finally:
        browser.driver.delete_network_conditions()
    browser.wait_for(lambda: not browser.shows("#stale"), "it has found the gateway again", passing_s=0.5)


def test_a_hidden_tab_neither_listens_nor_asks(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    wait_until_live(browser)
    hide(browser, True)
    browser.wait_for(lambda: site.pages == 0, "it has left")
    show_revision(site, 8)
    browser.pass_time(LONG_S)
    assert site.pages == 0
    assert browser.asked_for("/stats") == 0
    assert browser.text("#tile-config dd:not(.sub)") == "rev 7"
    hide(browser, False)
    wait_for_revision(browser, 8)
    assert not browser.shows("#stale")
    assert site.pages == 1


def test_a_hidden_tab_that_polled_asks_for_nothing(browser: Browser, site: PagesSite) -> None:
    site.live = False
    browser.open(site.url)
    wait_until_live(browser, "live, polling")
    hide(browser, True)
    before = browser.asked_for("/stats")
    browser.pass_time(LONG_S)
    assert browser.asked_for("/stats") == before
    show_revision(site, 8)
    hide(browser, False)
    wait_for_revision(browser, 8)
