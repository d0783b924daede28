"""`manage.py operate`: what operators do by hand on the page and in the admin, from the command line."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseUnavailable

from gateway_app.databaseaway import does_not_answer
from gateway_app.operating.actions import ACTIONS, ActionError, effect, perform
from gateway_app.operating.followed import followed
from gateway_app.operating.situation import Situation, situation
from gateway_app.terminal import add_gateway, author, confirm, gateway_stats, gateway_url


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
        add_gateway(parser, "whose figures the effect is stated with, and which is to follow (default: %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        action, target, url = ACTIONS[options["action"]], options["target"], gateway_url(options["gateway"])
        try:
            if not options["yes"]:
                self.stdout.write(effect(action, target, self._situation(url)))
                confirm(self.stdout, f"{action.label}: {target}")
            done = perform(action, target, author(), options["comment"])
            follows, told = followed(url, action)
        except ActionError as error:
            raise CommandError(f"{error}; nothing has been changed") from None
        except DatabaseUnavailable as error:
            raise CommandError(does_not_answer(error)) from None
        if follows:
            self.stdout.write(f"{done}; {told}")
        else:
            self.stdout.write(f"{done}, as the database has it")
            self.stderr.write(f"But {told}.")

    def _situation(self, url: str) -> Situation:
        stats, whose = gateway_stats(url)
        try:
            if stats is not None:
                return situation(stats)
        except (KeyError, TypeError, AttributeError):
            whose += " (it is no gateway of this version)"
        self.stderr.write(f"Without the figures of {whose}: by what the database says")
        return situation()
