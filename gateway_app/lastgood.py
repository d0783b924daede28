"""The last good configuration, kept in a file, so that a gateway also starts while the database is away."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from django.conf import settings

from gateway_app.snapshot import Snapshot, parse

logger = logging.getLogger(__name__)


def file() -> Path:
    """Named after the database: two clusters on one machine may share a STATE_DIR, never a configuration."""
    database = settings.DATABASES["default"]
    identity = "|".join(str(database.get(key, "")) for key in ("ENGINE", "HOST", "PORT", "NAME"))
    return Path(settings.STATE_DIR) / f"config-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def save(revision: int, payload: Any) -> None:
    """Replaces the file as a whole; a failure is logged, for it must not stop a good configuration."""
    target = file()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w") as stream:
                json.dump({"revision": revision, "payload": payload}, stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink()
            raise
    except OSError as exc:
        logger.warning(
            "The configuration cannot be kept in %s (%s). Set STATE_DIR to a writable directory.", target, exc
        )


def load() -> Snapshot | None:
    """What was kept, or None; a file that cannot be used is logged and passed over."""
    kept = read()
    return None if kept is None else parse(*kept)


def read() -> tuple[int, Any] | None:
    """Revision and payload as they were saved, fit for `parse`, or None."""
    target = file()
    try:
        kept = json.loads(target.read_text())
        revision, payload = int(kept["revision"]), kept["payload"]
        parse(revision, payload)
        return revision, payload
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        logger.warning("The configuration kept in %s is not used: %s. Delete the file if this stays.", target, exc)
        return None
