"""A repository whose files are a few words: the engine of each answers with its own word before the sample."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any, cast

import orjson

from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.support.waiting import PATIENCE_S
from tests.worker_app.echo_engine import EchoEngine
from worker_app.engine import Engine, ModelError
from worker_app.loader import Want
from worker_app.node import Node
from worker_app.repository import Repository, Source
from worker_app.samples import Sample


class FileEngine(EchoEngine):
    """What /infer answers is `["word", the values]`."""

    def __init__(self, source: Source, record: Record) -> None:
        content = source.path.read_bytes()
        super().__init__(
            values=2,
            name=source.name,
            version=source.version,
            sessions=record.sessions or 1,
            digest=hashlib.sha256(content + repr(Want(source, record).made_of[2:]).encode()).hexdigest(),
        )
        self.path = source.path
        self.record = record
        self.word = content.decode()

    def _answer(self, sample: Sample) -> bytes:
        return answer(self.word, *sample.arrays[0].reshape(-1).tolist())


class Shelf:
    """A folder of such models, and how they are loaded: one at a time, each when `open` is set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open = threading.Event()
        self.open.set()
        self.loaded: list[str] = []

    def put(self, name: str, version: str, word: str) -> None:
        """Puts a model there, as whole as a careful operator does."""
        path = self.folder / name / version / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(".new")
        new.write_text(word)
        new.rename(path)

    def make(self, source: Source, record: Record) -> Engine:
        """Loads one; a word that begins with "broken" can't be."""
        assert self.open.wait(PATIENCE_S)
        word = source.path.read_text()
        self.loaded.append(word)
        if word.startswith("broken"):
            raise ModelError(f"{source.path} can't be loaded: it is {word}")
        return cast(Engine, FileEngine(source, record))

    def node(self, **settings: Any) -> Node:
        """A node with all that is there by now."""
        node = Node("worker_1", Repository(folder=self.folder), self.make, settings=NodeSettings(**settings))
        node.load()
        return node


def answer(word: str, *values: float) -> bytes:
    """What a FileEngine answers."""
    return orjson.dumps([word, *map(float, values)])
