"""Asking a gateway or a worker over HTTP from outside, as runbench and diagnose do; errors in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

DEFAULT_VALUES = 64
LOOPBACK = {"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"}


def base_url(text: str) -> str:
    """`http://host:port` without a trailing slash, from a URL or a bare `host:port`; ValueError names a bad one."""
    url = text if "://" in text else f"http://{text}"
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise ValueError(f"{text!r} is not an address: give http://HOST:PORT, for example http://127.0.0.1:8000")
    return url.rstrip("/")


def host_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def worker_url(address: str, gateway: str) -> str:
    """The URL of a worker that a gateway knows as `host:port`; its loopback is, seen from here, the gateway's host."""
    url = base_url(address)
    host, port = host_port(url)
    gateway_host = host_port(gateway)[0]
    if host in LOOPBACK and gateway_host not in LOOPBACK:
        return f"http://{f'[{gateway_host}]' if ':' in gateway_host else gateway_host}:{port}"
    return url


def open_session() -> requests.Session:
    """A session of one connection for one thread; proxies and .netrc of the environment are not for this traffic."""
    session = requests.Session()
    session.trust_env = False
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=1))
    return session


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what lies beneath it: requests and urllib3 keep the cause in args, `reason` or the context."""
    queue: list[Any] = [error]
    seen: set[int] = set()
    while queue:
        item = queue.pop(0)
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        queue += [*item.args, getattr(item, "reason", None), item.__cause__, item.__context__]


def cause_of(error: BaseException) -> str:
    """A few words that say why no answer came, the same for every request that fails the same way."""
    names = {type(item).__name__ for item in _chain(error)}
    if "ConnectionRefusedError" in names:
        return "connection refused"
    if "gaierror" in names or "NameResolutionError" in names:
        return "unknown host"
    if isinstance(error, requests.ConnectTimeout):
        return "timeout while connecting"
    if isinstance(error, requests.Timeout):
        return "timeout"
    if "BadStatusLine" in names and "RemoteDisconnected" not in names:
        return "not HTTP"
    if names & {"RemoteDisconnected", "ConnectionResetError", "BrokenPipeError", "IncompleteRead"}:
        return "connection closed by the other side"
    return type(error).__name__


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `status` 0 and a `cause` if nothing did; `data` is None unless the body is a JSON object."""

    status: int
    data: dict[str, Any] | None
    cause: str = ""
    server: str = ""
    text: str = ""

    @property
    def summary(self) -> str:
        """What a person needs to know of an answer that is not the expected one."""
        if self.cause:
            return self.cause
        message = (self.data or {}).get("error") or self.text.strip()[:160]
        return f"HTTP {self.status}" + (f": {message}" if message else "")


def ask(session: requests.Session, method: str, url: str, body: bytes | None = None, timeout_s: float = 5.0) -> Answer:
    try:
        reply = session.request(
            method, url, data=body, headers={"Content-Type": "application/json", "Accept": "application/json"},
            timeout=timeout_s, allow_redirects=False,
        )  # fmt: skip
    except requests.RequestException as error:
        return Answer(0, None, cause=cause_of(error))
    try:
        data = reply.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        data = None
    return Answer(reply.status_code, data, server=reply.headers.get("Server", ""), text=reply.text[:400])


def is_worker_health(data: dict[str, Any] | None) -> bool:
    return data is not None and "node_id" in data and "batch_processor" in data


def is_gateway_health(data: dict[str, Any] | None) -> bool:
    return data is not None and "total_workers" in data


def _sample_of(health: dict[str, Any] | None, key: str) -> tuple[int, bool] | None:
    """(values of one sample, whether all its dimensions are fixed) of the model's input_shape or output_shape.

    A shape is a list such as ["batch", 64]; a dynamic dimension is -1 or a name, and counts as one.
    """
    model = (health or {}).get("model")
    shape = model.get(key) if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(shape, list) or not shape:
        return None
    fixed = [size if isinstance(size, int) and size > 0 else None for size in shape]
    sample = fixed[1:] if model.get("batches", fixed[0] is None) else fixed
    return math.prod(size or 1 for size in sample), None not in sample


def input_values(health: dict[str, Any] | None) -> int | None:
    """How many floats the model behind a worker's /health takes for one sample; None if it does not say."""
    sample = _sample_of(health, "input_shape")
    return sample[0] if sample else None


def output_values(health: dict[str, Any] | None) -> int | None:
    """How many floats it answers for one sample; None if it does not say, or if that is dynamic."""
    sample = _sample_of(health, "output_shape")
    return sample[0] if sample and sample[1] else None
