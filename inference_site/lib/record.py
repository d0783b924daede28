"""A model's record: what its owner says of it, in a `.json` beside the file or in the database, which comes first.

Each member left out (None) has its default, or what the tuning says.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Padding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How inputs of different lengths are made equal, so that they form batches.

    Each input that has the symbolic dimension is filled up to the smallest bucket that holds it; each output that has
    it is cut back. Beyond the largest bucket nothing is filled up.
    """

    dimension: str
    buckets: tuple[Annotated[int, Meta(ge=1)], ...]
    mask: str | None = None  # an input that says 1 for what is there and 0 for what was filled up; made if left out
    values: dict[str, float] = {}  # what an input is filled up with; 0


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Members that the server heeds; a file may hold more, for people."""

    name: str | None = None  # of a model given by its file alone
    output: str | None = None  # the output that /infer serves; else the first float one
    pad_with_zeros: bool | None = None  # whether too few values on /infer are padded; else they are refused
    padding: Padding | None = None
    cached: bool | None = None  # whether results are kept; yes
    batches: bool | None = None  # False: run one by one, whatever its shapes say
    batch_size: Annotated[int, Meta(ge=1, le=1024)] | None = None  # rows
    batch_wait_ms: Annotated[float, Meta(ge=0, le=10_000)] | None = None
    cache_entries: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    deadline_ms: Annotated[int, Meta(ge=1, le=600_000)] | None = None  # of a request that names none
    # Shapes to run before it serves, each by input and with the batch axis.
    warm_up: tuple[dict[str, tuple[Annotated[int, Meta(ge=1)], ...]], ...] | None = None
    sessions: Annotated[int, Meta(ge=1, le=64)] | None = None  # that run at the same time in one worker; 1

    def over(self, other: Record) -> Record:
        """This record where it says something, else the other one."""
        names = self.__struct_fields__
        own = {name: value for name in names if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(other, **own)


# Members that change what a model answers: part of its digest.
ANSWERING = ("output", "pad_with_zeros", "padding")
