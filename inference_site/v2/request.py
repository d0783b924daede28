"""The body of a V2 inference: what is read from it, and the ask that it becomes. No tensor is parsed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from inference_site.lib.asks import Bytes, pack_v2
from inference_site.lib.errors import ApiError
from inference_site.lib.payload import sentence_of

MAX_TIMEOUT_MS = 600_000

_NOTHING = msgspec.Raw()


class Parameters(msgspec.Struct):
    """Those of a request that are heeded; `timeout` is in microseconds, 0: none."""

    timeout: int | None = None
    binary_data_output: bool = False


class InferHead(msgspec.Struct):
    """The JSON of a request; what it says of tensors is left as the client wrote it."""

    inputs: msgspec.Raw
    outputs: msgspec.Raw = _NOTHING
    id: str | None = None
    parameters: Parameters | None = None


class InferRequest(NamedTuple):
    """An inference; `ask` as the module asks has it, `timeout_ms` None if its client has not said so."""

    ident: str | None
    ask: bytes
    timeout_ms: int | None


_decode = msgspec.json.Decoder(InferHead).decode


class _Identified(msgspec.Struct):
    id: str


_decode_id = msgspec.json.Decoder(_Identified).decode


def read_request(parts: Sequence[Bytes], header_length: int | None = None) -> InferRequest:
    """Reads a body, whose parts are copied once, into the ask. `header_length` is how much of it is JSON; None: all.

    Raises ApiError 400 for what is no inference.
    """
    text, tensors = _split(parts, header_length)
    try:
        if not text.isascii():
            text.decode()  # members that nobody asked for are skipped unread, their encoding too
        head = _decode(text)
    except RecursionError:
        raise ApiError(400, "nested_too_deep", "the body's JSON is nested too deep; data is a list") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _explain(text, error, bool(tensors) or header_length is not None) from None
    inputs, outputs, parameters = memoryview(head.inputs), bytes(head.outputs), head.parameters
    if bytes(inputs[:1]) != b"[":
        raise ApiError(400, "invalid_inputs", 'inputs is no list; send [{"name", "shape", "datatype", "data"}, ...]')
    if outputs == b"null":  # as clients write a member that is not set
        outputs = b""
    if outputs and outputs[:1] != b"[":
        raise ApiError(400, "invalid_outputs", 'outputs is no list; send [{"name"}, ...], or leave it out')
    timeout_ms, binary = None, False
    if parameters is not None:
        binary = parameters.binary_data_output
        timeout_ms = timeout_ms_of(parameters.timeout)
    # A list of no outputs asks for all of them, as no list does.
    wanted = outputs if outputs and outputs[1:-1].strip() else None
    return InferRequest(head.id, pack_v2(inputs, wanted, binary, *tensors), timeout_ms)


def timeout_ms_of(timeout_us: int | None) -> int | None:
    """`parameters.timeout` in milliseconds; None for no limit. Raises ApiError 400 for less than 0."""
    if not timeout_us:
        return None
    if timeout_us < 0:
        raise ApiError(400, "invalid_timeout", f"parameters.timeout is {timeout_us}; send microseconds, 0 for no limit")
    return min(-(-timeout_us // 1000), MAX_TIMEOUT_MS)


def id_of(parts: Sequence[Bytes], header_length: int | None) -> str | None:
    """The request's id if there is one that can be read, for the answer to a request that is refused."""
    try:
        return _decode_id(_split(parts, header_length)[0]).id
    except (ApiError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _split(parts: Sequence[Bytes], header_length: int | None) -> tuple[bytes, Sequence[Bytes]]:
    """(JSON, raw tensors)."""
    if header_length is None:
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts), ()
    if parts and len(parts[0]) < header_length:
        parts = (b"".join(parts),)
    size = len(parts[0]) if parts else 0
    if size < header_length:
        message = (
            f"Inference-Header-Content-Length is {header_length}, the body is {size} bytes; it is the length of the"
            " JSON that the body begins with, before compression"
        )
        raise ApiError(400, "invalid_header_length", message)
    view = memoryview(parts[0])
    return bytes(view[:header_length]), (view[header_length:], *parts[1:])


def _explain(text: bytes, error: Exception, binary: bool) -> ApiError:
    message = str(error)
    if isinstance(error, msgspec.ValidationError):
        if "missing required field" in message:
            return ApiError(400, "missing_inputs", 'inputs is missing; send {"inputs": [...]}, and what else is needed')
        where = message.rpartition("`$")[2].rstrip("`").lstrip(".") if "`$" in message else ""
        what = message.partition(" - at")[0].replace("`", "").lower()
        if not where:
            return ApiError(400, "invalid_body", f"the body's JSON is wrong: {what}; send an object with inputs")
        return ApiError(400, f"invalid_{where.partition('.')[0]}", f"{where} is wrong: {what}; change its type")
    if not text.strip():
        return ApiError(400, "empty_body", "the body is empty; send a JSON object with inputs")
    hint = "" if binary else "; a body with binary data needs the header Inference-Header-Content-Length"
    if isinstance(error, UnicodeDecodeError):
        return ApiError(400, "invalid_encoding", f"the body's JSON is not valid UTF-8: {error}{hint}")
    return ApiError(400, "invalid_json", f"the body's JSON is not valid: {sentence_of(error, text)}{hint}")
