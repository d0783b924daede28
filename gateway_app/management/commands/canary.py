"""`manage.py canary`: one worker tries settings, or a version of a model, before the others get them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseUnavailable

from gateway_app.canaries import canary
from gateway_app.canaries.canarytext import tried, word
from gateway_app.databaseaway import does_not_answer
from gateway_app.models import Canary
from gateway_app.terminal import add_gateway, author, confirm, gateway_stats, gateway_url

STEPS = ("show", "start", "promote", "abort")
NOTHING_TRIED = "No worker tries anything now."
SWITCH = {"on": True, "true": True, "off": False, "false": False}


class Command(BaseCommand):
    """Asks before it promotes or aborts, unless told not to."""

    help = (
        "Has one worker try settings of batches and its cache, or a version of a model, before the others get them:"
        " start it, show how it does, promote it to all, or abort it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("step", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
        parser.add_argument("worker", nargs="?", default="", metavar="WORKER", help="start: who is to try it")
        parser.add_argument(
            "values", nargs="*", metavar="NAME=VALUE", help=f"start: any of {', '.join(canary.FIELDS)}; on or off"
        )
        parser.add_argument("--model", default="", metavar="NAME/VERSION", help="start: the version that it is to try")
        parser.add_argument("--yes", action="store_true", help="promote, abort: do it without asking")
        parser.add_argument("--comment", default="", metavar="TEXT", help="why: kept with the revision")
        add_gateway(parser, "who compares, and says which version answers now (default: %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        step, comment = options["step"], options["comment"]
        if step != "start" and (options["worker"] or options["model"]):
            raise CommandError(f"{step} takes no worker, settings or model: it is about what is being tried now")
        try:
            if step == "show" and not Canary.objects.exists():
                self.stdout.write(NOTHING_TRIED)
            elif step == "show":
                self._show(options["gateway"])
            elif step == "start":
                self.stdout.write(self._start(options, comment))
            else:
                seen = None
                if not options["yes"]:
                    seen = self._show(options["gateway"])
                    what = "All workers get it" if step == "promote" else "It does again what all others do"
                    confirm(self.stdout, f"{what}: {step}")
                self.stdout.write((canary.promote if step == "promote" else canary.abort)(author(), comment, seen))
        except ValidationError as error:
            raise CommandError(f"{error.messages[0]} Nothing has been changed.") from None
        except DatabaseUnavailable as error:
            raise CommandError(does_not_answer(error)) from None

    def _start(self, options: dict[str, Any], comment: str) -> str:
        if not options["worker"]:
            raise CommandError("name the worker that is to try it, as in: canary start worker_2 batch_size=64")
        model, _, version = options["model"].partition("/")
        if model and not version:
            raise CommandError(f"{model!r} names no version; write NAME/VERSION, as in digits/2")
        answering = self._answering(options["gateway"]) if model else {}
        return canary.start(
            options["worker"],
            _values(options["values"]),
            author(),
            comment,
            model=model,
            version=version,
            stable=answering.get(model, ""),
        )

    def _answering(self, gateway: str) -> dict[str, str]:
        """By name, the version that answers now."""
        stats = self._stats(gateway)
        return {each["name"]: each["version"] for each in stats.get("models", ()) if each["newest"]}

    def _show(self, gateway: str) -> Canary:
        row = Canary.objects.first()
        if row is None:
            raise ValidationError(NOTHING_TRIED)
        values = {name: getattr(row, name) for name in Canary.PAYLOAD}
        by = f", by {row.author}" if row.author else ""
        self.stdout.write(f"{row.worker} tries {tried(values)}, since {row.started:%Y-%m-%d %H:%M} UTC{by}.")
        shown = self._stats(gateway).get("canary")
        if not shown:
            return row
        rows = [(each["what"], _figure(each, "canary"), _figure(each, "others")) for each in shown["compare"]]
        widths = [max(map(len, column)) for column in zip(*rows, ("", row.worker, "others"), strict=True)]
        for what, mine, theirs in [("", row.worker, "others"), *rows]:
            self.stdout.write(f"  {what:<{widths[0]}}  {mine:>{widths[1]}}  {theirs:>{widths[2]}}")
        self.stdout.write(shown["verdict"])
        return row

    def _stats(self, gateway: str) -> dict[str, Any]:
        stats, whose = gateway_stats(gateway_url(gateway))
        if stats is None:
            self.stderr.write(f"Without the figures of {whose}")
        return stats or {}


def _values(given: Iterable[str]) -> dict[str, Any]:
    """`batch_size=64 batch_eager=off` as values. Raises CommandError."""
    found: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or not text:
            raise CommandError(f"{item!r} is no setting: write it as NAME=VALUE, as in batch_size=64")
        if name not in canary.FIELDS:
            raise CommandError(f"{name!r} cannot be tried on one worker; what can: {', '.join(canary.FIELDS)}")
        try:
            found[name] = SWITCH[text.lower()] if text.lower() in SWITCH else float(text) if "." in text else int(text)
        except ValueError:
            raise CommandError(f"{name}: {text!r} is neither a number nor on or off") from None
    return found


def _figure(measure: dict[str, Any], side: str) -> str:
    value = measure[side]
    return "–" if value is None else f"{word(value)} {measure['unit']}"
