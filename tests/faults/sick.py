"""manage.py for processes that are made sick while they run: the JSON file that FAULTS_CONTROL names says how.

It changes what lies below the project and not the project itself: onnxruntime's session, the wall clock, and, to fail
at random as a broken device does, what an engine gives back.
"""

import datetime
import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from datetime import datetime as Right
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLY = -77.0  # a sample that begins with this kills the process that runs it
LOOK_EVERY_S = 0.02


class Control:
    """What the file says now; 0 for what it does not say.

    A run takes `run_ms`, and `sample_ms` for each sample, or `slower` times that, and does not begin while there is
    `hold`; `fail` is the part of the samples that fail; `wall_s` is by how much the wall clock is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = -1.0
        self._values: dict[str, float] = {}

    def __getitem__(self, name: str) -> float:
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY_S:
            self._looked = now
            with suppress(OSError):  # no descriptor is left: it is as sick as before
                self._values = json.loads(self._path.read_text()) if self._path.exists() else {}
        return self._values.get(name, 0.0)


def set_the_clock_by(control: Control) -> None:
    """time.time and datetime go wrong by `wall_s`; the monotonic clock does not, as on a machine whose clock is set."""
    real_time, real_ns = time.time, time.time_ns

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, Right)

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, Right)

    class Wrong(Right, metaclass=Kind):
        __slots__ = ()  # of the size that extensions in C expect

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Right:  # type: ignore[override]
            return Right.now(tz) + datetime.timedelta(seconds=control["wall_s"])

        @classmethod
        def utcnow(cls) -> Right:  # type: ignore[override]
            return Right.utcnow() + datetime.timedelta(seconds=control["wall_s"])

    time.time = lambda: real_time() + control["wall_s"]
    time.time_ns = lambda: real_ns() + int(control["wall_s"] * 1e9)
    datetime.datetime = Wrong  # type: ignore[misc]


def slow_down(control: Control) -> None:
    """A run takes time that uses no CPU, as on a device: the workers set the capacity, not this machine's cores."""
    from onnxruntime import InferenceSession

    run = InferenceSession.run

    def slower(self: Any, names: Any, feed: dict[str, Any], options: Any = None) -> Any:
        batch = next(iter(feed.values()))
        if (batch.reshape(len(batch), -1)[:, 0] == DEADLY).any():
            os.kill(os.getpid(), signal.SIGKILL)
        while control["hold"]:
            time.sleep(LOOK_EVERY_S)
        took_ms = control["run_ms"] + len(batch) * control["sample_ms"]
        time.sleep(took_ms / 1000 * (control["slower"] or 1.0))
        return run(self, names, feed, options)

    InferenceSession.run = slower


def fail_at_random(control: Control) -> None:
    from worker_app.engine import Engine, EngineError

    run, chance = Engine.run, random.Random(1)

    def failing(self: Engine, *arguments: Any, **named: Any) -> Any:
        done = run(self, *arguments, **named)
        broken = EngineError("the device is broken")
        return done._replace(results=[broken if chance.random() < control["fail"] else each for each in done.results])

    Engine.run = failing  # type: ignore[method-assign]


def main() -> None:
    control = Control(Path(os.environ["FAULTS_CONTROL"]))
    set_the_clock_by(control)  # before anything imports the clock
    sys.path.insert(0, str(ROOT))
    if "runnode" in sys.argv[1:2]:
        slow_down(control)
        fail_at_random(control)
    from manage import main as manage

    manage()


if __name__ == "__main__":
    main()
