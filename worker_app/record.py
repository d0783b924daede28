"""Finds and reads a model's record, and tells models apart by what they answer."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import msgspec

from inference_site.lib.record import ANSWERING, Record

__all__ = ["Record", "RecordError", "digest_of", "load_record", "read_record", "state_of"]

# An entry of a tensor's external_data as protobuf has it: the key (field 1), then the value (field 2).
_LOCATION = re.compile(rb"\x0a\x08location\x12")
_LOCATION_BYTES = 11
_TEXT_BYTES = 2 + 4096  # the length of a path, and the longest path that there may be
_PIECE_BYTES = 2**20


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
    except RecursionError:
        raise RecordError(f"{path}: it is nested too deep; correct the record or remove it") from None
    except (OSError, msgspec.DecodeError, ValueError) as error:
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


def state_of(path: Path) -> list[tuple[int, ...]]:
    """What changes if any of the files that the digest is of is touched, or is another one. Raises OSError."""
    found = [each.stat() for each in (path, *_weights(path))]
    return [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found]


def _weights(path: Path) -> list[Path]:
    """The files that a model says its weights are in, beside it or in folders there."""
    # What only looks like such an entry names no file that is there.
    places = (Path(os.fsdecode(name)) for name in sorted(_names(path)) if name)
    inside = (path.parent / each for each in places if not each.is_absolute() and ".." not in each.parts)
    return [each for each in inside if _is_file(each)]


def _names(path: Path) -> set[bytes]:
    """What may be the names of such files. Read in pieces: were it mapped, to copy over it would end this process."""
    names: set[bytes] = set()
    held = b""
    with path.open("rb") as file:
        while True:
            piece = file.read(_PIECE_BYTES)
            held = held[-_LOCATION_BYTES - _TEXT_BYTES :] + piece
            whole = len(held) - _TEXT_BYTES if piece else len(held)  # what ends behind it is read with the next piece
            names |= {_text_at(held, found.end()) for found in _LOCATION.finditer(held) if found.end() <= whole}
            if not piece:
                return names


def _text_at(content: bytes, place: int) -> bytes:
    """What stands there after its length, which protobuf writes in seven bits a byte."""
    size = int.from_bytes(content[place : place + 1], "big")
    place += 1
    if size > 0x7F:
        size = (size & 0x7F) | int.from_bytes(content[place : place + 1], "big") << 7
        place += 1
    return content[place : place + size]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False
