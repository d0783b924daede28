"""What tests of canaries share."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gateway_app.core.breaker import BreakerConfig
from tests.gateway_app.lineup import POLICY, Cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Its breakers open soon, and stay open."""
    made = Cluster()
    policy = replace(POLICY, breaker=BreakerConfig(failure_threshold=3, open_s=3600.0))
    made.snapshot = replace(made.snapshot, policy=policy)
    yield made
    await made.end()
