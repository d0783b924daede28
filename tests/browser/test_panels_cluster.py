"""An operator at work on a real cluster: what the page says that an action does is what happens."""

import json
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By

from tests.support.axe import grave_faults
from tests.support.chromium import Browser
from tests.support.cluster import Cluster
from tests.support.http import request
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.wait_until_connected()
        yield running


def sign_in(browser: Browser, cluster: Cluster) -> None:
    """By the way that the page offers."""
    password = cluster.password
    browser.open(f"{cluster.gateway_url}/")
    browser.driver.find_element(By.CSS_SELECTOR, "[data-actions=worker_1] > button").click()
    browser.wait_for(lambda: browser.shows("#actions-sign-in"), "the menu is open")
    browser.driver.find_element(By.ID, "actions-sign-in").click()
    browser.driver.find_element(By.NAME, "username").send_keys("admin")
    browser.driver.find_element(By.NAME, "password").send_keys(password)
    browser.driver.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    browser.wait_for(lambda: browser.shows("#ring-section"), "the dashboard is back")
    browser.driver.get_log("browser")  # the admin's own pages are not what is tested here


def act(browser: Browser, action: str, target: str, kind: str = "worker", comment: str = "") -> tuple[str, str]:
    """Does it, and returns the effect that was stated and what was told afterwards."""
    button = browser.driver.find_element(By.CSS_SELECTOR, f"[data-actions='{target}'][data-kind={kind}] > button")
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", button)
    browser.driver.find_element(By.CSS_SELECTOR, f"#actions-menu [data-action={action}]").click()
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
    for number in range(30):
        assert cluster.infer([float(number)])[0] == 200
    sign_in(browser, cluster)

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

    assert cluster.infer([1.0])[1]["cached"] is True
    effect, _ = act(browser, "flush", "all", kind="all")
    assert "result" in effect
    wait_until("results are forgotten", lambda: all(cluster.health(name)["cache_size"] == 0 for name in cluster.names))
    assert cluster.infer([1.0])[1]["cached"] is False

    act(browser, "unload", "digits", kind="model")
    wait_until("nobody serves digits", lambda: cluster.infer([1.0])[0] == 404)
    browser.wait_for(lambda: "UNLOADED" in browser.text("#models"), "the page shows it")
    act(browser, "load", "digits", kind="model")
    wait_until("digits is served", lambda: cluster.infer([1.0])[0] == 200)
    assert browser.console_errors() == []


def test_where_an_input_goes_is_where_it_goes(browser: Browser, cluster: Cluster) -> None:
    browser.open(f"{cluster.gateway_url}/")
    body = '{"input_data": [0.25,  0.5]}'  # the key depends on every character
    box = browser.driver.find_element(By.ID, "where-input")
    box.clear()
    box.send_keys(body)
    browser.driver.find_element(By.ID, "where-run").click()
    browser.wait_for(lambda: browser.shows("#where-trace"), "the request is explained")
    key = browser.text("#where-answer [data-text=key]")
    assert browser.text("#where-trace [data-text=key]") == key
    found = browser.text("#where-answer [data-text=now]")
    assert browser.text("#where-trace [data-text=answered]").startswith(f"{found}, in ")
    parts = browser.texts("#where-trace .parts [data-text=share]")
    assert sum(float(part.removesuffix(" %")) for part in parts) == pytest.approx(100.0, abs=5.0)
    status, answer = request("POST", f"{cluster.gateway_url}/where", body.encode())
    assert (status, json.loads(answer)["key"]) == (200, key)
    browser.driver.execute_script("document.getElementById('traces-section').scrollIntoView()")
    browser.wait_for(lambda: any(browser.texts("#traces > li")), "the request is among those explained")
    assert browser.console_errors() == []
