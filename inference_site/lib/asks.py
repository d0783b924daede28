"""What an INFER frame asks of a model, and what its RESULT holds: three forms, told apart by the first byte of the ask.

* `[`: the text of `input_data`: the model's first input, flat. The result is the JSON list of the served output, flat.
* `{`: the text of `inputs` by name, `{"name": list, ...}`. The result is the same.
* 0x02: an ask of the Open Inference Protocol (V2): that byte, the length of a JSON head (4 bytes, little-endian), the
  head `{"inputs": [...], "outputs": [...]?, "binary_data_output": true?}` as the client wrote these members, and the
  raw tensors. The result is the length of a JSON text (4 bytes, little-endian), the text, which is the list that a
  reply has as its `outputs`, and the raw tensors of those of them that are binary.

What does not change the answer (the request's id, its timeout) is not part of an ask, so that equal
asks are equal bytes.
"""

from __future__ import annotations

from struct import Struct

from xxhash import xxh3_64_intdigest

Bytes = bytes | bytearray | memoryview

V2 = 0x02
_LENGTH = Struct("<I")
_V2_HEAD = Struct("<BI")


def seed_of(name: str, version: str) -> int:
    """What makes the keys of one model's asks differ from another's."""
    return xxh3_64_intdigest(f"{name}\0{version}".encode())


def key_of(ask: bytes, seed: int) -> int:
    """The routing key: 64 bits; `seed` is the model's."""
    return xxh3_64_intdigest(ask, seed)


def pack_v2(inputs: Bytes, outputs: Bytes | None, binary_output: bool, *tensors: Bytes) -> bytes:
    """An ask of V2, for which everything is copied once; `inputs` and `outputs` are JSON arrays as the client wrote
    them, `tensors` are what follows."""
    head = [b'{"inputs":', inputs, b',"binary_data_output":true}' if binary_output else b"}"]
    if outputs is not None:
        head[2:2] = b',"outputs":', outputs
    return b"".join((_V2_HEAD.pack(V2, sum(map(len, head))), *head, *tensors))


def unpack_v2(ask: bytes) -> tuple[memoryview, memoryview]:
    """(head, tensors) of an ask of V2, without a copy. Raises ValueError if it is not whole."""
    if len(ask) < _V2_HEAD.size:
        raise ValueError(f"an ask of {len(ask)} bytes is too short")
    _, length = _V2_HEAD.unpack_from(ask)
    view = memoryview(ask)
    head = view[_V2_HEAD.size : _V2_HEAD.size + length]
    if len(head) != length:
        raise ValueError(f"the head of an ask says {length} bytes, {len(head)} are there")
    return head, view[_V2_HEAD.size + length :]


def pack_v2_result(outputs: bytes, *tensors: Bytes) -> bytes:
    """The result of a V2 ask, for which everything is copied once; `outputs` is a JSON array."""
    return b"".join((_LENGTH.pack(len(outputs)), outputs, *tensors))


def unpack_v2_result(result: bytes) -> tuple[memoryview, memoryview]:
    """(outputs, tensors), without a copy. Raises ValueError if it is not whole."""
    if len(result) < _LENGTH.size:
        raise ValueError(f"a result of {len(result)} bytes is too short")
    (length,) = _LENGTH.unpack_from(result)
    view = memoryview(result)
    outputs = view[_LENGTH.size : _LENGTH.size + length]
    if len(outputs) != length:
        raise ValueError(f"the outputs of a result say {length} bytes, {len(outputs)} are there")
    return outputs, view[_LENGTH.size + length :]
