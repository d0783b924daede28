"""A process that follows the configuration."""

from contextlib import asynccontextmanager

from gateway_app.config import ConfigWatcher, Snapshot
from gateway_app.models import Tuning


@asynccontextmanager
async def watching(**options):
    """A started watcher and the list of all snapshots it has given."""
    given: list[Snapshot] = []
    watcher = ConfigWatcher(given.append, **{"poll_s": 0.05, **options})
    await watcher.start()
    try:
        yield watcher, given
    finally:
        await watcher.stop()


def save_tuning(**values):
    """As the admin does."""
    tuning = Tuning.objects.get_or_create(pk=1)[0]
    for name, value in values.items():
        setattr(tuning, name, value)
    tuning.save()
