"""Runs the fault matrix at full scale and writes its table into README.md: `make faults`. Arguments go to pytest."""

import datetime
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.faults.figures import Figures, read
from tests.faults.rows import ROWS

README = ROOT / "README.md"
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"


class NoMarkers(Exception):
    """The text has no place for the table."""


def table(found: list[Figures], when: datetime.date, machine: str) -> str:
    """Every row that was measured, as Markdown."""
    lines = [
        f"Measured on {when:%Y-%m-%d}, {machine}.",
        "",
        "| # | fault | bar | measured | |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.row} | {ROWS[each.row].fault} | {ROWS[each.row].bar} | {'; '.join(each.said)} | {verdict(each)} |"
        for each in found
    ]
    return "\n".join(lines)


def verdict(figures: Figures) -> str:
    """met, missed (what is only aimed at on a busy machine), or FAILED."""
    if not figures.passed:
        return "**FAILED**"
    return "missed: " + "; ".join(figures.missed) if figures.missed else "met"


def put(text: str, new: str) -> str:
    """The text with `new` between the markers. Raises NoMarkers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoMarkers(f"README.md has no {BEGIN} … {END}: add both lines where the table is to be")
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def main(arguments: list[str]) -> int:
    """pytest's exit status, or 2 when the table could not be written."""
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory) / "rows.jsonl"
        results.touch()
        env = {**os.environ, "FAULTS_SCALE": "full", "FAULTS_RESULTS": str(results)}
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:xdist", "tests/faults", *arguments]
        status = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
        found = read(results)
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    shown = table(found, datetime.datetime.now(datetime.UTC).date(), machine)
    print(shown)
    if missing := sorted(set(ROWS) - {each.row for each in found}):
        print(f"README.md stays as it is: rows {missing} were not measured", file=sys.stderr)
        return status
    try:
        README.write_text(put(README.read_text(), shown))
    except NoMarkers as error:
        print(error, file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
