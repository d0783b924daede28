"""A plane that serves V2 without a gateway or an engine: its models give their inputs back."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inference_site.exchange import Answer, Asker, Ticket
from inference_site.lib.asks import pack_v2_result, unpack_v2
from inference_site.lib.catalog import ModelInfo, State, Statistics, TensorInfo
from inference_site.lib.datatypes import BYTES, NUMPY
from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.payload import decode_request, encode_answer

HEADERS = b"x-node: fake\r\nx-cache: miss\r\nx-attempts: 1\r\n"


def model(name: str, version: str, datatypes: Sequence[str], **more: Any) -> ModelInfo:
    """Of as many inputs as datatypes, IN0 and so on, each of any number of rows of any length; OUT0 gives IN0 back."""
    shape = (-1, -1)
    return ModelInfo(
        number=1,
        name=name,
        version=version,
        state=more.pop("state", State.READY),
        inputs=tuple(TensorInfo(f"IN{i}", kind, shape) for i, kind in enumerate(datatypes)),
        outputs=tuple(TensorInfo(f"OUT{i}", kind, shape) for i, kind in enumerate(datatypes)),
        output="OUT0",
        **{"batches": True, "max_batch_size": 8, "max_wait_us": 20_000, **more},
    )


@dataclass
class Held:
    """An ask that waits for a test to answer it; a ticket."""

    payload: bytes
    asker: Asker
    timeout_ms: int | None
    cancelled: bool = False

    def cancel(self) -> None:
        assert not self.cancelled
        self.cancelled = True


class EchoModel:
    """A model of the plane."""

    def __init__(self, plane: V2Plane, info: ModelInfo) -> None:
        self._plane = plane
        self.info = info

    def ask(
        self, payload: bytes, asker: Asker, timeout_ms: int | None = None, since: float | None = None, /
    ) -> Ticket | None:
        plane = self._plane
        plane.timeouts.append(timeout_ms)
        plane.asks.append(payload)
        if plane.hold:
            held = Held(payload, asker, timeout_ms)
            plane.held.append(held)
            return held
        if plane.later:
            held = Held(payload, asker, timeout_ms)
            asyncio.get_running_loop().call_soon(self._tell_later, held)
            return held
        self.tell(payload, asker)
        return None

    def _tell_later(self, held: Held) -> None:
        if not held.cancelled:
            self.tell(held.payload, held.asker)

    def tell(self, payload: bytes, asker: Asker) -> None:
        try:
            output = self._plane.result or echo(payload, self.info)
        except ApiError as error:
            asker.on_error(error, HEADERS)
        else:
            asker.on_output(output, b'"fake"', False, 17, HEADERS)


@dataclass
class V2Plane:
    """What a test may set: `hold` asks until it answers them, answer `later` in the loop's next turn, a `result`."""

    draining: bool = False
    hold: bool = False
    later: bool = False
    result: bytes | None = None
    loading: Callable[[str], Any] | None = None
    infos: list[ModelInfo] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    asks: list[bytes] = field(default_factory=list)
    timeouts: list[int | None] = field(default_factory=list)
    changes: list[tuple[str, str]] = field(default_factory=list)
    refusals: int = 0

    def infer(
        self, body: bytes, answer: Answer, timeout_ms: int | None = None, since: float | None = None, /
    ) -> Ticket | None:
        try:
            request_id, ask, _ = decode_request(body)
        except ApiError as error:
            answer(error.status, b"", error_body(error.message, error.code))
            return None
        self.asks.append(ask)
        answer(200, HEADERS, encode_answer(request_id, b"[%d]" % len(ask), b'"fake"', False, 17))
        return None

    def find(self, name: str | None, version: str | None, /) -> EchoModel:
        found = [each for each in self.infos if name in (None, each.name) and version in (None, each.version)]
        if not found:
            raise ApiError(404, "unknown_model", f"there is no model {name!r} of version {version!r}; see the index")
        ready = [each for each in found if each.state is State.READY]
        if not ready:
            raise ApiError(503, "not_ready", f"{name} is not ready: {found[-1].reason}; try again", retry_after_s=1)
        return EchoModel(self, ready[-1])

    def explain(self, status: int, why: str, since: float, /) -> bytes:
        return b"x-explain: %d\r\n" % status

    def refused(self) -> None:
        self.refusals += 1

    def models(self) -> Sequence[ModelInfo]:
        return self.infos

    def statistics(self, name: str, version: str, /) -> Statistics:
        return Statistics(
            success=5, success_ns=500, computed=3, queue_ns=30, compute_infer_ns=300, cache_hits=2, inferences=4,
            executions=2, last_inference_ms=1_700_000_000_000, batches={1: (1, 100), 3: (1, 200)},
        )  # fmt: skip

    async def load(self, name: str, /) -> None:
        await self._change("load", name)

    async def unload(self, name: str, /) -> None:
        await self._change("unload", name)

    async def _change(self, what: str, name: str) -> None:
        if self.loading is not None:
            await self.loading(name)
        self.changes.append((what, name))


