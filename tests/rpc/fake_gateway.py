"""The real gRPC server with a plane of its own, as a process: its messages and a client's can't be in one.

What the plane is asked is written to the output, a line each. TERM drains and stops it, as a gateway does; with
--holds it takes calls until it is told twice, as one does whose successor is not ready yet. --grace is how many seconds
what is under way has at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "inference_site.settings")

import uvloop

from gateway_app.rpc.server import RpcServer
from inference_site.exchange import Asker, Ticket
from inference_site.inflight import InFlightBytes
from inference_site.lib.asks import pack_v2_result, unpack_v2
from inference_site.lib.catalog import ModelInfo, State, Statistics, TensorInfo
from inference_site.lib.errors import ApiError

HEADERS = b"x-node: worker_1\r\nx-cache: miss\r\nx-attempts: 1\r\n"


def say(*words: object) -> None:
    print(*words, flush=True)


class FakeModel:
    """Gives back its inputs; how, is in its name."""

    def __init__(self, info: ModelInfo) -> None:
        self.info = info

    def ask(
        self, payload: bytes, asker: Asker, timeout_ms: int | None = None, since: float | None = None, /
    ) -> Ticket | None:
        head, tensors = unpack_v2(payload)
        asked = json.loads(bytes(head))
        say("asked", self.info.name, "timeout_ms", timeout_ms)
        name = self.info.name
        if name == "bug":
            raise RuntimeError("on purpose")
        if name == "refuse":
            status = int.from_bytes(tensors[:4], "little")
            headers = HEADERS + b"retry-after: 7\r\n" if status == 503 else HEADERS
            asker.on_error(ApiError(status, f"code_{status}", f"status {status} × wanted"), headers)
            return None
        try:
            result = echo(asked, bytes(tensors))
        except KeyError as error:
            asker.on_error(ApiError(400, "unknown_output", f"there is no output {error}"), HEADERS)
            return None
        if name == "never":
            return FakeTicket(asyncio.Event())
        if name == "later":
            left = asyncio.Event()

            def answer() -> None:
                if not left.is_set():
                    asker.on_output(result, b'"worker_1"', False, 1, HEADERS)

            asyncio.get_running_loop().call_later(0.05, answer)
            return FakeTicket(left)
        asker.on_output(result, b'"worker_1"', False, 1, HEADERS)
        return None


class FakeTicket:
    def __init__(self, left: asyncio.Event) -> None:
        self._left = left

    def cancel(self) -> None:
        assert not self._left.is_set(), "cancelled twice"
        self._left.set()
        say("cancelled")


def echo(asked: dict, tensors: bytes) -> bytes:
    """Every input x as output out_x; those that are wanted, in that order."""
    found, at = {}, 0
    for each in asked["inputs"]:
        size = each["parameters"]["binary_data_size"]
        found[f"out_{each['name']}"] = each, tensors[at : at + size]
        at += size
    assert at == len(tensors)
    assert ("outputs" in asked) != asked.get("binary_data_output", False)
    wanted = [each["name"] for each in asked.get("outputs", ())] or list(found)
    assert all(each["parameters"]["binary_data"] is True for each in asked.get("outputs", ()))
    outputs = [
        {
            "name": name,
            "datatype": found[name][0]["datatype"],
            "shape": found[name][0]["shape"],
            "parameters": {"binary_data_size": len(found[name][1])},
        }
        for name in wanted
    ]
    return pack_v2_result(json.dumps(outputs).encode(), b"".join(found[name][1] for name in wanted))


def info(name: str, version: str = "1", state: State = State.READY, **more: object) -> ModelInfo:
    tensors = TensorInfo("x", "FP32", (-1, 4)), TensorInfo("s", "BYTES", (-1, -1))
    outputs = (TensorInfo("out_x", "FP32", (-1, 4)),)
    return ModelInfo(
        number=1,
        name=name,
        version=version,
        state=state,
        inputs=tensors,
        outputs=outputs,
        **more,  # type: ignore[arg-type]
    )


class FakePlane:
    draining = False

    def __init__(self) -> None:
        names = ("bug", "later", "never", "refuse")
        batching = info("echo", "2", batches=True, max_batch_size=32, max_wait_us=2500)
        self._models = [info("echo", cached=False), batching, *map(info, names)]
        self._models.append(info("half"))  # on one worker alone, so it is not served yet
        self._models.append(info("soon", state=State.LOADING))
        self._models.append(info("broken", state=State.UNAVAILABLE, reason="the file is no model"))

    def find(self, name: str | None, version: str | None, /) -> FakeModel:
        known = [each for each in self._models if each.name == (name or "echo")]
        if not known:
            raise ApiError(404, "unknown_model", f"there is no model {name!r}")
        fitting = [each for each in known if version in (None, each.version)]
        if not fitting:
            raise ApiError(404, "unknown_version", f"{name} has no version {version!r}")
        if fitting[-1].state != State.READY or name == "half":
            raise ApiError(503, "model_not_ready", f"{name} is {fitting[-1].state}", retry_after_s=2)
        return FakeModel(fitting[-1])

    def refused(self) -> None:
        say("refused")

    def models(self) -> Sequence[ModelInfo]:
        return self._models

    def statistics(self, name: str, version: str, /) -> Statistics:
        return Statistics(
            success=5,
            success_ns=500,
            fail=1,
            fail_ns=10,
            queue_ns=60,
            compute_input_ns=70,
            compute_infer_ns=80,
            compute_output_ns=90,
            computed=3,
            cache_hits=2,
            cache_hit_ns=20,
            cache_misses=3,
            cache_miss_ns=30,
            inferences=12,
            executions=2,
            last_inference_ms=1234,
            batches={8: (1, 50), 4: (1, 30)},
        )

    async def load(self, name: str, /) -> None:
        say("load", name)
        if name == "broken":
            raise ApiError(400, "load_failed", "broken can't be loaded: the file is no model")
        await asyncio.sleep(0.3)
        say("loaded", name)

    async def unload(self, name: str, /) -> None:
        say("unload", name)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--max-message", type=int, default=16 * 2**20)
    parser.add_argument("--max-calls", type=int, default=4096)
    parser.add_argument("--in-flight", type=int, default=2**29)
    parser.add_argument("--succeeds", action="store_true")
    parser.add_argument("--soon", action="store_true")
    parser.add_argument("--holds", action="store_true")
    parser.add_argument("--grace", type=float, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    plane = FakePlane()
    server = RpcServer(
        plane,  # type: ignore[arg-type]
        options.host,
        options.port,
        in_flight=InFlightBytes(options.in_flight),
        max_message_bytes=options.max_message,
        max_calls=options.max_calls,
    )
    await (server.start_soon if options.soon else server.start)(succeeds=options.succeeds)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    say("port", server.port)
    await told.wait()
    plane.draining = True
    server.drain()
    say("draining")
    if options.holds:
        told.clear()
        await told.wait()
    server.leave()
    await asyncio.sleep(2)
    await server.stop(options.grace)
    await asyncio.sleep(0.2)
    say("stopped")


if __name__ == "__main__":
    uvloop.run(main())
