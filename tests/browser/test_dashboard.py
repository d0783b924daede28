"""The gateway's page in a real browser."""

import copy

import pytest

from tests.support.chromium import Browser
from tests.support.pages import PagesSite, breaker, event, node_model, open_breaker, served_model

STATES = "[data-badge=state]"
NARROW = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


def state_of(browser: Browser, name: str) -> str:
    return browser.text(f"[data-worker={name}] {STATES}")


def test_first_paint_needs_no_poll(browser: Browser, site: PagesSite) -> None:
    site.broken = True
    browser.open(site.url)
    assert browser.texts(f".worker {STATES}") == ["CLOSED"] * 3
    assert browser.texts(".worker .who > a") == ["worker_1", "worker_2", "worker_3"]


def test_healthy_gateway(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    strip = dict(zip(browser.texts(".strip dt"), browser.texts(".strip dd:not(.sub)"), strict=True))
    assert strip == {
        "Workers up": "3 of 3",
        "Requests/s": "8,423",
        "p50 latency": "1.84 ms",
        "p95 latency": "4.90 ms",
        "p99 latency": "12.6 ms",
        "Errors": "< 0.01 %",
        "Cache hits": "87.4 %",
        "In flight": "18",
        "Retries": "4",
        "Hedges": "1,204",
        "Refused": "52",
        "Config": "rev 7",
    }
    strip_text = browser.text("#gateway")
    for part in ("within budget", "311 won", "7 too late · 1 client left"):
        assert part in strip_text
    assert not browser.shows("#events-section")
    row = browser.text("[data-worker=worker_1]")
    for part in ("0 of 5 failures to open", "412,093", "5 in flight", "33.8 %", "34.1 %", "6.0", "12 timeout", "CPU"):
        assert part in row
    assert browser.driver.title == "Inference gateway"
    assert not browser.shows(".banner")
    assert browser.console_errors() == []


def test_open_breaker_shows_without_reload_and_recovers(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    browser.driver.execute_script("window.notReloaded = true")
    healthy = copy.deepcopy(site.stats)
    open_breaker(site.stats, 2)
    browser.wait_for(lambda: state_of(browser, "worker_2") == "OPEN", "worker_2's breaker is OPEN")
    row = browser.text("[data-worker=worker_2]")
    assert "for 12 s · retry in 18 s" in row
    assert "Disconnected" in row
    assert row.count("connection to 127.0.0.1:8002 refused") == 1
    assert browser.evaluate(f"document.querySelector('[data-worker=worker_2] {STATES} use').getAttribute('href')") == (
        "#icon-bad"
    )
    assert state_of(browser, "worker_1") == state_of(browser, "worker_3") == "CLOSED"
    browser.wait_for(lambda: browser.driver.title == "2 of 3 up — Inference gateway", "the title tells of the trouble")
    assert browser.evaluate("document.getElementById('announce').textContent") == "2 of 3 up"

    site.stats["circuit_breakers"][1].update(state="HALF_OPEN", successes=1, retry_after_s=None)
    browser.wait_for(lambda: state_of(browser, "worker_2") == "HALF_OPEN", "worker_2's breaker is HALF_OPEN")
    assert "1 of 2 successes to close" in browser.text("[data-worker=worker_2]")

    site.stats = healthy
    browser.wait_for(lambda: state_of(browser, "worker_2") == "CLOSED", "worker_2's breaker is CLOSED again")
    browser.wait_for(lambda: browser.driver.title == "Inference gateway", "the title is calm again")
    assert "refused" not in browser.text("[data-worker=worker_2]")
    assert browser.evaluate("window.notReloaded") is True


def test_workers_come_go_and_are_switched_off(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    changed = copy.deepcopy(site.stats)
    changed["workers"][0].update(draining=True, routable=False)
    changed["workers"][1].update(enabled=False, routable=False, connected=False, node=None, stats_age_s=None)
    del changed["workers"][2], changed["circuit_breakers"][1:]
    site.stats = changed
    browser.wait_for(lambda: browser.texts(".worker .who > a") == ["worker_1", "worker_2"], "worker_3 is gone")
    assert browser.texts(".worker .badges") == ["CLOSED\nDraining", "Disabled"]
    assert "0 of 1" in browser.text("#tile-workers")
    assert "1 draining · 1 disabled" in browser.text("#tile-workers")
    assert "no report yet" in browser.text("[data-worker=worker_2]")


def test_an_isolated_worker_is_told_from_a_sick_one(browser: Browser, site: PagesSite) -> None:
    site.stats["workers"][0].update(isolated=True, routable=False)
    site.stats["circuit_breakers"][0].update(state="OPEN", cause="isolated by hand")
    site.stats["workers"][1].update(silent=True, routable=False, limit=64)
    browser.open(site.url)
    assert browser.texts(".worker .badges")[0] == "OPEN\nIsolated"
    assert "1 down · 1 isolated" in browser.text("#tile-workers")
    isolated, silent = browser.texts(".notes")[:2]
    assert "gets no requests. Cause: isolated by hand." in isolated
    assert silent == "Silent: it does not even answer a ping."
    assert browser.evaluate("[...document.querySelectorAll('.notes.trouble')].length") == 1
    assert "6 of 64 in flight" in browser.text("[data-worker=worker_2]")


def test_events_of_breakers_the_newest_first(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    site.stats["events"] = [
        event("worker_2", "CLOSED", "OPEN", "5 failures in a row", age_s=75.0),
        event("worker_2", "OPEN", "HALF_OPEN", "open for 30.0 s", age_s=44.9),
    ]
    browser.wait_for(lambda: browser.shows("#events-section"), "the events are shown")
    assert [" ".join(text.split()) for text in browser.texts("#events li")] == [
        "44 s ago worker_2 OPEN → HALF_OPEN open for 30.0 s",
        "1 min 15 s ago worker_2 CLOSED → OPEN 5 failures in a row",
    ]
    assert browser.evaluate("document.querySelector('#events time').dateTime") == "2026-11-23T12:00:00.000+00:00"
    assert browser.evaluate("document.querySelector('#events-section a').pathname") == ("/admin/gateway_app/event/")
    site.stats["events"] = [event("worker_1", "CLOSED", "OPEN", "<b id=hostile>", age_s=1.0)]
    browser.wait_for(lambda: len(browser.texts("#events li")) == 1, "the list is the new one")
    assert "<b id=hostile>" in browser.text("#events li")
    assert not browser.shows("#hostile")
    assert browser.console_errors() == []


def test_no_workers_says_what_to_do(browser: Browser, site: PagesSite) -> None:
    site.stats.update(total_workers=0, workers=[], circuit_breakers=[])
    browser.open(site.url)
    assert "manage.py runcluster" in browser.text("#empty")
    assert not browser.shows("#workers")
    browser.wait_for(lambda: browser.driver.title == "No workers — Inference gateway", "the title says it")


def test_config_error_and_draining(browser: Browser, site: PagesSite) -> None:
    site.stats["gateway"].update(config_error="the database does not answer", draining=True)
    browser.open(site.url)
    error = browser.text("#config-error")
    assert error == "Revision 7 stays in force, newer settings cannot be read: the database does not answer"
    assert "takes no new requests" in browser.text("#draining")
    assert browser.driver.title == "Draining, config error — Inference gateway"


def test_stale_page_says_so_and_recovers(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live")
    site.broken = True
    browser.wait_for(lambda: "data is 2 s old" in browser.text("#freshness-text"), "the page counts its age")
    assert "status 500 from stats" in browser.text("#stale")
    assert browser.evaluate("getComputedStyle(document.querySelector('.live')).opacity") == "0.55"
    assert browser.driver.title == "No data — Inference gateway"
    site.broken = False
    browser.wait_for(lambda: browser.text("#freshness-text") == "live", "the page is live again")
    assert not browser.shows("#stale")


def test_hidden_tab_does_not_poll(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    polls = "performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/stats')).length"
    browser.wait_for(lambda: browser.evaluate(f"{polls} > 1"), "it polls")
    # Told, not really hidden: a headless browser shows every tab.
    browser.driver.execute_script("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    browser.driver.execute_async_script("setTimeout(arguments[0], 300)")  # a poll may have been under way
    before = browser.evaluate(polls)
    browser.driver.execute_async_script("setTimeout(arguments[0], 3500)")
    assert browser.evaluate(polls) == before
    browser.driver.execute_script("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    browser.wait_for(lambda: browser.evaluate(polls) != before, "it polls as soon as it is seen", 0.9)
    assert not browser.shows("#stale")


@pytest.mark.parametrize("width", [320, 375, 768, 1024, 1280])
def test_nothing_sticks_out_sideways(browser: Browser, site: PagesSite, width: int) -> None:
    open_breaker(site.stats, 2)
    site.stats["workers"][0].update(name="a-worker-with-a-rather-long-name-in-rack-17", weight=2.5)
    browser.open(site.url)
    browser.resize(width)
    browser.wait_for(lambda: browser.evaluate(f"innerWidth === {width}"), "the window has its width")
    assert browser.evaluate(NARROW) is True


def test_hostile_text_stays_text(browser: Browser, site: PagesSite) -> None:
    site.stats["workers"][0].update(name="</script><b id=hostile>", last_error="<img src=x onerror=alert(1)>")
    browser.open(site.url)
    assert browser.texts(".worker .who > a")[0] == "</script><b id=hostile>"
    assert "<img src=x" in browser.texts(".notes")[0]
    assert not browser.shows("#hostile")


def test_links_lead_to_the_worker_and_to_its_row_in_the_admin(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    links = browser.evaluate("[...document.querySelectorAll('[data-worker=worker_2] a')].map((link) => link.href)")
    assert isinstance(links, list)
    assert links[0] == "http://127.0.0.1:8002/"
    assert links[1].endswith("?name=worker_2")


# --- models ---


def test_one_model_is_one_row_without_a_list_of_breakers(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    row = browser.text("[data-model='digits/1']")
    for part in ("digits", "version 1 · answers /infer · CPU", "READY", "3 of 3 workers", "8,423/s", "18 in flight"):
        assert part in row
    for part in ("1.84 ms", "p99 12.6 ms", "87.4 %", "6.0", "of up to 32 · 6 waiting", "< 0.01 %", "37 errors"):
        assert part in row
    assert not browser.shows("#models .several")
    assert not browser.shows("#no-models")
    assert browser.text("[data-worker=worker_1] .model").startswith("digits\n")
    assert browser.console_errors() == []


def breakers_of(browser: Browser, model: str) -> list[str]:
    return [" ".join(text.split()) for text in browser.texts(f"[data-model='{model}'] .breakers li")]


def test_several_models_show_who_has_them_and_their_breakers(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    text = served_model("text", "2", default=False, cached=False, batches=False, requests=0, errors=0)
    text["workers"][1].update(state="LOADING")
    text["workers"][2].update(state="UNAVAILABLE", number=0, reason="<img src=x onerror=alert(1)> is no model")
    site.stats["models"].append(text)
    for worker in site.stats["workers"]:
        worker["node"]["models"].append(node_model("text", "2", 0, 0, 0))
        site.stats["circuit_breakers"].append(breaker(worker, "text"))
    site.stats["circuit_breakers"][4].update(state="HALF_OPEN", successes=1)
    browser.wait_for(lambda: browser.texts(".served .who > a") == ["digits", "text"], "both models are shown")
    row = browser.text("[data-model='text/2']")
    for part in ("1 of 3 workers · 1 loading", "one by one", "results are not kept", "–"):
        assert part in row
    assert "worker_3: <img src=x onerror=alert(1)> is no model" in browser.text("[data-model='text/2'] .notes")
    assert breakers_of(browser, "digits/1") == ["worker_1 CLOSED", "worker_2 CLOSED", "worker_3 CLOSED"]
    assert breakers_of(browser, "text/2") == ["worker_1 CLOSED", "worker_2 HALF_OPEN", "worker_3 CLOSED"]
    # A worker's row shows the breaker that matters most, and whose it is.
    assert [state_of(browser, f"worker_{number}") for number in (1, 2, 3)] == ["CLOSED", "HALF_OPEN", "CLOSED"]
    assert "text: 1 of 2 successes to close" in browser.text("[data-worker=worker_2]")
    assert "digits and 1 other" in browser.text("[data-worker=worker_2]")
    link = browser.evaluate("document.querySelector('[data-model=\"text/2\"] a').href")
    assert str(link).endswith("/admin/gateway_app/modelrecord/?name=text")
    del site.stats["models"][0]
    browser.wait_for(lambda: browser.texts(".served .who > a") == ["text"], "the other one is gone")
    assert browser.console_errors() == []


def test_a_model_that_was_unloaded_is_told_from_a_broken_one(browser: Browser, site: PagesSite) -> None:
    nothing = {"requests": 0, "errors": 0, "requests_per_s": 0.0, "p50_ms": None, "p99_ms": None, "default": False}
    off = {"name": "worker_1", "state": "UNAVAILABLE", "reason": "unloaded", "number": 0}
    site.stats["models"] += [
        served_model("off", "", state="UNAVAILABLE", reason="unloaded", workers=[off], **nothing),
        served_model("sick", "1", state="UNAVAILABLE", reason="nobody has it", workers=[], **nothing),
    ]
    browser.open(site.url)
    assert browser.texts(".served .state .badge") == ["READY", "UNLOADED", "UNAVAILABLE"]
    assert browser.texts(".served .notes") == ["", "", "nobody has it"]
    assert browser.text("[data-model='off/'] .who .sub") == "CPU"
    assert "0 of 3 workers" in browser.text("[data-model='off/']")
    assert browser.console_errors() == []


def test_versions_have_a_row_and_breakers_each(browser: Browser, site: PagesSite) -> None:
    site.stats["models"].append(served_model("digits", "2", default=False))
    site.stats["circuit_breakers"] = [
        breaker(worker, f"digits/{number}") for number in (1, 2) for worker in site.stats["workers"]
    ]
    site.stats["circuit_breakers"][5].update(state="OPEN")
    browser.open(site.url)
    assert breakers_of(browser, "digits/1")[2] == "worker_3 CLOSED"
    assert breakers_of(browser, "digits/2")[2] == "worker_3 OPEN"
    assert state_of(browser, "worker_3") == "OPEN"


def test_no_models_says_what_to_do(browser: Browser, site: PagesSite) -> None:
    site.stats.update(models=[], circuit_breakers=[])
    for worker in site.stats["workers"]:
        worker["node"].update(models=[], model="")
    browser.open(site.url)
    assert "NAME/1/model.onnx" in browser.text("#no-models")
    assert browser.evaluate("document.querySelector('#no-models a').pathname") == (
        "/admin/gateway_app/modelrecord/upload/"
    )
    assert not browser.shows("#models")
    assert browser.text("[data-worker=worker_1] .model").startswith("none")
    assert browser.console_errors() == []


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_many_models_stick_out_nowhere(browser: Browser, site: PagesSite, width: int) -> None:
    site.stats["models"] += [
        served_model(f"a-model-with-a-rather-long-name-{number}", state="UNAVAILABLE", reason="x" * 200)
        for number in range(3)
    ]
    site.stats["circuit_breakers"] += [
        breaker(worker, f"a-model-with-a-rather-long-name-{number}")
        for number in range(3)
        for worker in site.stats["workers"]
    ]
    browser.open(site.url)
    browser.resize(width)
    browser.wait_for(lambda: browser.evaluate(f"innerWidth === {width}"), "the window has its width")
    assert browser.evaluate(NARROW) is True
