"""Bodies of `/infer`: what is read from them and how an answer is written. No float is parsed in the gateway."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import msgspec

from inference_site.lib.errors import ApiError

N = TypeVar("N", float, int | float)


class InferRequest(msgspec.Struct):
    """The head of a request; `input_data` is left as the text that the client sent."""

    request_id: str
    input_data: msgspec.Raw


class Identified(msgspec.Struct):
    """The id alone; the rest is skipped unread, however large."""

    request_id: str


_decode = msgspec.json.Decoder(InferRequest).decode
_decode_floats = msgspec.json.Decoder(list[float]).decode
_decode_mixed = msgspec.json.Decoder(list[int | float]).decode
_decode_id = msgspec.json.Decoder(Identified).decode
_encode = msgspec.json.encode


def decode_request(body: bytes) -> tuple[str, bytes]:
    """(request_id, text of input_data). Raises ApiError 400 for what is no JSON object with these two members."""
    try:
        if not body.isascii():
            body.decode()  # members that nobody asked for are skipped unread, their encoding too
        request = _decode(body)
        text = bytes(request.input_data)
        if text[:1] == b"[":
            return request.request_id, text
    except RecursionError:
        raise ApiError(400, "nested_too_deep", "the body is nested too deep; input_data is a flat list") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _explain(body, error) from None
    kind = _kind(text)
    raise ApiError(400, "invalid_input_data", f"input_data is {kind}; send a flat list of numbers, such as [1.0, 2.5]")


def decode_floats(text: bytes) -> list[float]:
    """The numbers of input_data. Raises ApiError 400 for anything but a flat list of finite numbers."""
    return _decode_list(_decode_floats, text)


def decode_numbers(text: bytes) -> list[int | float]:
    """Like `decode_floats`, but whole numbers stay exact."""
    return _decode_list(_decode_mixed, text)


def _decode_list(decode: Callable[[bytes], list[N]], text: bytes) -> list[N]:
    try:
        return decode(text)
    except msgspec.ValidationError as error:
        where = str(error).rpartition("`$")[2].rstrip("`")
        what = str(error).partition(" - at")[0].rpartition("got ")[2].replace("`", "")
        what = "out of range" if "out of range" in what else what
        raise ApiError(
            400, "invalid_input_data", f"input_data{where} is {what}; every item must be a finite number"
        ) from None
    except RecursionError:
        raise ApiError(400, "nested_too_deep", "input_data is nested too deep; it is a flat list") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, "invalid_json", f"input_data is not valid JSON: {_sentence(error)}") from None
    except ValueError:  # Python itself refuses to read integers of more than 4,300 digits
        raise ApiError(400, "invalid_input_data", "input_data holds a number that is out of range") from None


def request_id_of(body: bytes) -> str | None:
    """The request's id if the body has one that can be read, for the answer to a request that is refused."""
    try:
        return _decode_id(body).request_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def encode_answer(request_id: str, output: bytes, node_json: bytes, cached: bool, time_us: int) -> bytes:
    """The JSON of an answer; `output` and `node_json` (a JSON string) are already encoded."""
    return b'{"request_id":%b,"output_data":%b,"node_id":%b,"cached":%b,"inference_time_us":%d}' % (
        _encode(request_id),
        output,
        node_json,
        b"true" if cached else b"false",
        time_us,
    )


def first_unfit(values: list[float], limit: float) -> int | None:
    """Index of the first value that is beyond ±limit."""
    return next((i for i, value in enumerate(values) if not math.fabs(value) <= limit), None)


def _explain(body: bytes, error: Exception) -> ApiError:
    message = str(error)
    if isinstance(error, msgspec.ValidationError):
        if "missing required field" in message:
            name = message.rpartition("field `")[2].rstrip("`")
            return ApiError(400, f"missing_{name}", f"{name} is missing; the body needs request_id and input_data")
        if "$.request_id" in message:
            got = message.partition("got `")[2].partition("`")[0]
            return ApiError(400, "invalid_request_id", f"request_id is of type {got}; send a string")
        got = message.partition("got `")[2].partition("`")[0]
        return ApiError(
            400, "invalid_body", f"the body is of type {got}; send an object with request_id and input_data"
        )
    if isinstance(error, UnicodeDecodeError):
        return ApiError(400, "invalid_encoding", f"the body is not valid UTF-8: {_sentence(error)}; encode it as UTF-8")
    if not body.strip():
        return ApiError(400, "empty_body", "the body is empty; send a JSON object with request_id and input_data")
    return ApiError(400, "invalid_json", f"the body is not valid JSON: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    return str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")


def _kind(text: bytes) -> str:
    return {b"{": "an object", b'"': "a string", b"t": "a boolean", b"f": "a boolean", b"n": "null"}.get(
        text[:1], "a number"
    )
