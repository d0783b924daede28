"""Servers of the hot path, each in a thread of the test's own process."""

from collections.abc import Iterator

import pytest

from tests.support.hot_server import HotServer

# Small enough that a test can exceed it at once, and above what a socket buffers.
LIMIT_BYTES = 100_000


@pytest.fixture
def strict_server(caplog: pytest.LogCaptureFixture) -> Iterator[HotServer]:
    """With a small limit for bodies. Whatever a test does to it, nothing may be raised or logged as an error."""
    with HotServer(max_body_bytes=LIMIT_BYTES) as running:
        yield running
        running.assert_quiet(caplog)


@pytest.fixture(params=["at once", "later"])
def server(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[HotServer]:
    """Its plane answers within the call, as a worker does from its cache, or in a later turn, as a gateway does."""
    with HotServer() as running:
        running.plane.at_once = request.param == "at once"
        yield running
        running.assert_quiet(caplog)
