"""What an operator may tune on a worker, as it travels from the gateway's database to the worker."""

from __future__ import annotations

import msgspec

from inference_site.lib.catalog import ModelSettings


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One consistent set of worker settings; `revision` is the configuration revision it came from."""

    revision: int = 0
    cache_entries: int = 1000
    cache_bytes: int = 256 * 1024 * 1024
    batch_size: int = 32
    batch_wait_ms: float = 20.0
    batch_eager: bool = True
    queue_ms: float = 2000.0  # a request that would wait longer than this is refused
    default_model: str = ""  # of a plain /infer; empty: the one of MODEL_PATH, or the only one
    models: dict[str, ModelSettings] = {}  # by name
