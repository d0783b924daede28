"""`manage.py diagnose`: is this system well, or with --model this model; if not, what is wrong and what mends it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway_app.diagnosis.findings import MARKS, Check
from gateway_app.diagnosis.inference import check_direct, check_end_to_end
from gateway_app.diagnosis.reachability import check_gateway, check_ports, check_processes, check_workers
from gateway_app.diagnosis.targets import Targets, find_targets
from gateway_app.diagnosis.treatment import ApplyError, apply, served_name, why_not_served
from gateway_app.probe import base_url, open_session
from worker_app.doctor.examine import DEFAULT_TIMEOUT_S, examine_file
from worker_app.doctor.words import lines, verdict

TIMEOUT_S = 10.0


class Command(BaseCommand):
    help = (
        "Checks processes, ports, workers, gateway and inference; the exit status is 0 only if all is well."
        " With --model: examines one .onnx file, and proposes settings; the status is 0 if it can be served."
    )
    requires_system_checks = []  # a broken installation is what it is for

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--gateway", default="http://127.0.0.1:8000", metavar="URL")
        parser.add_argument("--workers", nargs="+", metavar="URL", help="(those that the gateway lists as enabled)")
        parser.add_argument(
            "--timeout",
            type=float,
            metavar="S",
            help=f"for each answer ({TIMEOUT_S:g}); with --model for the whole examination ({DEFAULT_TIMEOUT_S:g})",
        )
        parser.add_argument("--json", action="store_true", help="JSON instead of text")
        parser.add_argument("--model", type=Path, metavar="FILE", help="examine this .onnx file instead")
        parser.add_argument("--apply", action="store_true", help="with --model: save the settings that are proposed")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["timeout"] is not None and not options["timeout"] > 0:
            raise CommandError(f"--timeout {options['timeout']}: give seconds, more than 0")
        if options["model"] is not None:
            self._examine(options["model"], options)
            return
        if options["apply"]:
            raise CommandError("--apply saves the settings of one model: name its file with --model")
        options["timeout"] = options["timeout"] or TIMEOUT_S
        try:
            gateway = base_url(options["gateway"])
            workers = [base_url(text) for text in options["workers"] or []]
        except ValueError as error:
            raise CommandError(str(error)) from None
        checks = []
        for number, check in enumerate(self._checks(gateway, workers, options["timeout"]), start=1):
            checks.append(check)
            if not options["json"]:
                self._print(number, check)
        if options["json"]:
            self.stdout.write(json.dumps([check.as_dict() for check in checks], ensure_ascii=False))
        failed = [check.name for check in checks if check.ok is False]
        if failed:
            raise CommandError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")

    def _examine(self, file: Path, options: dict[str, Any]) -> None:
        name = ""
        if options["apply"] and not (name := served_name(file)):
            raise CommandError(why_not_served(file))
        chart = examine_file(file, options["timeout"] or DEFAULT_TIMEOUT_S)
        if options["json"]:
            self.stdout.write(json.dumps(chart.as_report(), ensure_ascii=False))
        else:
            for ok, text in lines(chart):
                self.stdout.write(text if ok else self.style.ERROR(text) if ok is False else self.style.WARNING(text))
        if not chart.runs:
            raise CommandError(verdict(chart))
        if name:
            try:
                apply(name, chart)
            except ApplyError as error:
                raise CommandError(str(error)) from None
        if not options["json"]:
            saved = "the proposed settings are saved" if name else "nothing has been changed"
            self.stdout.write(f"{verdict(chart)}; {saved}")

    def _checks(self, gateway: str, workers: list[str], timeout_s: float) -> Iterator[Check]:
        with open_session() as session:
            targets = find_targets(session, gateway, workers, timeout_s)
            if targets.assumed:
                self.stderr.write(f"{gateway} lists no workers: checking {self._addresses(targets)} instead")
            yield check_processes(targets)
            yield check_ports(targets)
            yield check_workers(targets)
            yield check_gateway(targets)
            check, asked = check_direct(session, targets, timeout_s)
            yield check
            yield check_end_to_end(session, targets, asked, timeout_s)

    @staticmethod
    def _addresses(targets: Targets) -> str:
        return ", ".join(target.address for target in targets.workers)

    def _print(self, number: int, check: Check) -> None:
        style = {True: self.style.SUCCESS, False: self.style.ERROR, None: self.style.WARNING}
        self.stdout.write(style[check.ok](f"{MARKS[check.ok]} {number}. {check.name}"))
        for line in check.lines:
            self.stdout.write(f"    {MARKS[line.ok]} {line.detail}")
            if line.fix:
                self.stdout.write(f"      → {line.fix}")
