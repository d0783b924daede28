"""Both pages on a real cluster; with SCREENSHOTS=1 their pictures in docs/ are taken anew."""

import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.axe import grave_faults
from tests.support.chromium import Browser
from tests.support.cluster import Cluster

DOCS = Path(__file__).resolve().parents[2] / "docs"
# What the page shows may last less than a look of this test's: the page itself writes down each title it had.
WATCH_TITLES = """
    window.titles = [document.title];
    new MutationObserver(() => window.titles.push(document.title))
        .observe(document.querySelector("title"), {childList: true});
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.wait_until_connected()
        yield running


def ask(cluster: Cluster, requests: int, different: int, seed: int = 7) -> None:
    """Requests with `different` inputs in a mixed order; each has to be answered."""
    chance = random.Random(seed)
    inputs = [[chance.random() for _ in range(64)] for _ in range(different)]
    with ThreadPoolExecutor(8) as pool:
        statuses = [status for status, _ in pool.map(cluster.infer, chance.choices(inputs, k=requests))]
    assert set(statuses) == {200}


def test_gateway_page(browser: Browser, cluster: Cluster) -> None:
    ask(cluster, requests=1000, different=200)
    browser.open(f"{cluster.gateway_url}/")
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    assert browser.texts(".card .who > a") == cluster.names
    assert browser.texts(".card [data-badge=state]") == ["CLOSED"] * 3
    browser.wait_for(lambda: "no report yet" not in browser.text("#workers"), "every worker has reported")
    drawn = "document.querySelectorAll('figure.chart canvas').length === 3"
    browser.wait_for(lambda: browser.evaluate(drawn), "the charts are drawn")
    polls = "performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/stats')).length"
    assert browser.evaluate(polls) == 0  # everything was pushed
    browser.wait_for(lambda: "1,000 in " in browser.text("#gateway"), "all requests are counted")
    model = browser.text("[data-model='digits/1']")
    assert "READY" in model
    assert "3 of 3 workers" in model
    assert not {"undefined", "NaN"} & set(model.replace("/", " ").split())
    assert browser.driver.title == "Inference gateway"
    assert browser.text("#verdict strong") == "All well"
    assert browser.console_errors() == []
    assert grave_faults(browser) == []


def test_worker_page(browser: Browser, cluster: Cluster) -> None:
    ask(cluster, requests=300, different=60)
    browser.open(f"{cluster.worker_urls['worker_1']}/")
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    page = browser.text("#worker")
    assert "Ready" in page
    assert "undefined" not in page
    assert "NaN" not in page
    assert browser.driver.title == "worker_1 — Inference worker"
    assert browser.console_errors() == []
    if os.environ.get("SCREENSHOTS") == "1":
        DOCS.mkdir(exist_ok=True)
        browser.screenshot(DOCS / "worker.png")


def test_a_killed_worker_shows_and_comes_back_without_reload(browser: Browser, cluster: Cluster) -> None:
    browser.open(f"{cluster.gateway_url}/")
    browser.wait_for(lambda: browser.driver.title == "Inference gateway", "all is well")
    browser.driver.execute_script(WATCH_TITLES)
    trouble = "window.titles.includes('(!) 2 of 3 up — Inference gateway')"

    cluster.kill_worker(1)
    browser.wait_for(lambda: browser.evaluate(trouble), "the title tells that a worker is down")
    browser.wait_for(lambda: browser.driver.title == "Inference gateway", "the restarted worker is back", wait_s=30.0)
    assert browser.texts(".card .who > a") == cluster.names


@pytest.mark.skipif(os.environ.get("SCREENSHOTS") != "1", reason="SCREENSHOTS=1 takes the pictures in docs/ anew")
@pytest.mark.timeout(300)
def test_pictures_of_the_gateway_page(browser: Browser, cluster: Cluster) -> None:
    """Under load for two minutes, and when a worker has just been killed."""
    done = threading.Event()

    def load() -> None:
        seed = 0
        while not done.is_set():
            seed += 1
            ask(cluster, 150, 60, seed)  # new ones
            ask(cluster, 150, 60)  # and always the same

    cluster.wait_until_connected()
    thread = threading.Thread(target=load)
    thread.start()
    try:
        browser.open(f"{cluster.gateway_url}/")
        seconds = "Points.all().length"
        browser.wait_for(lambda: browser.evaluate(f"{seconds} > 110"), "two minutes have been recorded", wait_s=200.0)
        # What is not in sight is not asked for.
        browser.driver.execute_script("document.getElementById('traces-section').scrollIntoView()")
        browser.wait_for(lambda: browser.shows("#traces > *"), "requests are explained")
        browser.driver.execute_script("scrollTo(0, 0)")
        browser.screenshot(DOCS / "dashboard-whole.png")
        # What one sees without scrolling, for the README: the figures, the cards and the first charts.
        browser.resize(1280, 1040)
        browser.driver.save_screenshot(str(DOCS / "dashboard.png"))
        browser.colours("dark")
        cluster.kill_worker(1)
        browser.wait_for(lambda: browser.shows(".card.trouble"), "the loss is shown")
        browser.driver.save_screenshot(str(DOCS / "dashboard-dark.png"))
        browser.colours("light")
        browser.resize(390, 1700)
        cluster.wait_until_connected()
        browser.wait_for(lambda: browser.text("#verdict strong") == "All well", "it is back")
        browser.driver.save_screenshot(str(DOCS / "dashboard-phone.png"))
    finally:
        done.set()
        thread.join()
