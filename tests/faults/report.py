"""Runs the fault matrix at full scale and writes its table into docs/faults.md, and how many faults met their bars into
README.md: `make faults`. Arguments go to pytest."""

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

SUMMARY, TABLE = ROOT / "README.md", ROOT / "docs" / "faults.md"
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


def summary(found: list[Figures], when: datetime.date, machine: str) -> str:
    """How many met their bars, and which did not."""
    others = [f"row {each.row} ({ROWS[each.row].fault}) {verdict(each)}" for each in found if verdict(each) != "met"]
    met = f"{len(found)} kinds of faults, {len(found) - len(others)} met every bar{':' if others else '.'}"
    return "\n".join([f"Measured on {when:%Y-%m-%d}, {machine}: {met}", *(f"{each}." for each in others)])


def verdict(figures: Figures) -> str:
    """met, missed (what is only aimed at on a busy machine), or FAILED."""
    if not figures.passed:
        return "**FAILED**"
    return "missed: " + "; ".join(figures.missed) if figures.missed else "met"


def put(page: Path, new: str) -> str:
    """The page's text with `new` between the markers. Raises NoMarkers."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoMarkers(f"{page.name} has no {BEGIN} … {END}: add both lines where the table is to be")
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
    today = datetime.datetime.now(datetime.UTC).date()
    shown = table(found, today, machine)
    print(shown)
    if missing := sorted(set(ROWS) - {each.row for each in found}):
        print(f"docs/faults.md and README.md stay as they are: rows {missing} were not measured", file=sys.stderr)
        return status
    try:
        texts = {TABLE: put(TABLE, shown), SUMMARY: put(SUMMARY, summary(found, today, machine))}
    except NoMarkers as error:
        print(error, file=sys.stderr)
        return 2
    for page, text in texts.items():
        page.write_text(text)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
