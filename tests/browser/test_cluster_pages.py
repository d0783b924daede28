"""Both pages on a real cluster, and an operator at work: what a page says is what happens.

With SCREENSHOTS=1 the pictures in docs/ are taken anew.
"""

import itertools
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.axe import grave_faults
from tests.support.chromium import Browser
from tests.support.cluster import Cluster
from tests.support.http import request
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S

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


def ask(cluster: Cluster, requests: int, different: int, seed: int = 7) -> int:
    """Requests with `different` inputs in a mixed order. How many were sent: one that finds all workers held up by a
    busy machine is sent again."""
    chance = random.Random(seed)
    inputs = [[chance.random() for _ in range(64)] for _ in range(different)]
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(lambda values: answered(cluster, values)[0], chance.choices(inputs, k=requests)))


def answered(cluster: Cluster, values: list[float]) -> tuple[int, bool]:
    """After how many requests it was answered, and whether from a cache."""
    give_up_at = time.monotonic() + PATIENCE_S
    for tries in itertools.count(1):
        status, answer = cluster.infer(values)
        if status == 200:
            return tries, bool(answer["cached"])
        assert status == 503 and time.monotonic() < give_up_at, (status, answer)
        time.sleep(0.2)
    raise AssertionError("unreachable")


def test_gateway_page(browser: Browser, cluster: Cluster) -> None:
    sent = ask(cluster, requests=1000, different=200)
    browser.open(f"{cluster.gateway_url}/")
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    assert browser.texts(".card .who > a") == cluster.names
    browser.wait_for(lambda: browser.texts(".card [data-badge=state]") == ["CLOSED"] * 3, "all breakers are closed")
    browser.wait_for(lambda: "no report yet" not in browser.text("#workers"), "every worker has reported")
    drawn = "document.querySelectorAll('figure.chart canvas').length === 3"
    browser.wait_for(lambda: browser.evaluate(drawn), "the charts are drawn")
    assert browser.asked_for("/stats") == 0  # everything was pushed
    browser.wait_for(lambda: f"{sent:,} in " in browser.text("#gateway"), "all requests are counted")
    browser.wait_for(lambda: "3 of 3 workers" in browser.text("[data-model='digits/1']"), "all workers have it")
    model = browser.text("[data-model='digits/1']")
    assert "READY" in model
    assert not {"undefined", "NaN"} & set(model.replace("/", " ").split())
    # A worker that was held up for a moment is well again by itself.
    browser.wait_for(lambda: browser.text("#verdict strong") == "All well", "all is well")
    browser.wait_for(lambda: browser.driver.title == "Inference gateway", "the title says nothing else")
    assert browser.console_errors() == []
    assert grave_faults(browser) == []


def test_worker_page(browser: Browser, cluster: Cluster) -> None:
    ask(cluster, requests=300, different=60)
    browser.open(f"{cluster.worker_urls['worker_1']}/")
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    browser.wait_for(lambda: "Ready" in browser.text("#worker"), "the worker is ready", passing_s=0.5)
    page = browser.text("#worker")
    assert "undefined" not in page
    assert "NaN" not in page
    title = "worker_1 — Inference worker"
    browser.wait_for(lambda: browser.driver.title == title, "the title says nothing else", passing_s=0.5)
    assert browser.console_errors() == []
    if os.environ.get("SCREENSHOTS") == "1":
        DOCS.mkdir(exist_ok=True)
        browser.screenshot(DOCS / "worker.png")


def test_a_killed_worker_shows_and_comes_back_without_reload(browser: Browser, cluster: Cluster) -> None:
    browser.open(f"{cluster.gateway_url}/", clock_stands=False)
    browser.wait_for(lambda: browser.driver.title == "Inference gateway", "all is well")
    browser.driver.execute_script(WATCH_TITLES)
    trouble = "window.titles.includes('(!) 2 of 3 up — Inference gateway')"

    def shown() -> bool:
        """A machine that holds up the gateway or the page for as long as a restart takes makes them miss it."""
        if browser.evaluate(trouble):
            return True
        if is_back():
            cluster.kill_worker(1)
        return False

    def is_back() -> bool:
        found = next(each for each in cluster.stats()["workers"] if each["name"] == "worker_2")
        return bool(found["connected"] and found["routable"])

    browser.wait_for(shown, "the title tells that a worker is down")
    browser.wait_for(lambda: browser.driver.title == "Inference gateway", "the restarted worker is back")
    assert browser.texts(".card .who > a") == cluster.names


def sign_in(browser: Browser, cluster: Cluster) -> None:
    """By the way that the page offers."""
    password = cluster.password
    browser.open(f"{cluster.gateway_url}/")
    browser.driver.find_element(By.CSS_SELECTOR, "[data-actions=worker_1] > button").send_keys(Keys.ENTER)
    browser.wait_for(lambda: browser.shows("#actions-sign-in"), "the menu is open")
    browser.driver.find_element(By.ID, "actions-sign-in").send_keys(Keys.ENTER)
    browser.wait_for(lambda: browser.has("[name=username]"), "it asks who it is")
    browser.driver.find_element(By.NAME, "username").send_keys("admin")
    browser.driver.find_element(By.NAME, "password").send_keys(password)
    browser.driver.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    browser.wait_for(lambda: browser.shows("#ring-section"), "the dashboard is back")
    browser.driver.get_log("browser")  # the admin's own pages are not what is tested here


