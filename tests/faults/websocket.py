"""The frames of a WebSocket as a stranger in the middle reads and writes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import pack, unpack_from

import numpy as np

BINARY = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame with its bytes as they came, and what they carry, unmasked."""

    raw: bytes
    opcode: int
    payload: bytes


def frame(payload: bytes, opcode: int = BINARY) -> bytes:
    """One whole message from a server: final and not masked."""
    size = len(payload)
    if size < 126:
        head = pack(">BB", 0x80 | opcode, size)
    elif size < 2**16:
        head = pack(">BBH", 0x80 | opcode, 126, size)
    else:
        head = pack(">BBQ", 0x80 | opcode, 127, size)
    return head + payload


class Splitter:
    """Takes bytes as they come and gives the HTTP head of the upgrade, then whole frames."""

    def __init__(self) -> None:
        self._buffer = b""
        self._upgraded = False

    def feed(self, data: bytes) -> Iterator[bytes | Frame]:
        """The head as bytes, once; then frames."""
        self._buffer += data
        if not self._upgraded:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._upgraded, self._buffer = True, rest
            yield head + end
        while (found := self._frame()) is not None:
            yield found

    def _frame(self) -> Frame | None:
        data = self._buffer
        if len(data) < 2:
            return None
        start, size = 2, data[1] & 0x7F
        if size >= 126:
            form, start = (">H", 4) if size == 126 else (">Q", 10)
            if len(data) < start:
                return None
            (size,) = unpack_from(form, data, 2)
        masked = data[1] & 0x80
        end = start + (4 if masked else 0) + size
        if len(data) < end:
            return None
        payload = data[end - size : end]
        if masked:
            payload = _unmask(payload, data[start : start + 4])
        self._buffer = data[end:]
        return Frame(data[:end], data[0] & 0x0F, payload)


def _unmask(payload: bytes, key: bytes) -> bytes:
    mask = np.resize(np.frombuffer(key, np.uint8), len(payload))
    return (np.frombuffer(payload, np.uint8) ^ mask).tobytes()
