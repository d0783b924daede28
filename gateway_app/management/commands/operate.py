"""`manage.py operate`: what operators do by hand on the page and in the admin, from the command line."""

from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseUnavailable

from gateway_app.operating.actions import ACTIONS, Action, ActionError, effect, perform
from gateway_app.operating.followed import followed
from gateway_app.operating.situation import Situation, situation
from gateway_app.probe import ask, base_url, open_session

TIMEOUT_S = 5.0


class Command(BaseCommand):
    """Asks before it does anything, unless told not to."""

    help = (
        "Does what operators do by hand, in every gateway: trip, reset, isolate, unisolate, drain, undrain, enable,"
        " disable or flush a worker; load or unload a model. It states the effect and asks first."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=", ".join(ACTIONS))
        parser.add_argument("target", metavar="TARGET", help="a worker's or a model's name; flush also takes all")
        parser.add_argument("--yes", action="store_true", help="do it without asking")
        parser.add_argument("--comment", default="", metavar="TEXT", help="why: kept with the revision and the event")
        parser.add_argument(
            "--gateway",
            default="http://127.0.0.1:8000",
            metavar="URL",
            help="whose figures the effect is stated with, and which is to follow (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        action, target = ACTIONS[options["action"]], options["target"]
        try:
            url = base_url(options["gateway"])
        except ValueError as error:
            raise CommandError(str(error)) from None
        try:
            if not options["yes"]:
                self._ask(action, target, self._situation(url))
            done = perform(action, target, f"cli:{_user()}", options["comment"])
            follows, told = followed(url, action)
        except ActionError as error:
            raise CommandError(f"{error}; nothing has been changed") from None
        except DatabaseUnavailable as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CommandError(f"the database does not answer ({reason}); check DATABASE_URL") from None
        if follows:
            self.stdout.write(f"{done}; {told}")
        else:
            self.stdout.write(f"{done}, as the database has it")
            self.stderr.write(f"But {told}.")

    def _situation(self, url: str) -> Situation:
        with open_session() as session:
            answer = ask(session, "GET", f"{url}/stats", timeout_s=TIMEOUT_S)
        try:
            if answer.status == 200 and answer.data is not None:
                return situation(answer.data)
            why = answer.summary
        except (KeyError, TypeError, AttributeError):
            why = "it is no gateway of this version"
        self.stderr.write(f"Without the figures of {url} ({why}): by what the database says")
        return situation()

    def _ask(self, action: Action, target: str, now: Situation) -> None:
        self.stdout.write(effect(action, target, now))
        if not sys.stdin.isatty():
            raise CommandError("nothing has been changed: standard input is no terminal to ask at; add --yes to do it")
        self.stdout.write(f"{action.label}: {target}? [y/N] ", ending="")
        self.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("nothing has been changed")


def _user() -> str:
    """Whoever runs this, for the history."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return "unknown"
