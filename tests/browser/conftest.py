"""A browser for the whole run; for each test a site with the two pages and figures of its own, or the admin."""

from collections.abc import Iterator

import pytest
from django.conf import settings
from django.core.servers.basehttp import WSGIRequestHandler
from django.test import Client
from pytest_django.live_server_helper import LiveServer

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


@pytest.fixture
def admin_url(browser: Browser, live_server: LiveServer, admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the lists of the admin are, without the last slash; the browser is logged in there."""
    # A connection that the browser keeps would outlive the server, and with it a thread that holds the database.
    monkeypatch.setattr(WSGIRequestHandler, "protocol_version", "HTTP/1.0")
    browser.open(f"{live_server.url}/livez")
    session = admin_client.cookies[settings.SESSION_COOKIE_NAME].value
    browser.driver.add_cookie({"name": settings.SESSION_COOKIE_NAME, "value": session})
    return f"{live_server.url}/admin/gateway_app"
