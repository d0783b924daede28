"""Free TCP ports for programs that must be told theirs."""

import itertools
import os
import socket

# Below the range from which the system takes ports for connections (32768 on), so that none of those gets in between;
# a part for each test process, never given out twice, so that two tests never choose the same.
PER_PROCESS = 1000
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# Two test runs on one machine at once start at different places.
_numbers = itertools.cycle(range(PER_PROCESS))
for _ in range(os.getpid() % PER_PROCESS):
    next(_numbers)


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 on which nothing listens now."""
    found: list[int] = []
    for _ in range(PER_PROCESS):
        if len(found) == count:
            return found
        port = 20_000 + (_worker % 12) * PER_PROCESS + next(_numbers)
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    raise RuntimeError(f"no {count} free ports among {PER_PROCESS} from {20_000 + (_worker % 12) * PER_PROCESS}")
