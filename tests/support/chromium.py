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
from selenium.common.exceptions import JavascriptException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service

from tests.support import pageclock
from tests.support.waiting import PATIENCE_S

DESKTOP = 1280
PHONE = 390

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
        self._clock = ""  # of the script that holds the page's clock, while there is one
        self._size: tuple[int, int] | None = None
        self._scheme = ""

    def open(self, url: str, width: int = DESKTOP, *, clock_stands: bool = True) -> None:
        """Starts afresh: light colours, an empty console; the page's clock stands until `pass_time`, unless told not
        to. The page's scripts have run on return."""
        self.driver.get("about:blank")
        self._emulate(width, 800)
        self.colours("light")
        self._hold_clock(clock_stands)
        self.driver.get_log("browser")
        self.driver.get(url)
        self._settle(width)

    def resize(self, width: int, height: int = 800) -> None:
        """Returns when the page has been laid out anew, and painted."""
        self._emulate(width, height)
        self._settle(width)

    def _emulate(self, width: int, height: int) -> None:
        if self._size == (width, height):
            return
        phone = width < 600
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self._size = (width, height)

    def _settle(self, width: int) -> None:
        self.wait_for(lambda: self.evaluate("innerWidth") == width, f"the window is {width} px wide")
        # What watches its own size draws itself anew before the next frame.
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def _hold_clock(self, stands: bool) -> None:
        if stands and not self._clock:
            script = {"source": pageclock.SCRIPT}
            added = self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
            self._clock = added["identifier"]
        elif self._clock and not stands:
            self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": self._clock})
            self._clock = ""

    def pass_time(self, seconds: float) -> None:
        """Moves the page's clock on: what falls due meanwhile has begun on return."""
        self.driver.execute_script("pageClock.pass(arguments[0] * 1000)", seconds)

    def asked_for(self, path: str) -> int:
        """How often the page has asked for it since it was opened."""
        return int(
            self.driver.execute_script("return pageClock.fetches.filter((each) => each === arguments[0]).length", path)
        )

    def colours(self, scheme: str) -> None:
        if self._scheme != scheme:
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            self._scheme = scheme

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

    def has(self, selector: str) -> bool:
        """Whether it can be seen, with or without a text."""
        script = "return [...document.querySelectorAll(arguments[0])].some((each) => each.checkVisibility())"
        return bool(self.driver.execute_script(script, selector))

    def evaluate(self, expression: str) -> object:
        return self.driver.execute_script(f"return ({expression})")

    def wait_for(self, condition: Callable[[], object], what: str, *, passing_s: float = 0.0) -> None:
        """Until it holds; at each look before, so much of the page's time passes."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._holds(condition):
            if time.monotonic() > deadline:
                condition()  # if it can't even be asked, the reason
                page = self.text("body")
                pytest.fail(
                    f"not within {PATIENCE_S:g} s: {what}. The page, titled {self.driver.title!r}, says:\n{page}"
                )
            if passing_s:
                self.pass_time(passing_s)
            time.sleep(0.05)

    @staticmethod
    def _holds(condition: Callable[[], object]) -> bool:
        try:
            return bool(condition())
        except (JavascriptException, StaleElementReferenceException):
            return False  # the page was left while it was asked

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
            driver.set_script_timeout(PATIENCE_S)
            yield Browser(driver)
        finally:
            driver.quit()
