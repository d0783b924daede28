"""The gateway's page in each of its states, wide and narrow, light and dark: nothing sticks out, nobody is kept out."""

from collections.abc import Callable

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.support import pagefigures
from tests.support.axe import grave_faults
from tests.support.chromium import Browser
from tests.support.pages import PagesSite, breaker, gateway_worker, open_breaker


def well(site: PagesSite) -> None:
    """As it is."""


def opened(site: PagesSite) -> None:
    open_breaker(site.stats, 2)


def half_open(site: PagesSite) -> None:
    site.stats["circuit_breakers"][1].update(state="HALF_OPEN", successes=1, since_s=2.0)


def set_aside(site: PagesSite) -> None:
    site.stats["workers"][0].update(isolated=True, routable=False)
    site.stats["circuit_breakers"][0].update(state="OPEN", cause="isolated by hand")
    site.stats["workers"][1].update(draining=True, routable=False)
    site.stats["workers"][2].update(enabled=False, routable=False, connected=False, node=None)


def disconnected(site: PagesSite) -> None:
    site.stats["workers"][0].update(connected=False, routable=False, last_error="connection refused", node=None)


def lagging(site: PagesSite) -> None:
    site.stats["workers"][0].update(revision=6, stats_age_s=7.0)
    site.stats["gateway"].update(processes_current=3, error_percent=0.004)


def stale(site: PagesSite) -> None:
    site.broken = True


def empty(site: PagesSite) -> None:
    site.stats.update(total_workers=0, workers=[], circuit_breakers=[], models=[], hottest=[], point=None)
    site.history = {"step_s": 1, "points": []}
    site.ring = {**pagefigures.ring(), "workers": [], "owners": [], "shares": {}}


def a_hundred(site: PagesSite) -> None:
    names = tuple(f"worker_{number}" for number in range(1, 101))
    site.stats["workers"] = [gateway_worker(number, 1000, 0.01, 0.01) for number in range(1, 101)]
    site.stats["circuit_breakers"] = [breaker(worker) for worker in site.stats["workers"]]
    site.stats.update(total_workers=100, point=pagefigures.point(0, names))
    site.history, site.ring = pagefigures.history(120, names), pagefigures.ring(names)
    open_breaker(site.stats, 61)


CHARTS = ["chart-traffic", "chart-latency", "chart-split", "chart-batches"]
STATES = [well, opened, half_open, set_aside, disconnected, lagging, stale, empty, a_hundred]


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
@pytest.mark.parametrize("state", STATES)
def test_each_state(
    browser: Browser, site: PagesSite, state: Callable[[PagesSite], None], width: int, scheme: str
) -> None:
    state(site)
    browser.open(site.url, width)
    browser.colours(scheme)
    if state is stale:
        browser.wait_for(lambda: browser.shows("#stale"), "the page says that its data is old")
    else:
        browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
        assert browser.console_errors() == []
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth") is True
    assert grave_faults(browser) == []


def test_the_keyboard_reaches_everything_in_order(browser: Browser, site: PagesSite) -> None:
    open_breaker(site.stats, 2)
    browser.open(site.url)
    drawn = "document.querySelectorAll('figure.chart canvas').length === 3"
    browser.wait_for(lambda: browser.evaluate(drawn), "the charts are drawn")
    reached: list[str] = []
    for _ in range(60):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        focused = browser.evaluate(
            "[document.activeElement.closest('section, li[id], figure, header, body').id,"
            " document.activeElement.checkVisibility()]"
        )
        assert isinstance(focused, list)
        assert focused[1] is True
        if focused[0] not in reached:  # after the last it begins anew
            reached.append(focused[0])
    wanted = ["verdict", "worker-worker_1", "worker-worker_2", "worker-worker_3", *CHARTS]
    assert [place for place in reached if place in wanted] == wanted


def test_a_finding_leads_the_keyboard_to_its_card(browser: Browser, site: PagesSite) -> None:
    open_breaker(site.stats, 2)
    browser.open(site.url)
    browser.driver.execute_script("document.querySelector('#verdict a').focus()")
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    browser.wait_for(lambda: browser.evaluate("document.activeElement.id") == "worker-worker_2", "it leads there")
    assert browser.evaluate("location.hash") == "#worker-worker_2"
    ActionChains(browser.driver).send_keys(Keys.TAB).perform()
    assert browser.evaluate("document.activeElement.textContent") == "worker_2"
