"""Messages and their bytes. The server itself only handles bytes, so that this system says what is wrong with them."""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf.json_format import ParseDict

from inference_site.lib.errors import ApiError


def parse(message: Any, data: bytes) -> Any:
    """The message of this type in `data`. Raises ApiError 400."""
    try:
        return message.FromString(data)
    except Exception as error:  # protobuf's DecodeError, whose module has no types
        name = message.DESCRIPTOR.name
        text = f"the message is no {name} ({error}); send what the .proto file says"
        raise ApiError(400, "invalid_message", text) from None


def encode(message: Any) -> bytes:
    """Its bytes."""
    data: bytes = message.SerializeToString()
    return data


def message_of(message: Any, document: dict[str, Any]) -> Any:
    """The message of this type that says what a document of the HTTP side does; their members have the same names."""
    return ParseDict(msgspec.to_builtins(document), message())
