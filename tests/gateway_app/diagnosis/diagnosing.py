"""Running diagnose, and what it found."""

import json
from io import StringIO
from typing import Any

from django.core.management import call_command
from django.core.management.base import CommandError

from tests.support.waiting import PATIENCE_S

NAMES = [
    "process status", "port availability", "worker health",
    "gateway connectivity", "direct inference", "end-to-end inference",
]  # fmt: skip


def diagnose(gateway: str, *arguments: str, timeout_s: float = PATIENCE_S) -> dict[str, dict[str, Any]]:
    """The checks by name; the exit status must agree with them."""
    out = StringIO()
    failed = False
    try:
        options = ("--json", "--gateway", gateway, "--timeout", str(timeout_s))
        call_command("diagnose", *options, *arguments, stdout=out, stderr=out)
    except CommandError:
        failed = True
    checks = json.loads(out.getvalue().splitlines()[-1])
    assert [check["check"] for check in checks] == NAMES
    assert failed == any(check["ok"] is False for check in checks)
    return {check["check"]: check for check in checks}


def failing(checks: dict[str, dict[str, Any]]) -> set[str]:
    """The names of those that found something wrong."""
    return {name for name, check in checks.items() if check["ok"] is False}
