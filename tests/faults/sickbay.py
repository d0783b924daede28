"""A fleet whose processes can be made sick while they run, of a capacity that is known."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gateway_app.tuning import Tuning
from tests.faults.figures import FULL
from tests.faults.sick import DEADLY
from tests.support.fleet import Fleet, write_whole
from tests.support.processes import wait_until
from tests.support.unhurried import UNHURRIED
from tests.support.waiting import PATIENCE_S

# As on a device, a larger batch costs little more.
RUN_MS, SAMPLE_MS, BATCH = 80.0, 2.0, 32
CAPACITY = 3 * 1000 * BATCH / (RUN_MS + BATCH * SAMPLE_MS)  # requests per second of three workers
HALF = CAPACITY / 2
# What the tests load it with: on a machine that does much else, a fraction of what would keep it busy.
USUAL = HALF if FULL else CAPACITY / 6
OPEN_S = 2.0  # a breaker that is open for 30 s would make the tests long
# But where a test is about time; at full scale all is as by default.
TUNING = {
    **{name: getattr(Tuning(), name) for name in Tuning.PAYLOAD if name != "default_model"},
    "open_seconds": OPEN_S,
    **({} if FULL else UNHURRIED),
}
SICK = (sys.executable, str(Path(__file__).with_name("sick.py")))
N_IN = 8


class Sickbay(Fleet):
    """A fleet whose processes can be made sick while they run."""

    def __init__(self, directory: Path, model: Path, **options: object) -> None:
        self._directory = directory
        super().__init__(directory, model, program=SICK, env_of=self._control, **options)  # type: ignore[arg-type]
        self.healthy()

    @contextmanager
    def tuned(self, **values: object) -> Iterator[None]:
        """With these values in place of those of TUNING."""
        self.tune(**values)
        try:
            yield
        finally:
            self.tune(**{name: TUNING[name] for name in values})

    @contextmanager
    def held(self, *names: str) -> Iterator[None]:
        """No run of these workers begins meanwhile, of all if none is named: what they are sent gathers there."""
        for name in names or self.names:
            self.sicken(name, hold=1)
        try:
            yield
        finally:
            for name in names or self.names:
                self.sicken(name)

    @property
    def gateway_address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.gateway_url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def _control(self, name: str) -> Mapping[str, str]:
        return {"FAULTS_CONTROL": str(self._directory / f"{name}.json")}

    def sicken(self, name: str, **values: float) -> None:
        """See sick.Control; in force within 20 ms."""
        write_whole(self._directory / f"{name}.json", {"run_ms": RUN_MS, "sample_ms": SAMPLE_MS, **values})

    def healthy(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        for name in (*self.names, "gateway"):
            self.sicken(name)

    def heal(self) -> None:
        """Whatever an earlier test has done: every process runs, is connected and trusted, and nothing waits."""
        self.healthy()
        for name in (*self.names, "gateway"):
            if self.alive(name):
                os.kill(self.pid(name), signal.SIGCONT)
            else:
                self.start(name)
        self.wait_until_connected()
        for name in self.names:
            if self.breaker(name)["state"] == "OPEN":  # a new process is probed at once
                self.kill(name)
                self.start(name)
        wait_until("every breaker is closed", self._trusted)
        wait_until("nothing is in flight", lambda: self.stats()["gateway"]["in_flight"] == 0)

    def opens(self, name: str) -> int:
        """How often its breaker has opened so far. Unlike its state this is not over again when one looks."""
        return int(self.breaker(name)["opens"])

    def wait_until_opened(self, name: str, before: int) -> None:
        """Until its breaker has opened more often than `before`."""
        wait_until(f"the breaker of {name} opens", lambda: self.opens(name) > before)

    def wait_until_closed(self, name: str) -> None:
        """Until its breaker is."""
        wait_until(f"the breaker of {name} is closed", lambda: self.breaker(name)["state"] == "CLOSED")

    def all_opens(self) -> dict[str, int]:
        """Of every worker, how often its breaker has opened so far."""
        return {each["name"]: each["opens"] for each in self.stats()["circuit_breakers"]}

    def _trusted(self) -> bool:
        for _ in range(10):
            self.infer([time.monotonic() % 1000 / 1000] * N_IN)
        return all(each["state"] == "CLOSED" for each in self.stats()["circuit_breakers"])


@contextmanager
def connected(fleet: Sickbay, count: int) -> Iterator[list[socket.socket]]:
    """So many connections to its gateway."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(fleet.gateway_address, timeout=PATIENCE_S))
            for _ in range(count)
        ]


def deadly() -> list[float]:
    """An input that kills the worker that runs it, never the same twice."""
    return [DEADLY, *([time.monotonic() % 1000] * (N_IN - 1))]
