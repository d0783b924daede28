"""One request's input, as the engine takes it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from worker_app.core.keys import Key, key_of
from worker_app.v2ask import TEXT, View


@dataclass(slots=True, eq=False)
class Sample:
    """One request's input. Samples of one group can run as one batch.

    `parts`, joined, are the key: of one model, samples have the same one if and only if their inputs are equal in shape
    and in each bit, and their answers are wanted in the same form. `arrays` are in the order of the model's inputs;
    with a batch axis, if the model has one, and then `rows` long. `length` is what the padded dimension has, `bucket`
    what it is to have; 0 without padding.
    """

    parts: tuple[bytes | memoryview, ...]
    rows: int
    group: Hashable
    arrays: tuple[np.ndarray, ...]
    view: View = TEXT
    length: int = 0
    bucket: int = 0
    _key: Key | None = None

    @property
    def key(self) -> Key:
        """Made when it is first asked for: a model that is not cached needs none."""
        if self._key is None:
            self._key = key_of(*self.parts)
        return self._key
