"""Runs a real supervisor over fake children. Argument: JSON {"children": {name: [manner, ...]}, "ready_within_s": 5,
"stop_wait_s": 1}; without these two, each may take as long as it needs.

A child with the manner "overlaps" is replaced without a pause. The first child is a stage of its own
and stops last, as workers do; prints "port NAME PORT" for each before it starts.
"""

import json
import os
import sys
from pathlib import Path
from socket import socket

from inference_site import child
from inference_site.child import ChildSpec
from inference_site.console import Console
from inference_site.ports import address_of, listen
from inference_site.supervisor import Stage, Supervisor, SupervisorError
from tests.support.http import get
from tests.support.waiting import PATIENCE_S

FAKE_CHILD = Path(__file__).with_name("fake_child.py")


def spec(name: str, manners: list[str]) -> ChildSpec:
    listener: socket = listen("127.0.0.1", 0, "--port")
    address = address_of(listener)
    print(f"port {name} {listener.getsockname()[1]}", flush=True)

    def probe() -> str:
        try:
            status, _ = get(f"http://{address}/readyz", timeout_s=1.0)
        except OSError as error:
            return str(error) or type(error).__name__
        return "" if status == 200 else f"answers {status}"

    argv = (sys.executable, "-S", str(FAKE_CHILD), str(listener.fileno()), *manners)
    return ChildSpec(name, lambda: argv, dict(os.environ), listener, probe, overlaps="overlaps" in manners)


def main(plan: dict) -> int:
    specs = [spec(name, manners) for name, manners in plan["children"].items()]
    stop_wait_s = plan.get("stop_wait_s", PATIENCE_S)
    stages = [Stage((specs[0],), stop_wait_s), Stage(tuple(specs[1:]), stop_wait_s)]
    console = Console()
    child.STEADY_S = 3600.0  # however slowly things go, no process has run for long
    supervisor = Supervisor(
        stages, console, ready_line="ready all of it", ready_within_s=plan.get("ready_within_s", PATIENCE_S)
    )
    try:
        supervisor.run()
    except SupervisorError as error:
        console.line(f"failed: {error}")
        return 1
    finally:
        console.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
