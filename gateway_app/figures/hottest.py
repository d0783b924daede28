"""The inputs that are asked for most often, as people can read them."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

import msgspec

from gateway_app.core.hotcache import HotCache, Popular
from inference_site.lib.asks import V2

if TYPE_CHECKING:
    from gateway_app.core.call import Owners
    from gateway_app.modelset import ModelSet
    from gateway_app.served import ServedModel

SHOWN = 10
TEXT = 120  # characters
# Only so many models are looked at, the busiest: it takes some tenths of a millisecond of the loop for each.
MODELS = 4
_V2_HEAD_BYTES = 5
_NUMPY = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BOOL": "bool", "BYTES": "string"}
_NOTHING = msgspec.Raw()


class Tensor(msgspec.Struct):
    """An input in the head of a V2 ask; its data, if it is there and not behind the head, stays as it was sent."""

    datatype: str
    shape: list[int]
    data: msgspec.Raw = _NOTHING


class Head(msgspec.Struct):
    """The head of a V2 ask."""

    inputs: list[Tensor]


_decode_head = msgspec.json.Decoder(Head).decode


def hottest(models: ModelSet, owners: Owners) -> list[dict[str, Any]]:
    """At most `SHOWN` inputs, of the models that are asked most, the most frequent first; nothing of a model whose
    results the gateway does not keep. `count` and `share` are of the model's last 8,192 to 16,384 requests."""
    keeping = [model for model in models.served.values() if model.inference.hot_on and model.inference.hot.window]
    busiest = heapq.nlargest(MODELS, keeping, key=lambda model: model.rate.per_second())
    found = [(model, popular) for model in busiest for popular in model.inference.hot.popular(SHOWN)]
    return [
        _row(model, popular, owners) for model, popular in heapq.nlargest(SHOWN, found, key=lambda each: each[1].count)
    ]


def _row(model: ServedModel, popular: Popular, owners: Owners) -> dict[str, Any]:
    cache: HotCache = model.inference.hot
    return {
        "model": model.name,
        "key": f"{popular.key:016x}",
        "input": readable(popular.text, popular.size_bytes),
        "count": popular.count,
        "share": round(popular.count / cache.window, 4),
        "owner": next(iter(owners.owners(popular.key)), ""),
        "kept": popular.kept,
    }


def readable(text: bytes, size_bytes: int) -> str:
    """The beginning of an ask of that many bytes for people: what was sent, or what tensors it holds."""
    if text[:1] == bytes([V2]):
        return _shortened(_readable_v2(text, size_bytes))
    return _shortened(text.decode(errors="replace"), size_bytes > len(text))


def _readable_v2(text: bytes, size_bytes: int) -> str:
    length = int.from_bytes(text[1:_V2_HEAD_BYTES], "little")
    try:
        inputs = _decode_head(text[_V2_HEAD_BYTES : _V2_HEAD_BYTES + length]).inputs
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # only its beginning is here
        return f"tensors, {_size(size_bytes)}"
    tensors = ", ".join(
        f"{_NUMPY.get(each.datatype, each.datatype.lower())}{each.shape}".replace(", ", ",") for each in inputs
    )
    if len(inputs) == 1 and inputs[0].data is not _NOTHING:
        return f"{tensors} {bytes(inputs[0].data).decode(errors='replace')}"
    return f"{tensors} {_size(size_bytes - _V2_HEAD_BYTES - length)}"


def _shortened(text: str, more: bool = False) -> str:
    return text if len(text) <= TEXT and not more else f"{text[: TEXT - 1]}…"


def _size(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1e6:.1f} MB"
