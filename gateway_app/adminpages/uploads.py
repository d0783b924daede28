"""Model files on their way into the repository: kept beside the models until they are whole and looked at.

A worker sees nothing of them: they are in a folder whose name is hidden, and become a version by being renamed once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

HIDDEN = ".uploads"
FORGET_S = 24 * 3600.0  # what nobody has come back to
GONE = "This upload is not there any more: it was stored, discarded, or begun more than a day ago."


class UploadError(ValueError):
    """What cannot be stored, and why; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One file, `size_bytes` long once it is whole; `name` is the model that it is to be a version of."""

    folder: Path
    name: str
    size_bytes: int

    @property
    def token(self) -> str:
        """What it is called in addresses."""
        return self.folder.name

    @property
    def file(self) -> Path:
        """The model."""
        return self.folder / "version" / "model.onnx"

    @property
    def report(self) -> Path:
        """What the model doctor says of it, as JSON; there once it has looked."""
        return self.folder / "report.json"

    @property
    def received(self) -> int:
        """Bytes that have come."""
        return self.file.stat().st_size

    @property
    def whole(self) -> bool:
        """Whether all of it has come."""
        return self.received == self.size_bytes

    def append(self, offset: int, parts: Iterable[bytes]) -> None:
        """Writes what follows the first `offset` bytes. Raises UploadError; what fitted until then is kept."""
        with _said_in_words(self.folder), self.file.open("r+b") as stream:
            flock(stream, LOCK_EX)  # a part may be sent again while the first one of it is still being written
            received = stream.seek(0, os.SEEK_END)
            if offset != received:
                raise UploadError(f"{received} bytes have come, and these are from byte {offset} on; go on from there.")
            for part in parts:
                received += len(part)
                if received > self.size_bytes:
                    raise UploadError(f"More has come than the {self.size_bytes} bytes that were named; begin again.")
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())

    def publish(self) -> str:
        """Makes it the newest version of its model in one step, and returns that version. Raises UploadError."""
        if not self.file.exists():
            raise UploadError(GONE)
        home = self.folder.parent.parent / self.name
        with _said_in_words(home):
            home.mkdir(exist_ok=True)
            version = 1 + max(
                (int(each.name) for each in home.iterdir() if re.fullmatch(r"[1-9][0-9]{0,17}", each.name)), default=0
            )
            while (home / str(version)).exists():
                version += 1
            (self.folder / "version").rename(home / str(version))
            self.discard()
            return str(version)

    def discard(self) -> None:
        """Forgets it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def begin(repository: Path, name: str, size_bytes: int, limit_mib: int) -> Upload:
    """An empty upload. Raises UploadError for a size beyond the limit, or if the repository cannot be written."""
    if not 0 < size_bytes <= limit_mib * 2**20:
        size = f"{size_bytes / 2**20:,.1f} MiB" if size_bytes else "empty"
        raise UploadError(f"The file is {size}; choose one of up to {limit_mib:,} MiB, or raise MAX_MODEL_MIB.")
    with _said_in_words(repository):
        forget_old(repository)
        upload = Upload(repository / HIDDEN / uuid.uuid4().hex, name, size_bytes)
        upload.file.parent.mkdir(parents=True)
        upload.file.touch()
        (upload.folder / "upload.json").write_text(json.dumps({"name": name, "size_bytes": size_bytes}))
        return upload


def find(repository: Path, token: str) -> Upload | None:
    """The upload of that token, unless it has been published or forgotten."""
    folder = repository / HIDDEN / token
    if not re.fullmatch(r"[0-9a-f]{32}", token):
        return None
    try:
        told: dict[str, Any] = json.loads((folder / "upload.json").read_text())
        upload = Upload(folder, told["name"], told["size_bytes"])
        return upload if upload.file.exists() else None
    except (OSError, ValueError, KeyError):
        return None


def forget_old(repository: Path) -> None:
    """Removes uploads that were begun a day ago."""
    hidden = repository / HIDDEN
    for folder in hidden.iterdir() if hidden.is_dir() else ():
        with suppress(FileNotFoundError):  # stored or discarded meanwhile
            if folder.stat().st_mtime < time.time() - FORGET_S:
                shutil.rmtree(folder, ignore_errors=True)


class _said_in_words:
    """Turns an error of the file system at this place into an UploadError."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise UploadError(
                f"{self._place} cannot be written ({error.strerror}). Give the gateway's user room and the right to"
                " write there."
            ) from error
