"""Which inputs may have ended workers, so that none of them can end them all."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

# An input that was in flight when a worker was lost is watched for this long; one that ended a process, refused.
WATCH_S = 60.0
REFUSE_S = 600.0
# More are not watched: the oldest are forgotten.
MAX_WATCHED = 4096


class Verdict(Enum):
    CLEAR = 0
    SUSPECT = 1  # a worker was lost while it had this input: only one such at a time per worker, run alone
    PENDING = 2  # another one was lost that had no other such; why is not known yet
    GUILTY = 3  # its process ended while it ran this input, and nothing else


@dataclass(slots=True)
class Loss:
    """A worker that was lost while it had an input."""

    worker: str
    alone: bool  # it had no other suspect
    settled: bool = False  # the process is known to have ended, and no more can be known
    proven: bool = False  # it ended while it ran this input


@dataclass(slots=True)
class Record:
    """What is known of one input."""

    digest: bytes  # of its text
    until: float = 0.0
    losses: list[Loss] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        if any(loss.proven for loss in self.losses):
            return Verdict.GUILTY
        pending = len(self.losses) > 1 and any(loss.alone and not loss.settled for loss in self.losses)
        return Verdict.PENDING if pending else Verdict.SUSPECT


class Suspects:
    """Remembers the inputs that were in flight on workers that were lost. Not safe for concurrent access.

    A lost connection alone says nothing: `ended` tells that the process behind it has ended and what it was running,
    `lives` that it has not. Keys are 64-bit hashes of texts and only find the place. Times are seconds of the clock
    passed in.
    """

    __slots__ = ("_clock", "_records")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: OrderedDict[int, Record] = OrderedDict()

    @property
    def watching(self) -> int:
        """How many inputs are watched."""
        return len(self._records)

    def verdict(self, key: int, text: bytes) -> Verdict:
        """What is to be done with an input."""
        record = self._records.get(key)
        if record is None or record.digest != _digest(text):
            return Verdict.CLEAR
        if self._clock() >= record.until:
            del self._records[key]
            return Verdict.CLEAR
        return record.verdict

    def lost(self, key: int, text: bytes, worker: str, *, alone: bool) -> None:
        """A worker was lost while it had this input; `alone`: it had no other suspect."""
        record, digest = self._records.pop(key, None), _digest(text)
        if record is None or record.digest != digest:
            record = Record(digest)
        self._records[key] = record
        record.until = self._clock() + WATCH_S
        record.losses.append(Loss(worker, alone))
        if len(self._records) > MAX_WATCHED:
            self._records.popitem(last=False)

    def ended(self, worker: str, running: int | None) -> None:
        """The process that was lost has ended; `running` is the key of the suspect that it ran then, if any."""
        for key, record in list(self._records.items()):
            for loss in [each for each in record.losses if each.worker == worker and not each.settled]:
                loss.settled = True
                if loss.alone and running == key:
                    loss.proven = True
                    record.until = self._clock() + REFUSE_S
                elif loss.alone:  # it ended, but not of this
                    record.losses.remove(loss)
            if not record.losses:
                del self._records[key]

    def lives(self, worker: str) -> None:
        """The process that was lost is still there: only the connection to it broke."""
        for key, record in list(self._records.items()):
            record.losses = [loss for loss in record.losses if loss.settled or loss.worker != worker]
            if not record.losses:
                del self._records[key]

    def answered(self, key: int) -> None:
        """An input was answered: it does no harm."""
        self._records.pop(key, None)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()
