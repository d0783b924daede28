"""What is repeated is not written over and over, and nothing else is held back."""

import logging
from typing import Any

import pytest

from inference_site.logs import BURST, MAX_SORTS, PER_S, Repeats


class Log:
    """A logger whose records pass the filter, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lines: list[str] = []
        handler = logging.Handler()
        handler.addFilter(Repeats(lambda: self.now))
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        self._logger = logging.Logger("worker_app.engine")
        self._logger.addHandler(handler)

    def say(self, message: object, *values: Any, level: int = logging.WARNING) -> None:
        self._logger.log(level, message, *values)


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_thousand_of_one_sort_are_a_few_lines(log: Log) -> None:
    for number in range(1000):
        log.say("%s failed on an input: %s", "m.onnx", number)
    assert log.lines == [f"m.onnx failed on an input: {number}" for number in range(BURST)]


def test_later_one_is_written_again_and_says_how_many_were_not(log: Log) -> None:
    for number in range(BURST + 7):
        log.say("%s failed: %s", "m.onnx", number)
    log.now += 1 / PER_S
    log.say("%s failed: %s", "m.onnx", "100 %")
    log.say("%s failed: %s", "m.onnx", "last")
    assert log.lines[BURST:] == ["m.onnx failed: 100 % (7 more like it were not written)"]


def test_what_comes_seldom_is_all_written(log: Log) -> None:
    for _ in range(10 * BURST):
        log.say("%s failed", "m.onnx")
        log.now += 1 / PER_S
    assert log.lines == ["m.onnx failed"] * (10 * BURST)


def test_each_thing_is_a_sort_of_its_own(log: Log) -> None:
    """A hundred workers that are lost at once are a hundred lines."""
    for worker in range(100):
        log.say("%s at %s: %s", f"worker_{worker}", "127.0.0.1", "the connection was lost")
    assert len(log.lines) == 100


def test_what_is_no_warning_is_never_held_back(log: Log) -> None:
    for _ in range(1000):
        log.say("is connected", level=logging.INFO)
    assert len(log.lines) == 1000


def test_whatever_may_be_logged(log: Log) -> None:
    log.say(ValueError("an exception"))
    log.say("%(name)s failed", {"name": "m.onnx"})
    log.say(["a list"])
    log.say("100 %")
    assert log.lines == ["an exception", "m.onnx failed", "['a list']", "100 %"]


def test_no_more_is_remembered_than_fits(log: Log) -> None:
    for number in range(3 * MAX_SORTS):
        log.say("%s failed", number)
    for number in range(3 * MAX_SORTS - 5, 3 * MAX_SORTS):
        log.say("%s failed", number)
    assert len(log.lines) == 3 * MAX_SORTS + 5
