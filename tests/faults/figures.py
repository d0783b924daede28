"""What a fault test has measured, for the table in docs/faults.md."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

FULL = os.environ.get("FAULTS_SCALE") == "full"


def scaled(small: float, full: float) -> float:
    """The size of a test: a small one where every change is tested, the real one with `make faults`."""
    return full if FULL else small


@dataclass
class Figures:
    """One row. What is `said` becomes its cell; an aim that is missed is shown, but fails no test: on two busy cores
    a latency says more about the machine."""

    row: int
    said: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    passed: bool = False

    def say(self, *texts: str) -> None:
        self.said += texts

    def aim(self, met: bool, text: str) -> None:
        """Says the figure; `met` is whether it is within its bar."""
        self.said.append(text)
        if not met:
            self.missed.append(text)

    def keep(self) -> None:
        """Appends it to the file that FAULTS_RESULTS names, one JSON object per line; without one, nothing is kept."""
        if name := os.environ.get("FAULTS_RESULTS"):
            with Path(name).open("a") as file:
                file.write(json.dumps(asdict(self)) + "\n")


def read(path: Path) -> list[Figures]:
    """All that was kept in a file, by row; a row that several tests measured is one."""
    found: dict[int, Figures] = {}
    for line in path.read_text().splitlines():
        figures = Figures(**json.loads(line))
        if (earlier := found.setdefault(figures.row, figures)) is not figures:
            earlier.said += figures.said
            earlier.missed += figures.missed
            earlier.passed &= figures.passed
    return [found[row] for row in sorted(found)]
