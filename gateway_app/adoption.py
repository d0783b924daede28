"""The only model of the workers becomes the setting: what a plain /infer asks stays so when further models come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from django.db import close_old_connections

from gateway_app.models import Tuning, recorded

logger = logging.getLogger(__name__)

NOTE = "the only model"
# A worker that is away may have another one: so long is waited for it.
ABSENT_S = 10.0
AGAIN_S = 30.0


def record_default(name: str) -> None:
    """Writes this model as the one of a plain /infer, unless an operator has named one. For a thread.

    Raises ValidationError and database errors.
    """
    try:
        close_old_connections()
        with recorded(note=NOTE):
            tuning = Tuning.objects.get_or_create(pk=Tuning.ONLY)[0]
            if not tuning.default_model:
                tuning.default_model = name
                tuning.full_clean()
                tuning.save()
    finally:
        close_old_connections()


class Adoption:
    """Has the catalog's `only` recorded, once all workers have been heard. `look` is to be called about once a second,
    each time in a task of its own: it may wait for the database."""

    def __init__(self, clock: Callable[[], float], record: Callable[[str], None] = record_default) -> None:
        self._clock = clock
        self._record = record
        self._name = ""
        self._latest = 0.0  # when nobody is waited for any more
        self._next = 0.0

    async def look(self, name: str, all_heard: bool) -> None:
        """`name` is "" if there is nothing to record."""
        now = self._clock()
        if name != self._name:
            self._name, self._latest, self._next = name, now + ABSENT_S, now
        if not name or now < self._next or not (all_heard or now >= self._latest):
            return
        self._next = now + AGAIN_S
        try:
            await asyncio.to_thread(self._record, name)
        except Exception as error:  # in this process it is the default all the same
            logger.warning("%r, the only model, could not be recorded as the one of /infer: %s", name, error)
