"""A server of V2, in a thread of the test's own process, in front of models that give their inputs back."""

from collections.abc import Iterator

import pytest

from tests.support.v2_server import V2Server


@pytest.fixture(params=["at once", "later"])
def v2(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[V2Server]:
    """Its plane answers within the call, or in a later turn of the loop."""
    with V2Server() as running:
        running.v2.later = request.param == "later"
        yield running
        running.assert_quiet(caplog)


@pytest.fixture
def small_v2(caplog: pytest.LogCaptureFixture) -> Iterator[V2Server]:
    """Takes bodies of a megabyte, and two of them at once."""
    with V2Server(2**20, 2 * 2**20) as running:
        yield running
        running.assert_quiet(caplog)
