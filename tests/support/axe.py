"""axe-core in the browser: the accessibility faults of the page as it is shown."""

from importlib.resources import files
from typing import Any

from tests.support.chromium import DESKTOP, PHONE, Browser

# Whoever can't perceive or use something because of them.
GRAVE = ("serious", "critical")


def grave_faults(browser: Browser) -> list[str]:
    """One line for each serious or critical fault: the rule, what it wants, and the elements."""
    source = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    browser.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": source})  # whatever the page's policy says
    run = "axe.run({resultTypes: ['violations']}).then((found) => JSON.parse(JSON.stringify(found.violations)))"
    answer: dict[str, Any] = browser.driver.execute_cdp_cmd(
        "Runtime.evaluate", {"expression": run, "awaitPromise": True, "returnByValue": True}
    )
    assert "value" in answer["result"], answer
    return [
        f"{fault['id']}: {fault['help']}: {', '.join(str(node['target']) for node in fault['nodes'])}"
        for fault in answer["result"]["value"]
        if fault["impact"] in GRAVE
    ]


def assert_sound(browser: Browser) -> None:
    """The page as it is, at a desk and then on a phone: nothing sticks out sideways, and nobody is kept out."""
    for width in (DESKTOP, PHONE):
        browser.resize(width)
        too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert browser.evaluate(too_wide) is False, f"too wide at {width} px"
        assert grave_faults(browser) == [], f"at {width} px"
