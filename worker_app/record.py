"""A model's record: what its owner says of it, in the `.json` beside the `.onnx` file."""

from __future__ import annotations

from pathlib import Path

import msgspec


class RecordError(ValueError):
    """A record that can't be read; the message names the file and what is wrong."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Members that the server heeds; a record may hold more, for people."""

    name: str = ""
    output: str | None = None  # the output that /infer serves; None: the first float one
    pad_with_zeros: bool = False  # whether too few values are padded; otherwise they are refused


def load_record(model: Path) -> Record:
    """The record of `digits.onnx` is `digits.json`, or `digits.onnx.json`; without one the defaults hold."""
    for path in (model.with_suffix(".json"), model.with_name(model.name + ".json")):
        if path.is_file():
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Record)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise RecordError(f"{path}: {error}; correct the record or remove it") from None
            return record if record.name else msgspec.structs.replace(record, name=model.stem)
    return Record(name=model.stem)
