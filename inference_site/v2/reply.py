"""Answers of V2 as HTTP has them: a JSON text, and behind it the raw tensors of binary outputs."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from inference_site.lib.asks import unpack_v2_result

_encode = msgspec.json.encode


def encode_reply(result: bytes, name: str, version: str, ident: str | None) -> tuple[bytes, bytes]:
    """(header lines, body) of the answer to an inference; `result` as the module asks has it."""
    outputs, tensors = unpack_v2_result(result)
    head = _head(name, version)
    if ident is not None:
        head += b'"id":%b,' % _encode(ident)
    head += b'"outputs":'
    body = b"".join((head, outputs, b"}", tensors))
    if not tensors:
        return b"", body
    length = len(head) + len(outputs) + 1
    lines = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n" % length
    return lines, body


@lru_cache(maxsize=256)
def _head(name: str, version: str) -> bytes:
    return b'{"model_name":%b,"model_version":%b,' % (_encode(name), _encode(version))
