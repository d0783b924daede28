"""The models' table of the gateway's page."""

from tests.support.chromium import Browser
from tests.support.pages import PagesSite, breaker, node_model, served_model

NARROW = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


def state_of(browser: Browser, name: str) -> str:
    return browser.text(f"[data-worker={name}].card [data-badge=state]")


def card_of(browser: Browser, name: str) -> str:
    return browser.text(f"#worker-{name}")


def test_one_model_is_one_row_without_a_list_of_breakers(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    row = browser.text("[data-model='digits/1']")
    for part in ("digits", "version 1 · answers /infer · CPU", "READY", "3 of 3 workers", "8,423/s", "18 in flight"):
        assert part in row
    for part in ("1.84 ms", "p99 12.6 ms", "87.4 %", "6.0", "of up to 32 · 6 waiting", "< 0.01 %", "37 errors"):
        assert part in row
    assert not browser.shows("#models .several")
    assert not browser.shows("#no-models")
    assert browser.text("#worker-worker_1 .model") == "digits · CPU · rev 7"
    assert browser.console_errors() == []


def breakers_of(browser: Browser, model: str) -> list[str]:
    return [" ".join(text.split()) for text in browser.texts(f"[data-model='{model}'] .breakers li")]


def test_several_models_show_who_has_them_and_their_breakers(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    text = served_model("text", "2", default=False, cached=False, batches=False, requests=0, errors=0)
    text["workers"][1].update(state="LOADING")
    text["workers"][2].update(state="UNAVAILABLE", number=0, reason="<img src=x onerror=alert(1)> is no model")
    with site.change() as stats:
        stats["models"].append(text)
        for worker in stats["workers"]:
            worker["node"]["models"].append(node_model("text", "2", 0, 0, 0))
            stats["circuit_breakers"].append(breaker(worker, "text"))
        stats["circuit_breakers"][4].update(state="HALF_OPEN", successes=1)
    browser.wait_for(lambda: browser.texts(".served .who > a") == ["digits", "text"], "both models are shown")
    row = browser.text("[data-model='text/2']")
    for part in ("1 of 3 workers · 1 loading", "one by one", "results are not kept", "–"):
        assert part in row
    assert "worker_3: <img src=x onerror=alert(1)> is no model" in browser.text("[data-model='text/2'] .notes")
    assert breakers_of(browser, "digits/1") == ["worker_1 CLOSED", "worker_2 CLOSED", "worker_3 CLOSED"]
    assert breakers_of(browser, "text/2") == ["worker_1 CLOSED", "worker_2 HALF_OPEN", "worker_3 CLOSED"]
    # A worker's card shows the breaker that matters most, and whose it is.
    assert [state_of(browser, f"worker_{number}") for number in (1, 2, 3)] == ["CLOSED", "HALF_OPEN", "CLOSED"]
    assert "text: 1 of 2 successes to close" in card_of(browser, "worker_2")
    assert "digits and 1 other" in card_of(browser, "worker_2")
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
    assert browser.text("#worker-worker_1 .model").startswith("no model")
    assert browser.console_errors() == []


def test_many_models_stick_out_nowhere(browser: Browser, site: PagesSite) -> None:
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
    for width in (1280, 768, 320):
        browser.resize(width)
        assert browser.evaluate(NARROW) is True, width
