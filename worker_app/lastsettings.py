"""The settings that a worker has last served by, kept in a file: it starts with them, before a gateway comes."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Collection
from pathlib import Path

import msgspec

from inference_site.lib.nodesettings import NodeSettings

logger = logging.getLogger(__name__)


class _Kept(msgspec.Struct):
    of: str
    settings: NodeSettings


class LastSettings:
    """`of` says whose they are: what was kept for a worker of other models is not heeded."""

    def __init__(self, path: Path | None = None, of: str = "") -> None:
        """Without a path nothing is kept."""
        self._path = path
        self._of = of
        self.found = self._read()

    def keep(self, settings: NodeSettings) -> None:
        """Replaces the file as a whole; a failure is logged, for it must not stop a worker."""
        path = self._path
        if path is None or settings == self.found:
            return
        self.found = settings
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(msgspec.json.encode(_Kept(self._of, settings)))
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink()
                raise
        except OSError as error:
            logger.warning("the settings can't be kept in %s (%s): set STATE_DIR to a writable folder", path, error)

    def keep_but(self, settings: NodeSettings, failed: Collection[str]) -> None:
        """Keeps them for the next start; for the models that can't be loaded by them, those that were kept before."""
        before = self.found.models if self.found is not None else {}
        models = {name: each for name, each in settings.models.items() if name not in failed}
        models |= {name: before[name] for name in failed if name in before}
        self.keep(msgspec.structs.replace(settings, models=models))

    def _read(self) -> NodeSettings | None:
        if self._path is None:
            return None
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            logger.warning(
                "%s can't be used (%s): the models' own records hold until a gateway comes", self._path, error
            )
            return None
        return kept.settings if kept.of == self._of else None
