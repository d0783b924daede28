"""The models that a worker finds on disk: one file, or a folder of them, `<name>/<version>/model.onnx`."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from inference_site.lib.record import Record
from worker_app.record import RecordError, load_record

logger = logging.getLogger(__name__)

FILE = "model.onnx"
FILE_VERSION = "1"  # of the model that is given by its file alone
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RULE = "1 to 100 of letters, digits, '.', '_', '-', the first one a letter or digit"
TAKEN = ("stats",)  # /v2/models/stats is about all models
VERSION = re.compile(r"[1-9][0-9]{0,17}")
_WEIGHTS = re.compile(r"data|weights|\.bin$|\.pb$")

# Of each file that a model may be made of: its name, time of change in ns, size, inode and the time in ns when the
# inode changed. The first time can be set by anybody, as copying tools do; the last one by nobody.
State = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """One version of a model on disk."""

    name: str
    version: str
    path: Path
    record: Record
    state: State  # equal ones: nobody has touched its files
    fault: str = ""  # why it can't be loaded


class Repository:
    """Looks for models in a file, in a folder or in both. It does no more than list folders and read records."""

    def __init__(self, file: Path | None = None, folder: Path | None = None) -> None:
        self.file = file
        self.folder = folder
        self._ignored: set[Path] = set()

    @property
    def place(self) -> str:
        """The folder; for people."""
        return str(self.folder) if self.folder is not None else "its repository"

    def look(self) -> dict[str, dict[str, Source]]:
        """Every version of every model, by name and version."""
        found: dict[str, dict[str, Source]] = {}
        for name in self._names():
            if versions := self.versions(name):
                found[name] = versions
        if self.file is not None:
            source = self._given(self.file)
            if source.name in found:
                self._ignore(self.folder_of(source.name), f"{self.file} is the model {source.name!r} already")
            found[source.name] = {FILE_VERSION: source}
        return found

    def versions(self, name: str) -> dict[str, Source]:
        """The versions of one model."""
        if self.file is not None and (source := self._given(self.file)).name == name:
            return {FILE_VERSION: source}
        found = {}
        for each in _entries(self.folder_of(name)) if self._may_be(name) else ():
            if not each.is_dir():
                continue
            if not VERSION.fullmatch(each.name):
                self._ignore(each, "a version is a whole number, such as 1")
            elif not (each / FILE).is_file():
                self._ignore(each, f"there is no {FILE} in it")
            else:
                found[each.name] = _source(name, each.name, each / FILE)
        return found

    def folder_of(self, name: str) -> Path:
        """Where the versions of a model are, or would be."""
        assert self.folder is not None
        return self.folder / name

    def where(self, name: str) -> str:
        """Where a model of this name would have to be; for people."""
        if self.folder is None:
            return f"this worker serves {self.file} alone; set MODEL_REPOSITORY to serve more"
        folder = self.folder_of(name)
        wanted = f"put it at {folder / '1' / FILE}"
        there = [each.name for each in _entries(folder)] if self._may_be(name) else []
        if not there:
            return wanted
        shown = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
        return f"nothing in {folder} ({shown}) is the folder of a version with a {FILE} in it: {wanted}"

    def _may_be(self, name: str) -> bool:
        return self.folder is not None and name not in TAKEN and NAME.fullmatch(name) is not None

    def _names(self) -> list[str]:
        names = []
        for each in _entries(self.folder):
            if not each.is_dir():
                continue
            if each.name in TAKEN:
                self._ignore(each, f"/v2/models/{each.name} means something else")
            elif NAME.fullmatch(each.name):
                names.append(each.name)
            else:
                self._ignore(each, f"a model's name is {_RULE}")
        return names

    def _given(self, path: Path) -> Source:
        """The model of the one file; its name is in its record, else the file's."""
        source = _source(path.stem, FILE_VERSION, path, given=True)
        wanted = source.record.name or path.stem
        name = _fit(wanted)
        if name != wanted:
            self._say_once(path, f"{wanted!r} is no name for a model ({_RULE}), so it is served as {name!r}")
        return Source(name, FILE_VERSION, path, source.record, source.state, source.fault)

    def _ignore(self, path: Path, reason: str) -> None:
        self._say_once(path, f"it is ignored: {reason}")

    def _say_once(self, path: Path, what: str) -> None:
        if path not in self._ignored:
            self._ignored.add(path)
            logger.warning("%r: %s", str(path), what)  # a name may hold anything, new lines too


def newest(versions: dict[str, Source]) -> str | None:
    """The highest version; None of none."""
    return max(versions, key=int, default=None)


def _fit(name: str) -> str:
    """The name, or what is nearest to it among those that a model may have."""
    if NAME.fullmatch(name) and name not in TAKEN:
        return name
    fit = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:100].rstrip("._-")
    return f"model-{fit}".rstrip("-")[:100] if not fit or fit in TAKEN else fit


def _source(name: str, version: str, path: Path, *, given: bool = False) -> Source:
    state = _state(path, given)
    try:
        return Source(name, version, path, _record(path), state)
    except RecordError as error:
        return Source(name, version, path, Record(), state, str(error))
    except Exception as error:  # whatever is wrong with one model, the others are found
        reason = f"{path}: its record can't be read: {type(error).__name__}: {str(error)[:200]}"
        return Source(name, version, path, Record(), state, reason)


def _record(path: Path) -> Record:
    """Beside the file; or beside the version's folder, for all versions of a model."""
    if path.name == FILE and not any(path.with_name(each).is_file() for each in ("model.json", f"{FILE}.json")):
        return load_record(path.parent.parent / FILE)
    return load_record(path)


def _state(path: Path, given: bool) -> State:
    """Of the file, and of those that may hold its weights: what lies beside it in its version's folder, and in folders
    there. Beside a model that is `given` by its file anything may lie: what has a name of weights that begins as the
    file's counts (`text.onnx.data`, `text_weights.bin`)."""
    found = _state_of(path, path.name)
    for each in _entries(path.parent):
        if each == path or (not _of_weights(each.name, path.stem) if given else each.suffix == ".json"):
            continue
        found += _state_of(each, each.name)
        for inside in _entries(each) if each.is_dir() else ():
            found += _state_of(inside, f"{each.name}/{inside.name}")
    return found


def _of_weights(name: str, stem: str) -> bool:
    return name.startswith((f"{stem}.", f"{stem}_")) and _WEIGHTS.search(name, len(stem)) is not None


def _state_of(path: Path, name: str) -> State:
    try:
        about = path.stat()
    except OSError:
        return ()
    return ((name, about.st_mtime_ns, about.st_size, about.st_ino, about.st_ctime_ns),)


def _entries(folder: Path | None) -> list[Path]:
    """What is in a folder, in order, hidden ones left out; nothing if it can't be read."""
    if folder is None:
        return []
    try:
        return sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        if folder.exists():
            logger.warning("%s can't be read: %s", folder, error)
        return []
