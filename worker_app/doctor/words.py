"""A chart as text for people: a line for each finding, the table of sizes, what is proposed."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from worker_app.doctor.report import Chart

MARKS = {True: "✓", False: "✗", None: "–"}


def verdict(chart: Chart) -> str:
    faults = sum(finding.ok is False for finding in chart.findings)
    if not chart.runs:
        return f"{chart.name} can't be served"
    if faults:
        return f"{chart.name} can be served, with {faults} fault{'s' * (faults > 1)} to know of"
    return f"{chart.name} can be served"


def lines(chart: Chart) -> Iterator[tuple[bool | None, str]]:
    """(how it is, text); text of several lines is one paragraph."""
    for finding in chart.findings:
        fix = f"\n    → {finding.fix}" if finding.fix else ""
        yield finding.ok, f"{MARKS[finding.ok]} {finding.name}: {finding.detail}{fix}"
    if chart.sizes:
        rows = [f"{each.rows:>8}{each.ms:>11.3g}{each.rows_per_s:>11.0f}{each.mib:>9.0f}" for each in chart.sizes]
        yield None, "\n".join(["    rows    ms/batch     rows/s      MiB", *rows])
    if chart.proposed:
        shown = [
            f"    {name} = {msgspec.json.encode(value).decode()}\n      {chart.reasons[name]}"
            for name, value in chart.proposed.items()
        ]
        yield None, "\n".join(["proposed settings:", *shown])
