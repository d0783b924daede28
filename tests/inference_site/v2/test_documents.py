"""What V2 says of models."""

from __future__ import annotations

from typing import Any

import msgspec

from inference_site.lib.catalog import State
from inference_site.v2 import documents
from tests.support.v2_plane import model

A1 = model("a", "1", ["FP32"])


def changed(**members: Any) -> Any:
    return msgspec.structs.replace(A1, **members)


def index(*models: Any, ready_only: bool = False) -> list[tuple[str, str, str, str]]:
    found = documents.index(models, ready_only)
    return [(each["name"], each["version"], each["state"], each["reason"]) for each in found]


def test_each_version_is_in_the_index_once():
    loading, leaving = changed(state=State.LOADING, number=0), changed(current=False)
    broken = changed(state=State.UNAVAILABLE, number=0, reason="no such operator")
    assert index(A1) == [("a", "1", "READY", "")]
    assert index(leaving, A1) == index(loading, A1) == [("a", "1", "READY", "")]
    assert index(leaving, loading) == [("a", "1", "LOADING", "")]
    assert index(leaving) == [("a", "1", "UNAVAILABLE", "unloaded")]
    # A broken file has left the one before it serving, and it is said why.
    assert index(A1, broken) == [("a", "1", "READY", "no such operator")]
    assert index(broken) == [("a", "1", "UNAVAILABLE", "no such operator")]
    both = A1, changed(version="2", state=State.LOADING)
    assert index(*both) == [("a", "1", "READY", ""), ("a", "2", "LOADING", "")]
    assert index(*both, ready_only=True) == [("a", "1", "READY", "")]


def test_the_config_of_what_does_not_batch():
    config = documents.config(changed(batches=False, max_batch_size=0, cached=False))
    assert config["max_batch_size"] == 0
    assert config["input"] == [{"name": "IN0", "data_type": "TYPE_FP32", "dims": (-1, -1)}]
    assert config["response_cache"] == {"enable": False}
