"""What commands for operators share: who runs them, what a gateway tells them, and asking before anything is done."""

from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError, OutputWrapper

from gateway_app.probe import ask, base_url, open_session

TIMEOUT_S = 10.0


def author() -> str:
    """Whoever runs this, for the history."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):  # a user without a name, as in some containers
        return "cli:unknown"


def add_gateway(parser: ArgumentParser, what_for: str) -> None:
    """The option --gateway, for `gateway_url`."""
    parser.add_argument("--gateway", default="http://127.0.0.1:8000", metavar="URL", help=what_for)


def gateway_url(given: str) -> str:
    """What --gateway says. Raises CommandError for what is no address."""
    try:
        return base_url(given)
    except ValueError as error:
        raise CommandError(str(error)) from None


def gateway_stats(url: str) -> tuple[dict[str, Any] | None, str]:
    """A gateway's /stats, and whose they are; None with whose they would be and why there are none."""
    with open_session() as session:
        answer = ask(session, "GET", f"{url}/stats", timeout_s=TIMEOUT_S)
    if answer.status == 200 and answer.data is not None:
        return answer.data, url
    return None, f"{url} ({answer.summary})"


def confirm(stdout: OutputWrapper, question: str) -> None:
    """Returns if whoever sits at the terminal says yes. Raises CommandError otherwise."""
    if not sys.stdin.isatty():
        raise CommandError("nothing has been changed: standard input is no terminal to ask at; add --yes to do it")
    stdout.write(f"{question}? [y/N] ", ending="")
    stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("nothing has been changed")
