"""Which model a file is: the name that it is served under, and what its owner has said of it."""

from __future__ import annotations

from pathlib import Path

from inference_site.lib.record import Record
from worker_app.record import load_record

FILE = "model.onnx"


def name_of(path: Path, record: Record) -> str:
    """The folder's of `<name>/<version>/model.onnx`; else the record's, or the file's without its ending."""
    version = path.absolute().parent
    if path.name == FILE and version.name.isdigit():
        return version.parent.name
    return record.name or path.stem


def record_of(path: Path) -> Record:
    """Its own record, or in a repository that of all its versions. Raises worker_app.record.RecordError."""
    version = path.absolute().parent
    if path.name == FILE and version.name.isdigit() and not path.with_suffix(".json").is_file():
        return load_record(version.parent / FILE)
    return load_record(path)
