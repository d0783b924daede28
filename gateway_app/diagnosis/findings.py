"""What a check found: lines that are well, not well (then with a fix), or could not be checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MARKS = {True: "✓", False: "✗", None: "–"}


@dataclass(frozen=True, slots=True)
class Line:
    """One thing looked at; `ok` is None if it could not be looked at from here."""

    ok: bool | None
    detail: str
    fix: str = ""


@dataclass(slots=True)
class Check:
    """One of the six; well if no line of it is not, and unchecked (None) if every line is."""

    name: str
    lines: list[Line] = field(default_factory=list)

    def good(self, detail: str) -> None:
        self.lines.append(Line(True, detail))

    def bad(self, detail: str, fix: str) -> None:
        self.lines.append(Line(False, detail, fix))

    def unknown(self, detail: str) -> None:
        self.lines.append(Line(None, f"not checked: {detail}"))

    @property
    def ok(self) -> bool | None:
        states = [line.ok for line in self.lines]
        if False in states:
            return False
        return True if True in states else None

    def as_dict(self) -> dict[str, Any]:
        """`detail` and `fix` speak of what is wrong, if anything is; `lines` holds everything."""
        shown = [line for line in self.lines if line.ok is False] or self.lines
        return {
            "check": self.name,
            "ok": self.ok,
            "detail": "; ".join(line.detail for line in shown),
            "fix": "; ".join(dict.fromkeys(line.fix for line in shown if line.fix)),
            "lines": [{"ok": line.ok, "detail": line.detail, "fix": line.fix} for line in self.lines],
        }
