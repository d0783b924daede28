"""Both pages on a real cluster; with SCREENSHOTS=1 their pictures in docs/ are taken anew."""

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.chromium import Browser
from tests.support.cluster import Cluster

DOCS = Path(__file__).resolve().parents[2] / "docs"
# What the page shows may last less than a poll of this test's: the page itself writes down each title it had.
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


def ask(cluster: Cluster, requests: int, different: int) -> None:
    """Requests with `different` inputs in a mixed order; each has to be answered."""
    chance = random.Random(7)
    inputs = [[chance.random() for _ in range(64)] for _ in range(different)]
    with ThreadPoolExecutor(8) as pool:
        statuses = [status for status, _ in pool.map(cluster.infer, chance.choices(inputs, k=requests))]
    assert set(statuses) == {200}


def test_gateway_page(browser: Browser, cluster: Cluster) -> None:
    ask(cluster, requests=1000, different=200)
    browser.open(f"{cluster.gateway_url}/")
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    assert browser.texts(".worker .who > a") == cluster.names
    assert browser.texts(".worker [data-badge=state]") == ["CLOSED"] * 3
    browser.wait_for(lambda: "no report yet" not in browser.text("#workers"), "every worker has reported")
    browser.wait_for(lambda: "1,000 in all" in browser.text("#gateway"), "all requests are counted")
    model = browser.text("[data-model='digits/1']")
    assert "READY" in model
    assert "3 of 3 workers" in model
    assert not {"undefined", "NaN"} & set(model.replace("/", " ").split())
    assert browser.driver.title == "Inference gateway"
    assert browser.console_errors() == []
    if os.environ.get("SCREENSHOTS") == "1":
        DOCS.mkdir(exist_ok=True)
        browser.screenshot(DOCS / "dashboard.png")


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
    trouble = "window.titles.includes('2 of 3 up — Inference gateway')"

    def seen_after_a_kill() -> bool:
        """A restart can fit between two polls of the page: then the next kill, after a longer pause, will not."""
        cluster.wait_until_connected()
        cluster.kill_worker(1)
        time.sleep(1.5)
        return bool(browser.evaluate(trouble))

    browser.wait_for(seen_after_a_kill, "the title tells that a worker is down", wait_s=60.0)
    browser.wait_for(lambda: browser.driver.title == "Inference gateway", "the restarted worker is back", wait_s=30.0)
    assert browser.texts(".worker .who > a") == cluster.names
