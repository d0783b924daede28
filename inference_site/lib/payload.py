"""Bodies of `/infer`: what is read from them and how an answer is written. No float is parsed in the gateway."""

from __future__ import annotations

import re

import msgspec

from inference_site.lib.errors import ApiError

_NOTHING = msgspec.Raw()


class InferRequest(msgspec.Struct):
    """The head of a request; `input_data` and `inputs` are left as the text that the client sent."""

    request_id: str
    input_data: msgspec.Raw = _NOTHING
    inputs: msgspec.Raw = _NOTHING
    model: str | None = None


class Identified(msgspec.Struct):
    """The id alone; the rest is skipped unread, however large."""

    request_id: str


_decode = msgspec.json.Decoder(InferRequest).decode
_decode_id = msgspec.json.Decoder(Identified).decode
_encode = msgspec.json.encode

# Where a decoder met what it can't read; what is often met there; and what it takes for the end of a text.
_PLACE = re.compile(r"\(byte (\d+)\)$")
_NO_NUMBER = re.compile(rb"NaN|Infinity")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


def decode_request(body: bytes) -> tuple[str, bytes, str | None]:
    """(request_id, ask, model's name if it is given); the ask is the text of `input_data`, a list, or of `inputs`, an
    object (see asks).

    Raises ApiError 400 for what is no JSON object with request_id and one of these two.
    """
    try:
        if not body.isascii():
            body.decode()  # members that nobody asked for are skipped unread, their encoding too
        request = _decode(body)
    except RecursionError:
        raise ApiError(400, "nested_too_deep", "the body is nested too deep; input_data is a flat list") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _explain(body, error) from None
    if request.model == "":
        raise ApiError(400, "invalid_model", 'model is ""; name a model, or leave it out for the default one')
    data, inputs = request.input_data, request.inputs
    if inputs is _NOTHING:
        if data is _NOTHING:
            message = "input_data is missing; the body needs request_id and input_data, or inputs by name"
            raise ApiError(400, "missing_input_data", message)
        text = bytes(data)
        if text[:1] == b"[":
            return request.request_id, text, request.model
        message = f"input_data is {_kind(text)}; send a flat list of numbers, such as [1.0, 2.5]"
        raise ApiError(400, "invalid_input_data", message)
    if data is not _NOTHING:
        raise ApiError(400, "ambiguous_inputs", "the body has input_data and inputs; send one of the two")
    text = bytes(inputs)
    if text[:1] == b"{":
        return request.request_id, text, request.model
    message = f'inputs is {_kind(text)}; send an object of lists by input name, such as {{"x": [1.0, 2.5]}}'
    raise ApiError(400, "invalid_inputs", message)


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


def _explain(body: bytes, error: Exception) -> ApiError:
    message = str(error)
    if isinstance(error, msgspec.ValidationError):
        if "missing required field" in message:
            name = message.rpartition("field `")[2].rstrip("`")
            return ApiError(400, f"missing_{name}", f"{name} is missing; the body needs request_id and input_data")
        got = message.partition("got `")[2].partition("`")[0]
        if "$.request_id" in message:
            return ApiError(400, "invalid_request_id", f"request_id is of type {got}; send a string")
        if "$.model" in message:
            return ApiError(400, "invalid_model", f"model is of type {got}; send the name of a model as a string")
        return ApiError(
            400, "invalid_body", f"the body is of type {got}; send an object with request_id and input_data"
        )
    if isinstance(error, UnicodeDecodeError):
        return ApiError(400, "invalid_encoding", f"the body is not valid UTF-8: {error}; encode it as UTF-8")
    if not body.strip():
        return ApiError(400, "empty_body", "the body is empty; send a JSON object with request_id and input_data")
    return ApiError(400, "invalid_json", f"the body is not valid JSON: {sentence_of(error, body)}")


def sentence_of(error: Exception, text: bytes) -> str:
    """What a decoder has found in a text, for people."""
    said = str(error).removeprefix("JSON is malformed: ")
    if (place := _PLACE.search(said)) and (found := _NO_NUMBER.match(text, int(place[1]))):
        return f"{found[0].decode()} is no number in JSON (byte {place[1]}); a binary tensor of /v2 can hold it"
    if said != "Input data was truncated":
        return said
    return "half of a surrogate pair is in a string" if _LONE_SURROGATE.search(text) else "it ends too early"


def _kind(text: bytes) -> str:
    kinds = {b"{": "an object", b"[": "a list", b'"': "a string", b"t": "a boolean", b"f": "a boolean", b"n": "null"}
    return kinds.get(text[:1], "a number")
