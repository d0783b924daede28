"""Finds and reads a model's record, and tells models apart by what they answer."""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

import msgspec

from inference_site.lib.record import ANSWERING, Record

__all__ = ["Record", "RecordError", "digest_of", "load_record", "read_record"]


class RecordError(ValueError):
    """A record that can't be read; the message names the file and what is wrong."""


def load_record(model: Path) -> Record:
    """The record of `digits.onnx` is `digits.json`, or `digits.onnx.json`; without one the defaults hold."""
    for path in (model.with_suffix(".json"), model.with_name(model.name + ".json")):
        if path.is_file():
            record = read_record(path)
            return record if record.name else msgspec.structs.replace(record, name=model.stem)
    return Record(name=model.stem)


def read_record(path: Path) -> Record:
    """The record in a file. Raises RecordError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: {error}; correct the record or remove it") from None


def digest_of(path: Path, record: Record) -> str:
    """Of the file, of the files beside it that hold its weights, and of what its record says about answers: workers
    with the same digest give the same answers. Raises OSError."""
    found = hashlib.sha256()
    for each in (path, *_weights(path)):
        with each.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    found.update(msgspec.json.encode({name: getattr(record, name) for name in ANSWERING}))
    return found.hexdigest()


def _weights(path: Path) -> list[Path]:
    """The files beside a model that it names, as one does whose weights lie outside of it."""
    beside = sorted(
        each for each in path.parent.iterdir() if each.suffix not in (".onnx", ".json", ".md") and each.is_file()
    )
    if not beside or not path.stat().st_size:
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return [each for each in beside if content.find(each.name.encode()) >= 0]
