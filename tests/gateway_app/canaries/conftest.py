"""What tests of canaries share."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gateway_app.core.breaker import BreakerConfig
from tests.gateway_app.lineup import POLICY, Cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Its breakers open soon; no worker is silent unless a test says so, however busy the machine is."""
    made = Cluster()
    policy = replace(POLICY, breaker=BreakerConfig(failure_threshold=3), silence_s=0.0)
    made.snapshot = replace(made.snapshot, policy=policy)
    yield made
    await made.end()