def echo(ask: bytes, info: ModelInfo) -> bytes:
    """The result of an ask. Raises ApiError 400 or 422 as an engine would."""
    head, tensors = unpack_v2(ask)
    try:
        asked = json.loads(bytes(head))
        arrays: dict[str, tuple[str, list[int], list[Any]]] = {}
        kinds = {each.name: each.datatype for each in info.inputs}
        position = 0
        for each in asked["inputs"]:
            name, shape, kind = each["name"], [int(size) for size in each["shape"]], each["datatype"]
            if kinds[name] != kind:
                raise ApiError(422, "wrong_datatype", f"{name} is {kind}, not {kinds[name]}; send that")
            size = each.get("parameters", {}).get("binary_data_size")
            if size is None:
                flat = np.array(each["data"], dtype=NUMPY[kind]).ravel().tolist()
            else:
                flat = _from_raw(kind, bytes(tensors[position : position + size]))
                position += size
            if len(flat) != int(np.prod(shape)):
                raise ApiError(
                    422, "wrong_count", f"{name} has {len(flat)} values for {shape}; send as many as it says"
                )
            arrays[f"OUT{name[2:]}"] = kind, shape, flat
        if position != len(tensors):
            raise ApiError(400, "wrong_size", f"{len(tensors) - position} bytes belong to no input; send none")
        wanted = asked.get("outputs") or [{"name": name} for name in arrays]
        outputs, raw = [], b""
        for each in wanted:
            kind, shape, flat = arrays[each["name"]]
            made: dict[str, Any] = {"name": each["name"], "datatype": kind, "shape": shape}
            if each.get("parameters", {}).get("binary_data", asked.get("binary_data_output", False)):
                data = _to_raw(kind, flat)
                made["parameters"] = {"binary_data_size": len(data)}
                raw += data
            else:
                made["data"] = [item.decode() if isinstance(item, bytes) else item for item in flat]
            outputs.append(made)
        return pack_v2_result(json.dumps(outputs).encode(), raw)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, struct.error) as error:
        raise ApiError(400, "malformed", f"this is no request: {error!r}; send another") from None


def _from_raw(kind: str, raw: bytes) -> list[Any]:
    if kind != BYTES:
        found: list[Any] = np.frombuffer(raw, NUMPY[kind]).tolist()
        return found
    strings, position = [], 0
    while position < len(raw):
        (length,) = struct.unpack_from("<I", raw, position)
        strings.append(raw[position + 4 : position + 4 + length])
        position += 4 + length
    return strings


def _to_raw(kind: str, flat: list[Any]) -> bytes:
    if kind != BYTES:
        return np.array(flat, NUMPY[kind]).tobytes()
    strings = [item if isinstance(item, bytes) else str(item).encode() for item in flat]
    return b"".join(struct.pack("<I", len(item)) + item for item in strings)
