"""What is sent: distinct inputs, encoded once, and the order in which they are asked for."""

from __future__ import annotations

import random

MAX_DISTINCT = 1000  # what one worker's cache holds by default, so that a second visit can be a hit
MAX_INPUT_BYTES = 64 * 1024 * 1024
BYTES_PER_VALUE = 9


def default_distinct(requests: int, values: int) -> int:
    """A tenth of the requests are new to the caches, unless that would not fit into them or into our memory."""
    return max(1, min(MAX_DISTINCT, requests // 10, MAX_INPUT_BYTES // (BYTES_PER_VALUE * values)))


def encode_inputs(distinct: int, values: int, rng: random.Random) -> list[bytes]:
    """`distinct` JSON arrays of `values` floats in [-1, 1), no two of them alike."""
    texts: dict[bytes, None] = {}
    while len(texts) < distinct:
        texts[(f"[{','.join([f'{rng.uniform(-1, 1):.6f}' for _ in range(values)])}]").encode()] = None
    return list(texts)


def ask_order(requests: int, distinct: int, rng: random.Random) -> list[int]:
    """Which input each request carries: every one equally often (give or take one), in random order."""
    order = [index % distinct for index in range(requests)]
    rng.shuffle(order)
    return order


def request_body(request_id: str, encoded_input: bytes) -> bytes:
    return b'{"request_id":"%b","input_data":%b}' % (request_id.encode(), encoded_input)
