"""A browser for the whole run, and for each test a site with the two pages and figures of its own."""

from collections.abc import Iterator

import pytest

from tests.support.chromium import Browser, chromium
from tests.support.pages import PagesSite


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[PagesSite]:
    with PagesSite() as running:
        monkeypatch.setattr("gateway_app.figures.stats.gateway_stats", lambda: running.stats)
        yield running
