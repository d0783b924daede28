"""What `make faults` writes into the documentation."""

import datetime
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.faults.figures import Figures, read
from tests.faults.report import BEGIN, END, SUMMARY, TABLE, NoMarkers, put, summary, table
from tests.faults.rows import ROWS

FOUND = [
    Figures(1, ["0 failed"], [], True),
    Figures(6, ["p99 9 ms → 99 ms"], ["p99 9 ms → 99 ms"], True),
    Figures(10, ["9 workers lost"], [], False),
]


def test_the_table_says_what_was_met_missed_and_failed() -> None:
    shown = table(FOUND, datetime.date(2026, 1, 2), "2 cores").splitlines()
    assert shown[0] == "Measured on 2026-01-02, 2 cores."
    assert [line.split(" | ")[0] for line in shown[4:]] == ["| 1", "| 6", "| 10"]
    assert [line.split(" | ")[-1] for line in shown[4:]] == ["met |", "missed: p99 9 ms → 99 ms |", "**FAILED** |"]


def test_the_summary_names_what_did_not_meet_its_bar() -> None:
    when = datetime.date(2026, 1, 2)
    assert summary(FOUND, when, "2 cores") == (
        "Measured on 2026-01-02, 2 cores: 3 kinds of faults, 1 met every bar:\n"
        f"row 6 ({ROWS[6].fault}) missed: p99 9 ms → 99 ms.\nrow 10 ({ROWS[10].fault}) **FAILED**."
    )
    assert summary(FOUND[:1], when, "2 cores").endswith("1 kinds of faults, 1 met every bar.")


def test_only_what_is_between_the_markers_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    once = put(page, "new")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    page.write_text(once)
    assert put(page, "newer") == once.replace("new", "newer")


@pytest.mark.parametrize("page", [SUMMARY, TABLE], ids=lambda page: page.name)
def test_both_pages_have_the_markers(page: Path) -> None:
    assert f"{BEGIN}\nnew\n{END}" in put(page, "new")


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_page_without_markers_is_refused(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(NoMarkers, match=r"page\.md has no .* add both lines"):
        put(page, "new")


def test_tests_of_one_row_are_one_row(tmp_path: Path) -> None:
    lines = [*FOUND, Figures(1, ["0 wrong"], ["0 wrong"], False)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in lines))
    assert read(path) == [Figures(1, ["0 failed", "0 wrong"], ["0 wrong"], False), *FOUND[1:]]
