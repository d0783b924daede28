"""Load with wrk, side by side with nginx on the same machine in the same run: a ratio holds where a rate does not.

The yardstick is nginx as a reverse proxy in front of a second nginx that returns a canned answer of the same size: what
a gateway costs when it does nothing but pass bytes on.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.processes import wait_until

_LUA = """
wrk.method = "POST"
%s
local requests, i = {}, 0
init = function(args)
  for n = 0, %d do
    local f = io.open("%s/body" .. n, "rb")
    requests[n + 1] = wrk.format(nil, nil, nil, f:read("*a"))
    f:close()
  end
end
request = function() i = i %% #requests + 1; return requests[i] end
"""

_NGINX = """
%(user)s worker_processes 2; daemon off; pid %(d)s/pid; error_log %(d)s/error.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 10000000;
  client_body_temp_path %(d)s/b; proxy_temp_path %(d)s/p; fastcgi_temp_path %(d)s/f; uwsgi_temp_path %(d)s/u;
  scgi_temp_path %(d)s/s; client_max_body_size 64m; client_body_buffer_size 4m;
  upstream reply { server 127.0.0.1:%(back)d; keepalive 64; keepalive_requests 10000000; }
  server { listen 127.0.0.1:%(front)d; location / {
    proxy_pass http://reply; proxy_http_version 1.1; proxy_set_header Connection ""; } }
  server { listen 127.0.0.1:%(back)d; location / { default_type application/json; return 200 '%(reply)s'; } }
}
"""


# An answer that comes later is an error.
ANSWER_WITHIN_S = 60
# A run in which nothing was answered is not made longer than this.
LONGEST_S = 16


class BenchError(Exception):
    """A measurement that could not be made; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Load:
    """One run of wrk."""

    requests: int
    per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The medians of alternating runs; `ratio` is ours to nginx's rate, `cpu_us` the gateway's time per request."""

    per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    nginx_per_s: float
    ratio: float
    cpu_us: float


def tool(name: str) -> str:
    """The path of a program of Debian's. Raises BenchError."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise BenchError(f"{name} is not installed; on Debian: apt-get install {name}")
    return found


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for a run with wrk and nginx. Raises BenchError where one of them is not installed."""
    for needed in ("wrk", "nginx"):
        tool(needed)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # nginx's workers may be another user
        yield directory


def write_load(directory: Path, distinct: int, values: int, *, close: bool = False, model: str = "") -> Path:
    """A wrk script that posts `distinct` random inputs of `values` floats to /infer in turn, for `model` if given."""
    rng, named = random.Random(), {"model": model} if model else {}
    bodies = (
        json.dumps(
            {"request_id": f"r{number}", "input_data": [round(rng.random(), 4) for _ in range(values)], **named}
        ).encode()
        for number in range(distinct)
    )
    headers = {"Content-Type": "application/json"} | ({"Connection": "close"} if close else {})
    return write_bodies(directory, bodies, headers)


def write_bodies(directory: Path, bodies: Iterable[bytes], headers: Mapping[str, str]) -> Path:
    """A wrk script that posts these bodies in turn."""
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    for count, body in enumerate(bodies, 1):
        (directory / f"body{count - 1}").write_bytes(body)
    script = directory / "load.lua"
    lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
    script.write_text(_LUA % (lines, count - 1, directory))
    return script


def wrk(url: str, script: Path, *, connections: int = 50, seconds: int = 4) -> Load:
    """Runs wrk once; for longer, where nothing was answered meanwhile."""
    command = [tool("wrk"), "-t1", f"-c{connections}", f"-d{seconds}", "--timeout", f"{ANSWER_WITHIN_S}s"]
    command += ["--latency", "-s", str(script), url]
    out = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    spread = dict(re.findall(r"^\s+(\d\d)%\s+(\S+)\s*$", out, re.M))
    rate, count = re.search(r"Requests/sec:\s+([\d.]+)", out), re.search(r"(\d+) requests in", out)
    if rate is None or count is None or "99" not in spread or not int(count.group(1)):
        if seconds < LONGEST_S:
            return wrk(url, script, connections=connections, seconds=2 * seconds)
        raise BenchError(f"wrk gave no figures for {url}:\n{out}")
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    errors = (int(bad.group(1)) if bad else 0) + (sum(map(int, broken.groups())) if broken else 0)
    return Load(int(count.group(1)), float(rate.group(1)), _ms(spread["50"]), _ms(spread["99"]), errors)


@contextmanager
def nginx(directory: Path) -> Iterator[str]:
    """The yardstick's url, while it runs."""
    front, back = free_ports(2)
    answer = {
        "request_id": "r1",
        "output_data": [0.1234567] * 10,
        "node_id": "worker_1",
        "cached": True,
        "inference_time_us": 12,
    }
    config = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        _NGINX % {"d": directory, "user": user, "front": front, "back": back, "reply": json.dumps(answer)}
    )
    process = subprocess.Popen([tool("nginx"), "-c", str(config), "-p", str(directory)], stderr=subprocess.DEVNULL)
    try:
        wait_until("nginx listens", lambda: process.poll() is not None or _listens(front))
        if process.poll() is not None:
            raise BenchError(f"nginx ended with {process.returncode}: {(directory / 'error.log').read_text()}")
        yield f"http://127.0.0.1:{front}/infer"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def compare(url: str, gateway_pid: int, script: Path, yardstick: str, *, pairs: int, seconds: int) -> Comparison:
    """Alternates runs on `url` and on the yardstick."""
    if seconds > 1:  # else nobody cares for the figures
        wrk(url, script, seconds=2)
    ours: list[Load] = []
    theirs: list[Load] = []
    cpu: list[float] = []
    for _ in range(pairs):
        before = cpu_seconds(gateway_pid)
        ours.append(wrk(url, script, seconds=seconds))
        cpu.append((cpu_seconds(gateway_pid) - before) / max(ours[-1].requests, 1) * 1e6)
        theirs.append(wrk(yardstick, script, seconds=seconds))
    if any(run.errors for run in theirs):
        raise BenchError(f"the yardstick itself failed: {theirs}")
    return Comparison(
        per_s=_median([run.per_s for run in ours]),
        p50_ms=_median([run.p50_ms for run in ours]),
        p99_ms=_median([run.p99_ms for run in ours]),
        errors=sum(run.errors for run in ours),
        nginx_per_s=_median([run.per_s for run in theirs]),
        ratio=_median([mine.per_s / its.per_s for mine, its in zip(ours, theirs, strict=True)]),
        cpu_us=_median(cpu),
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Memory of a process, in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) / 1000 if found else 0.0


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def _ms(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if found is None:
        raise BenchError(f"wrk wrote a latency of {text!r}")
    return float(found.group(1)) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[found.group(2)]
