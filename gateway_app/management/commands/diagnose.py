"""`manage.py diagnose`: is this system well, and if not, what is wrong and what mends it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway_app.diagnosis.findings import MARKS, Check
from gateway_app.diagnosis.inference import check_direct, check_end_to_end, new_input
from gateway_app.diagnosis.reachability import check_gateway, check_ports, check_processes, check_workers
from gateway_app.diagnosis.targets import Targets, find_targets
from gateway_app.probe import base_url, open_session

TIMEOUT_S = 10.0


class Command(BaseCommand):
    help = "Checks processes, ports, workers, gateway and inference; the exit status is 0 only if all is well."
    requires_system_checks = []  # a broken installation is what it is for

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--gateway", default="http://127.0.0.1:8000", metavar="URL")
        parser.add_argument("--workers", nargs="+", metavar="URL", help="(those that the gateway lists as enabled)")
        parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="S", help="for each answer")
        parser.add_argument("--json", action="store_true", help="a JSON list instead of text")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            gateway = base_url(options["gateway"])
            workers = [base_url(text) for text in options["workers"] or []]
        except ValueError as error:
            raise CommandError(str(error)) from None
        if options["timeout"] <= 0:
            raise CommandError(f"--timeout {options['timeout']}: give seconds, more than 0")
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

    def _checks(self, gateway: str, workers: list[str], timeout_s: float) -> Iterator[Check]:
        with open_session() as session:
            targets = find_targets(session, gateway, workers, timeout_s)
            if targets.assumed:
                self.stderr.write(f"{gateway} lists no workers: checking {self._addresses(targets)} instead")
            yield check_processes(targets)
            yield check_ports(targets)
            yield check_workers(targets)
            yield check_gateway(targets)
            values = new_input(targets)
            check, output = check_direct(session, targets, values, timeout_s)
            yield check
            yield check_end_to_end(session, targets, values, output, timeout_s)

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
