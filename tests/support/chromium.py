"""Debian's Chromium, headless, driven by its own chromedriver: nothing is downloaded."""

import base64
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.support.waiting import PATIENCE_S

# Without the background ones Chromium looks up its maker's hosts at every start.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """One tab. Waits for conditions, never for a fixed time."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Starts afresh: the desktop's width, light colours, an empty console."""
        self.driver.get("about:blank")
        self.resize(1280)
        self.colours("light")
        self.driver.get_log("browser")
        self.driver.get(url)

    def resize(self, width: int, height: int = 800) -> None:
        phone = width < 600
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def colours(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def text(self, selector: str) -> str:
        found = self.texts(selector)
        assert len(found) == 1, f"{len(found)} elements match {selector!r}, one was expected"
        return found[0]

    def texts(self, selector: str) -> list[str]:
        """What each matching element shows, "" for a hidden one; in one step, as the page may change between two."""
        script = """return [...document.querySelectorAll(arguments[0])].map(
            (element) => element.checkVisibility() ? (element.innerText ?? element.textContent).trim() : "")"""
        found: list[str] = self.driver.execute_script(script, selector)
        return found

    def shows(self, selector: str) -> bool:
        return any(self.texts(selector))

    def evaluate(self, expression: str) -> object:
        return self.driver.execute_script(f"return ({expression})")

    def wait_for(self, condition: Callable[[], object], what: str, wait_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + wait_s
        while not condition():
            if time.monotonic() > deadline:
                page = self.text("body")
                pytest.fail(f"not within {wait_s:g} s: {what}. The page, titled {self.driver.title!r}, says:\n{page}")
            time.sleep(0.05)

    def console_errors(self) -> list[str]:
        """What a person would see in red or yellow in the console, since `open`."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path: Path) -> None:
        """The whole page, also what lies below the window's edge."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(shot["data"]))


def _find(program: str) -> str:
    path = shutil.which(program)
    if path:
        return path
    message = f"{program} is not on the PATH. Install it: apt-get install chromium chromium-driver"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A started browser; skips the test where Chromium is missing, fails it where REQUIRE_SERVICES=1 asks for it."""
    options = webdriver.ChromeOptions()
    options.binary_location = _find("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(_find("chromedriver"))
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield Browser(driver)
        finally:
            driver.quit()