def act(browser: Browser, action: str, target: str, kind: str = "worker", comment: str = "") -> tuple[str, str]:
    """Does it, and returns the effect that was stated and what was told afterwards."""
    button = browser.driver.find_element(By.CSS_SELECTOR, f"[data-actions='{target}'][data-kind={kind}] > button")
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", button)
    browser.driver.find_element(By.CSS_SELECTOR, f"#actions-menu [data-action={action}]").send_keys(Keys.ENTER)
    confirm = "document.getElementById('action-confirm')"
    browser.wait_for(lambda: browser.evaluate(f"!{confirm}.disabled"), f"{action} can be confirmed")
    effect = browser.text("#action-effect")
    assert grave_faults(browser) == []
    browser.driver.find_element(By.ID, "action-comment").send_keys(comment)
    browser.driver.find_element(By.ID, "action-confirm").click()
    browser.wait_for(lambda: not browser.shows("#action-dialog"), f"{action} is done")
    return effect, browser.text("#action-told-text")


def worker(cluster: Cluster, name: str) -> dict[str, object]:
    found: dict[str, object] = next(each for each in cluster.stats()["workers"] if each["name"] == name)
    return found


def state_shown(browser: Browser, name: str) -> str:
    return browser.text(f"#worker-{name} [data-badge=state]")


def test_an_operator_at_work(browser: Browser, cluster: Cluster) -> None:
    inputs = [[float(number)] for number in range(30)]
    for values in inputs:
        answered(cluster, values)
    sign_in(browser, cluster)

    wait_until("a result is kept", lambda: answered(cluster, inputs[1])[1])
    effect, _ = act(browser, "flush", "all", kind="all")
    assert "result" in effect
    wait_until("results are forgotten", lambda: all(cluster.health(name)["cache_size"] == 0 for name in cluster.names))
    assert not all(answered(cluster, values)[1] for values in inputs)

    effect, told = act(browser, "trip", "worker_2", comment="to see it")
    assert "worker_2" in effect
    assert "%" in effect
    assert "worker_2" in told
    browser.wait_for(lambda: state_shown(browser, "worker_2") in ("OPEN", "HALF_OPEN"), "worker_2's breaker is open")
    browser.wait_for(
        lambda: any("by admin" in text and "to see it" in text for text in browser.texts("#events li")),
        "the log tells who did it and why",
    )
    act(browser, "reset", "worker_2")
    browser.wait_for(lambda: state_shown(browser, "worker_2") == "CLOSED", "worker_2's breaker is closed")

    act(browser, "drain", "worker_2")
    wait_until("worker_2 is draining", lambda: worker(cluster, "worker_2")["draining"])
    browser.wait_for(lambda: "Draining" in browser.text("#worker-worker_2"), "the page shows it")
    act(browser, "undrain", "worker_2")
    wait_until("worker_2 is draining no more", lambda: not worker(cluster, "worker_2")["draining"])

    act(browser, "unload", "digits", kind="model")
    wait_until("nobody serves digits", lambda: cluster.infer([1.0])[0] == 404)
    browser.wait_for(lambda: "UNLOADED" in browser.text("#models"), "the page shows it")
    act(browser, "load", "digits", kind="model")
    wait_until("digits is served", lambda: cluster.infer([1.0])[0] == 200)
    assert browser.console_errors() == []


def run_and_explain(browser: Browser, body: str) -> tuple[str, str]:
    """Which worker was said to be asked for it, and what was said to have answered."""
    box = browser.driver.find_element(By.ID, "where-input")
    box.clear()
    box.send_keys(body)
    browser.driver.find_element(By.ID, "where-run").send_keys(Keys.ENTER)
    browser.wait_for(lambda: browser.shows("#where-trace"), "the request is explained")
    return browser.text("#where-answer [data-text=now]"), browser.text("#where-trace [data-text=answered]")


def test_where_an_input_goes_is_where_it_goes(browser: Browser, cluster: Cluster) -> None:
    wait_until("digits is served", lambda: cluster.infer([1.0])[0] == 200)
    browser.open(f"{cluster.gateway_url}/")

    def goes_there() -> bool:
        """If its worker is held up, another one gets it: then the next input has to."""
        body = f'{{"input_data": [0.25,  {next(numbers)}]}}'  # the key depends on every character
        found, by = run_and_explain(browser, body)
        key = browser.text("#where-answer [data-text=key]")
        assert browser.text("#where-trace [data-text=key]") == key
        status, answer = request("POST", f"{cluster.gateway_url}/where", body.encode())
        assert (status, json.loads(answer)["key"]) == (200, key)
        parts = browser.texts("#where-trace .parts [data-text=share]")
        shares = sum(float(part.removesuffix(" %")) for part in parts)
        return by.startswith(f"{found}, in ") and shares == pytest.approx(100.0, abs=5.0)

    numbers = itertools.count(1)
    browser.wait_for(goes_there, "an input goes where it was said to go")

    def listed() -> bool:
        browser.driver.execute_script("document.getElementById('traces-section').scrollIntoView()")
        return any(browser.texts("#traces > li"))

    browser.wait_for(listed, "the request is among those explained", passing_s=0.5)
    assert browser.console_errors() == []


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
        browser.open(f"{cluster.gateway_url}/", clock_stands=False)
        for seconds in (60, 110):
            enough = f"Points.all().length > {seconds}"
            browser.wait_for(partial(browser.evaluate, enough), f"{seconds} s have been recorded")
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
