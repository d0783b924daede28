"""The charts of the last two minutes, and the sizes of batches."""

from typing import Any

from tests.support import pagefigures
from tests.support.chromium import Browser
from tests.support.pages import PagesSite

CHARTS = ("chart-traffic", "chart-latency", "chart-split")


def told(browser: Browser, chart: str) -> str:
    return str(browser.evaluate(f"document.querySelector('#{chart} .plot').getAttribute('aria-label')"))


def legend(browser: Browser, chart: str) -> list[str]:
    return browser.texts(f"#{chart} .legend li")


def inked(browser: Browser, chart: str) -> int:
    """How many dots of the canvas are not empty."""
    count: int = browser.driver.execute_script(
        """const canvas = document.querySelector(`#${arguments[0]} canvas`);
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let place = 3; place < data.length; place += 4) if (data[place]) count += 1;
        return count;""",
        chart,
    )
    return count


def open_charts(browser: Browser, site: PagesSite) -> None:
    browser.open(site.url)
    drawn = "document.querySelectorAll('figure.chart canvas').length === 3"
    browser.wait_for(lambda: browser.evaluate(drawn), "the charts are drawn")
    browser.wait_for(lambda: "7,8" in told(browser, "chart-traffic"), "the history is there")


def push(site: PagesSite, **values: Any) -> None:
    with site.change() as stats:
        stats["point"].update(values)


def test_charts_show_two_minutes_in_lines_and_words(browser: Browser, site: PagesSite) -> None:
    open_charts(browser, site)
    assert told(browser, "chart-traffic").startswith(
        "Requests/s in the last two minutes. answered: 8,423 now, 7,823 to 9,023; errors: 0 now"
    )
    assert legend(browser, "chart-traffic") == ["answered 8,423", "errors 0"]
    assert legend(browser, "chart-latency") == ["p99 12.6 ms", "p95 4.90 ms", "p50 1.84 ms"]
    assert legend(browser, "chart-split") == ["compute 3.10 ms", "queue 1.20 ms", "network 0.40 ms"]
    browser.wait_for(lambda: all(inked(browser, chart) > 1000 for chart in CHARTS), "there are lines")
    assert browser.console_errors() == []


def test_a_new_second_is_added(browser: Browser, site: PagesSite) -> None:
    open_charts(browser, site)
    push(site, t=1_700_000_001, rate=12_000.0, errors=31.0)
    browser.wait_for(lambda: legend(browser, "chart-traffic") == ["answered 12,000", "errors 31"], "it is the newest")
    push(site, t=1_700_000_200, rate=5.0, errors=0.0)  # long after: all the others have left
    browser.wait_for(lambda: "answered: 5.0 now, 5.0 to 5.0" in told(browser, "chart-traffic"), "it is alone")


def test_seconds_without_an_answer_are_nothing(browser: Browser, site: PagesSite) -> None:
    open_charts(browser, site)
    push(site, t=1_700_000_001, p50=None, p95=None, p99=None, queue=None, compute=None, network=None)
    browser.wait_for(lambda: legend(browser, "chart-latency") == ["p99 –", "p95 –", "p50 –"], "there is no latency")
    assert legend(browser, "chart-split") == ["compute –", "queue –", "network –"]
    assert browser.console_errors() == []


def test_the_cursor_is_one_for_all_charts(browser: Browser, site: PagesSite) -> None:
    open_charts(browser, site)
    browser.driver.execute_script(
        """const over = document.querySelector("#chart-traffic .u-over");
        over.scrollIntoView();
        const { left, top, height } = over.getBoundingClientRect();
        const there = { clientX: left + 1, clientY: top + height / 2, bubbles: true };
        over.dispatchEvent(new MouseEvent("mouseenter", there));
        over.dispatchEvent(new MouseEvent("mousemove", there));"""
    )
    oldest = site.history["points"][0]
    browser.wait_for(
        lambda: legend(browser, "chart-traffic")[0] == f"answered {oldest['rate']:,.0f}", "the values are the oldest"
    )
    at_it = f"p99 {oldest['p99']:.1f} ms"
    browser.wait_for(lambda: legend(browser, "chart-latency")[0] == at_it, "those of the other charts are as old")


def test_latency_can_be_logarithmic(browser: Browser, site: PagesSite) -> None:
    site.history["points"][5].update(p50=0.0)
    open_charts(browser, site)
    linear = inked(browser, "chart-latency")
    browser.driver.execute_script("document.querySelector('#chart-latency button').click()")
    assert browser.evaluate("document.querySelector('#chart-latency button').getAttribute('aria-pressed')") == "true"
    browser.wait_for(lambda: inked(browser, "chart-latency") not in (0, linear), "the lines are where they were not")
    assert browser.evaluate("document.querySelectorAll('#chart-latency canvas').length") == 1
    assert not browser.shows("#chart-traffic button")
    assert browser.console_errors() == []


def test_each_chart_is_a_table_too(browser: Browser, site: PagesSite) -> None:
    open_charts(browser, site)
    browser.driver.execute_script("document.querySelector('#chart-latency summary').click()")
    browser.wait_for(lambda: len(browser.texts("#chart-latency .points tbody tr")) == 12, "the table is open")
    assert browser.texts("#chart-latency .points thead th") == ["Time", "p99", "p95", "p50"]
    assert browser.texts("#chart-latency .points tbody tr:first-child td") == ["12.6 ms", "4.90 ms", "1.84 ms"]


def test_colours_follow_the_scheme(browser: Browser, site: PagesSite) -> None:
    open_charts(browser, site)
    pixels = "document.querySelector('#chart-traffic canvas').toDataURL()"
    light = browser.evaluate(pixels)
    browser.colours("dark")
    browser.wait_for(lambda: browser.evaluate(pixels) != light, "the chart has other colours")


def test_batches_by_size_and_by_what_released_them(browser: Browser, site: PagesSite) -> None:
    site.stats["workers"][0]["batches"] = [{"size": 1, "full": 0, "timeout": 2, "free": 40}]
    site.stats["workers"][2]["batches"] = pagefigures.batch_sizes()[:1]
    browser.open(site.url)
    assert browser.texts("#batches th") == ["1", "2", "3–4", "5–8", "9–16", "17–32"]
    assert browser.texts("#batches .number") == ["868", "302", "915", "1,505", "620", "1,038"]
    assert "88 as the engine was free, 950 full, 0 at the time limit" in browser.texts("#batches tr")[-1]
    assert browser.evaluate("[...document.getElementById('batches-of').options].map((one) => one.text)") == (
        ["all workers", "worker_1", "worker_2", "worker_3"]
    )
    browser.driver.execute_script(
        """const choice = document.getElementById("batches-of");
        choice.value = "worker_1";
        choice.dispatchEvent(new Event("change"));"""
    )
    assert browser.texts("#batches .number") == ["42"]
    with site.change() as stats:
        del stats["workers"][0], stats["circuit_breakers"][0]
    browser.wait_for(lambda: len(browser.texts("#batches th")) == 6, "all are shown once it is gone")


def test_without_a_batch_it_says_what_makes_one(browser: Browser, site: PagesSite) -> None:
    for worker in site.stats["workers"]:
        worker["batches"] = []
    browser.open(site.url)
    assert "the first request that no cache answers" in browser.text("#no-batches")
    assert browser.texts("#batches th") == []
