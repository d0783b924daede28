"""The inputs that are asked for most often: which they are, whose, and how people read them."""

from typing import Any

import pytest

from gateway_app.core.hotcache import MAX_TEXT_BYTES, NAME_BYTES, NAMED, HotCache
from gateway_app.figures.hottest import SHOWN, TEXT, hottest, readable
from gateway_app.gateway import Gateway
from inference_site.lib.asks import key_of, pack_v2
from tests.support.manyworkers import gateway_of


def ask(gateway: Gateway, text: bytes, times: int) -> int:
    """Requests as the gateway meets them, each answered by a worker or by its cache; their key."""
    (model,) = gateway.lineup
    key = key_of(text, model.inference.seed)
    for _ in range(times):
        if model.inference.hot.get(key, text) is None:
            model.inference.hot.offer(key, text, b"[1]", "worker_1")
    return key


def rows(gateway: Gateway) -> list[dict[str, Any]]:
    return hottest(gateway.lineup, gateway.table)


async def test_the_most_frequent_first_with_their_share_and_owner() -> None:
    gateway, _ = gateway_of(3)
    for number in range(20):
        ask(gateway, b"[%d]" % number, times=3 + number)
    ask(gateway, b"[99]", times=2)  # too seldom to be worth a look
    found = rows(gateway)
    assert [each["input"] for each in found] == [f"[{number}]" for number in range(19, 19 - SHOWN, -1)]
    first = found[0]
    key = ask(gateway, b"[19]", times=0)
    assert first == {
        "model": "digits",
        "key": f"{key:016x}",
        "input": "[19]",
        "count": 22,
        "share": round(22 / (sum(range(3, 23)) + 2), 4),
        "owner": gateway.table.owners(key)[0],
        "kept": True,
    }


async def test_what_cannot_be_kept_is_shown_too() -> None:
    gateway, _ = gateway_of(3)
    large = b"[" + b"1," * MAX_TEXT_BYTES + b"1]"
    ask(gateway, large, times=5)
    (row,) = rows(gateway)
    assert (row["count"], row["kept"], row["input"]) == (5, False, large[: TEXT - 1].decode() + "…")


async def test_nothing_is_known_while_the_cache_is_off() -> None:
    gateway, _ = gateway_of(3)
    ask(gateway, b"[1]", times=5)
    (model,) = gateway.lineup
    model.inference.use_hot_cache(False)
    assert rows(gateway) == []


def test_of_what_cannot_be_kept_only_so_much_is_remembered() -> None:
    cache = HotCache(max_entries=0)
    for number in range(3 * NAMED):
        text = b"[%d," % number + b"0," * NAME_BYTES + b"0]"
        for _ in range(3):
            cache.get(number, text)
            cache.offer(number, text, b"[1]", "worker_1")
    found = cache.popular(10 * NAMED)
    assert len(found) == NAMED
    assert {len(each.text) for each in found} == {NAME_BYTES}
    assert not cache.keeps(1, b"[1]")


TENSOR = b'[{"name":"x","shape":[1,3,2,2],"datatype":"FP32","parameters":{"binary_data_size":48}}]'
WORDS = b'[{"name":"t","shape":[2],"datatype":"BYTES","data":["a","b"]}]'
TWO = b'[{"name":"a","shape":[1],"datatype":"INT8"},{"name":"b","shape":[2,2],"datatype":"BOOL"}]'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"[0.1, 0.2]", "[0.1, 0.2]"),
        (b'{"ids": [1, 2]}', '{"ids": [1, 2]}'),
        (b"[" + b"1," * 200 + b"1]", "[" + "1," * 59 + "…"),
        (b"[\xff]", "[�]"),
        (pack_v2(TENSOR, None, True, bytes(48)), "float32[1,3,2,2] 48 B"),
        (pack_v2(TENSOR, None, True, bytes(602_112)), "float32[1,3,2,2] 602 kB"),
        (pack_v2(TENSOR, None, True, bytes(3_000_000)), "float32[1,3,2,2] 3.0 MB"),
        (pack_v2(WORDS, None, False), 'string[2] ["a","b"]'),
        (pack_v2(TWO, None, True, bytes(5)), "int8[1], bool[2,2] 5 B"),
        (pack_v2(b'[{"name":"%b"}]' % (b"n" * 5000), None, True, bytes(10)), "tensors, 5 kB"),
        (b"\x02", "tensors, 1 B"),
        (b"", ""),
    ],
)  # fmt: skip
def test_inputs_as_people_read_them(text: bytes, shown: str) -> None:
    assert readable(text[:NAME_BYTES], len(text)) == shown
