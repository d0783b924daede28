"""`manage.py runbench`: load a gateway, here or elsewhere, and print what it did."""

from __future__ import annotations

import json
import random
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway_app.bench.cachetest import CacheTest, run_cache_test
from gateway_app.bench.load import LoadResult, run_load
from gateway_app.bench.progress import Progress
from gateway_app.bench.report import Plan, build_report, render
from gateway_app.bench.workers import ask_health, compare, known_workers
from gateway_app.bench.workload import ask_order, default_distinct, encode_inputs
from gateway_app.probe import DEFAULT_VALUES, ask, base_url, input_values, open_session

EXIT_INTERRUPTED = 130


class Command(BaseCommand):
    help = "Sends requests to a gateway and reports rate, latency, hit rates and the share of each worker."
    requires_system_checks = []  # it works against a gateway elsewhere, whatever is wrong with this installation

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--gateway", default="http://127.0.0.1:8000", metavar="URL")
        parser.add_argument("--requests", type=int, default=1000, help="how many in all; 0 with --cache-test: none")
        parser.add_argument("--threads", type=int, default=10, help="each has one connection")
        parser.add_argument("--workers", nargs="+", metavar="URL", help="whose hit rates to read (those of /stats)")
        parser.add_argument("--cache-test", action="store_true", help="first compare new inputs with repeated ones")
        parser.add_argument("--no-stats", action="store_true", help="do not ask the workers for their hit rates")
        parser.add_argument("--distinct", type=int, help="different inputs (a tenth of the requests, at most 1000)")
        parser.add_argument("--values", type=int, help="floats per input (what the model takes)")
        parser.add_argument("--seed", type=int, help="repeats a run's inputs and their order")
        parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of text")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            gateway = base_url(options["gateway"])
            worker_urls = [base_url(text) for text in options["workers"] or []]
        except ValueError as error:
            raise CommandError(str(error)) from None
        if options["requests"] < (0 if options["cache_test"] else 1):
            raise CommandError(f"--requests {options['requests']}: give 1 or more (0 only with --cache-test)")
        for name in ("threads", "distinct", "values"):
            if options[name] is not None and options[name] < 1:
                raise CommandError(f"--{name} {options[name]}: give 1 or more")

        with open_session() as session:
            health = ask(session, "GET", f"{gateway}/health")
            if health.cause:
                raise CommandError(
                    f"no gateway at {gateway}: {health.cause}. Start one with `python manage.py runcluster`, "
                    "or name another with --gateway URL"
                )
            worker_urls = worker_urls or known_workers(session, gateway)
            before = ask_health(session, worker_urls)
            sizes = [input_values(answer.data) for answer in (health, *before.values())]
            values = options["values"] or next((size for size in sizes if size), DEFAULT_VALUES)
            plan = Plan(
                gateway=gateway,
                requests=options["requests"],
                threads=options["threads"],
                distinct=min(
                    options["distinct"] or default_distinct(options["requests"], values), max(options["requests"], 1)
                ),
                values=values,
                # fresh by default: the same inputs as last time would all be in the caches already
                seed=options["seed"] if options["seed"] is not None else random.randrange(2**31),
            )
            cache_test = run_cache_test(gateway, values) if options["cache_test"] else None
            if not options["no_stats"]:
                before = ask_health(session, worker_urls)
            load = self._load(plan) if plan.requests else None
            stats = None if options["no_stats"] else compare(before, ask_health(session, worker_urls))
        report = build_report(plan, load, stats, cache_test)
        self.stdout.write(json.dumps(report) if options["json"] else render(report))
        self._finish(load, cache_test)

    def _load(self, plan: Plan) -> LoadResult:
        rng = random.Random(plan.seed)
        inputs = encode_inputs(plan.distinct, plan.values, rng)
        progress = Progress(plan.requests, sys.stderr)
        try:
            return run_load(plan.gateway, inputs, ask_order(plan.requests, plan.distinct, rng), plan.threads, progress)
        finally:
            progress.close()

    def _finish(self, load: LoadResult | None, cache_test: CacheTest | None) -> None:
        """The exit status: 130 after Ctrl-C, 1 if any request failed, else 0."""
        if load is not None and load.interrupted:
            sys.exit(EXIT_INTERRUPTED)
        tallies = [part.tally for part in (load, cache_test) if part is not None]
        failed = sum(tally.failed for tally in tallies)
        if failed:
            total = failed + sum(tally.successes for tally in tallies)
            raise CommandError(f"{failed:,} of {total:,} requests failed")
