"""How a worker is put together: what it finds, what it loads it with, what it remembers."""

from __future__ import annotations

import os
from pathlib import Path

from inference_site.lib.record import Record
from worker_app.engine import Engine
from worker_app.lastrun import LastRun
from worker_app.lastsettings import LastSettings
from worker_app.node import Node
from worker_app.providers import device_count, device_of, plan_threads
from worker_app.repository import Repository, Source

_WARM_UP_ROWS = 32


def build_node(node_id: str, file: Path | None, folder: Path | None, last_run: Path | None = None) -> Node:
    """A node with its models loaded. Raises ModelError if there is nothing that it can serve.

    last_run: the file for what runs; the settings are kept beside it.
    """
    workers = int(os.environ.get("INFERENCE_WORKERS", "1"))  # on this machine
    device = device_of(node_id, device_count())

    def make(source: Source, record: Record) -> Engine:
        return Engine(
            source.path,
            record,
            name=source.name,
            version=source.version,
            threads=plan_threads(workers, record.sessions or 1),
            device=device,
            warm_up_rows=record.batch_size or _WARM_UP_ROWS,
        )

    kept = last_run and last_run.with_name(f"settings-{last_run.name}.json")
    last_settings = LastSettings(kept, f"{file}\n{folder}")
    node = Node(node_id, Repository(file, folder), make, last_settings=last_settings)
    node.load()
    node.watch(LastRun(last_run))  # only now: a process that does not get so far has not heard of the one before it
    return node
