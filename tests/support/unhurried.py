"""Settings for a machine that is busy with something else, and stops any process for seconds: nothing comes of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from gateway_app.tuning import Tuning
from tests.e2e.adminsite import AdminSite
from tests.support.cluster import Cluster
from tests.support.processes import wait_until

# No worker is silent or slow, no queue too long, no request too late, and what a worker fails another one always gets.
UNHURRIED = {"request_timeout_ms": 60_000, "queue_ms": 30_000, "silence_ms": 0, "slow_factor": 0, "retry_percent": 100}


@contextmanager
def unhurried(cluster: Cluster, **more: object) -> Iterator[None]:
    """A cluster has them, and more, meanwhile, and those by default afterwards."""
    unhurry(cluster, **more)
    yield
    tune(cluster, **{name: getattr(Tuning(), name) for name in {**UNHURRIED, **more}})


def unhurry(cluster: Cluster, **more: object) -> None:
    """Gives a cluster these, and more."""
    tune(cluster, **UNHURRIED, **more)


def tune(cluster: Cluster, **values: object) -> None:
    """Saves values in a cluster's admin; returns when they are in force in its gateway and its workers."""
    site = AdminSite(cluster.gateway_url, "admin", cluster.password)
    try:
        site.tune(**values)
        revision = site.newest_revision()
    finally:
        site.close()

    def in_force() -> bool:
        workers = [cluster.health(name)["settings"]["revision"] for name in cluster.names]
        return min(cluster.stats()["gateway"]["revision"], *workers) >= revision

    wait_until(f"revision {revision} is in force everywhere", in_force)
