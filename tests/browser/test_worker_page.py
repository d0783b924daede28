"""A worker's own page in a real browser."""

from tests.support.axe import assert_sound
from tests.support.chromium import Browser
from tests.support.pages import PagesSite


def test_shows_model_cache_batches_and_settings(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url + "worker/")
    browser.wait_for(lambda: browser.shows("#worker"), "the figures are there")
    page = browser.text("body")
    assert "pixels · float32 [batch, 64], short inputs are padded with zeros" in page
    for part in ("worker_1", "probabilities · [batch, 10]", "1,000 of 1,000", "of 256 MiB"):
        assert part in page
    for part in ("87.4 %", "6.0", "Engine free", "32 requests", "20 ms", "at once when the engine is free"):
        assert part in page
    assert browser.driver.title == "worker_1 — Inference worker"
    assert browser.console_errors() == []
    for colours in ("light", "dark"):
        browser.colours(colours)
        assert_sound(browser)


def test_says_why_it_runs_on_the_cpu(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url + "worker/")
    browser.wait_for(lambda: browser.shows("#fallback"), "the fallback is named")
    assert "Running on the CPU, not on a GPU: CUDA failed to load" in browser.text("#fallback")
    assert browser.text("[data-text=provider]") == "CPU (fallback)"
    site.health.update(provider="CUDAExecutionProvider", fallback_reason="")
    browser.wait_for(lambda: browser.text("[data-text=provider]") == "CUDA", "the provider is CUDA", passing_s=0.5)
    assert not browser.shows("#fallback")


def test_a_503_with_figures_is_data(browser: Browser, site: PagesSite) -> None:
    site.health.update(ready=False, draining=True, healthy=False)
    site.health_status = 503
    browser.open(site.url + "worker/")
    browser.wait_for(lambda: browser.shows("#worker"), "the figures are there")
    assert "Draining" in browser.text("[data-badge=state]")
    assert "Draining" in browser.text("#not-ready")
    assert not browser.shows("#stale")
    assert browser.driver.title == "Draining — worker_1 — Inference worker"


def test_an_error_is_no_data(browser: Browser, site: PagesSite) -> None:
    site.broken = True
    browser.open(site.url + "worker/")
    browser.wait_for(lambda: browser.shows("#stale"), "the page says that it has no data")
    assert "No data yet: status 500 from health" in browser.text("#stale")
    assert not browser.shows("#worker")


def test_nothing_sticks_out_sideways(browser: Browser, site: PagesSite) -> None:
    site.health["model"].update(path="/srv/models/" + "a-directory-with-a-long-name/" * 3 + "m.onnx", digest="ab" * 32)
    browser.open(site.url + "worker/")
    browser.wait_for(lambda: browser.shows("#worker"), "the figures are there")
    for width in (1280, 768, 375, 320):
        browser.resize(width)
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth") is True, width


def model_row(name: str, version: str, state: str, **more: object) -> dict[str, object]:
    return {"name": name, "version": version, "state": state, "reason": "", "current": True, "default": False, **more}


def test_one_model_that_serves_needs_no_table(browser: Browser, site: PagesSite) -> None:
    site.health["models"] = [model_row("digits", "1", "READY", default=True)]
    browser.open(site.url + "worker/")
    browser.wait_for(lambda: browser.shows("#worker"), "the figures are there")
    assert not browser.shows("#models")
    assert browser.shows("#model")


def test_several_models_are_in_a_table_with_their_states(browser: Browser, site: PagesSite) -> None:
    counted = {"total_requests": 1200, "cache_hit_rate": 0.25, "provider": "CPUExecutionProvider"}
    batches = {"total_batches": 90, "avg_batch_size": 10.0}
    site.health["models"] = [
        model_row("digits", "1", "READY", default=True, batch_processor=batches, **counted),
        model_row("digits", "2", "LOADING"),
        model_row("faces", "3", "UNAVAILABLE", reason="<b>no graph</b> was found " + "x" * 200),
        model_row("old", "1", "UNAVAILABLE", reason="unloaded"),
    ]
    browser.open(site.url + "worker/")
    browser.wait_for(lambda: browser.shows("#models"), "the table is there")
    table = browser.text("#models")
    for part in ("digits", "version 1, default", "1,200", "25.0 %", "90", "10.0", "Ready", "Loading", "Not loaded"):
        assert part in table
    assert "<b>no graph</b> was found" in table
    assert "Unloaded" in table
    for width in (1280, 320):
        browser.resize(width)
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth") is True, width
    assert browser.console_errors() == []


def test_a_worker_without_a_model_says_what_to_do(browser: Browser, site: PagesSite) -> None:
    site.health.update(model={}, models=[], provider="", fallback_reason="")
    browser.open(site.url + "worker/")
    browser.wait_for(lambda: browser.shows("#not-ready"), "the page says what is missing")
    assert "put one into the repository" in browser.text("#not-ready")
    assert not browser.shows("#model")
    assert browser.console_errors() == []
