"""What tests of diagnose share."""

from collections.abc import Iterator

import pytest

from tests.support.stub_cluster import StubCluster


@pytest.fixture
def cluster() -> Iterator[StubCluster]:
    """A gateway and three workers that are well until a test says otherwise."""
    with StubCluster() as stub:
        yield stub
