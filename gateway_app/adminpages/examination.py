"""The model doctor's look at an uploaded file: a process of its own, which may crash or hang without harm."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings

from gateway_app.adminpages.uploads import Upload
from inference_site.lib.record import Record
from inference_site.parent import PARENT_FD

LOOK_S = 120  # the doctor ends by itself then, and says what it has found
PATIENCE_S = LOOK_S + 30.0
# Two that measure at the same time would measure each other.
_one_at_a_time = threading.Lock()


def doctor(file: Path) -> list[str]:
    """The command whose output is its report."""
    manage = str(settings.BASE_DIR / "manage.py")
    return [sys.executable, manage, "diagnose", "--model", str(file), "--json", "--timeout", str(LOOK_S)]


@dataclass(frozen=True, slots=True)
class Report:
    """What it has found; `ok` if the model can be served, with the settings that it proposes then."""

    ok: bool
    findings: list[dict[str, Any]]
    proposed: Record
    reasons: dict[str, str]
    told: dict[str, Any]  # all of it: inputs, outputs, sizes, providers


def begin_examination(upload: Upload) -> threading.Thread:
    """Lets the doctor look, in the background; what it has said before is gone. `read_report` tells when it has."""
    mark = _mark(upload)
    new = mark.with_suffix(f".{threading.get_ident()}")
    new.write_text(f"{socket.gethostname()} {os.getpid()}")
    new.replace(mark)  # whoever reads it meanwhile finds one of the two
    upload.report.unlink(missing_ok=True)  # last: a page sees either the report or that somebody looks
    thread = threading.Thread(target=_examine, args=(upload,), name="model doctor", daemon=True)
    thread.start()
    return thread


def is_under_way(upload: Upload) -> bool:
    """Whether a doctor looks at it or is about to, in whatever process; not for longer than that may take."""
    try:
        host, pid = _mark(upload).read_text().split()
        age_s = time.time() - _mark(upload).stat().st_mtime
    except (OSError, ValueError):
        return False
    return age_s < PATIENCE_S and not upload.report.exists() and (host != socket.gethostname() or _lives(int(pid)))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True


def read_report(upload: Upload) -> Report | None:
    """The report, if there is one."""
    try:
        told = json.loads(upload.report.read_text())
    except FileNotFoundError:
        return None
    return Report(told["ok"], told["findings"], msgspec.convert(told["proposed"], Record), told["reasons"], told)


def _mark(upload: Upload) -> Path:
    return upload.folder / "looking"


def _examine(upload: Upload) -> None:
    with _one_at_a_time:
        try:
            os.utime(_mark(upload))
        except FileNotFoundError:  # discarded meanwhile
            return
        report = _look(upload.file)
        temporary = upload.report.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(report))
            temporary.replace(upload.report)
        except OSError:  # discarded meanwhile, or no room: then nobody looks at it any more
            return


def _look(file: Path) -> dict[str, Any]:
    """The doctor's report, or one that says what became of the doctor."""
    env = {name: value for name, value in os.environ.items() if name != PARENT_FD}
    try:
        ended = subprocess.run(doctor(file), capture_output=True, text=True, timeout=PATIENCE_S, env=env, check=False)
    except subprocess.TimeoutExpired:
        return _failed(f"It had not ended after {PATIENCE_S:g} s and was stopped.")
    except OSError as error:
        return _failed(f"It could not be started: {error}.")
    try:
        report = json.loads(ended.stdout)
        told = {"findings": [], "reasons": {}, **report, "ok": bool(report["ok"])}
        told["proposed"] = report.get("proposed") or {}
        msgspec.convert(told["proposed"], Record)
        return told
    except (ValueError, KeyError, TypeError) as error:
        last = ended.stderr.strip().splitlines()[-1:] or [f"{type(error).__name__}: {error}"]
        return _failed(f"It ended with status {ended.returncode}: {last[0]}")


def _failed(detail: str) -> dict[str, Any]:
    fix = "Look again, or run manage.py diagnose --model FILE on the file itself."
    finding = {"name": "model doctor", "ok": False, "detail": detail, "fix": fix}
    return {"ok": False, "findings": [finding], "proposed": {}, "reasons": {}}
