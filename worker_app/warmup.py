"""The asks that a model is warmed up with: zeros (ones in the mask, or if it takes no zeros), in likely shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from inference_site.lib.asks import pack_v2
from inference_site.lib.record import Record
from worker_app.padding import Padder
from worker_app.samples import Sample
from worker_app.signature import Signature, SignatureError, Tensor, size_of
from worker_app.v2ask import pack_strings

# What sizes that may vary are tried with: some models can't take the smallest.
_FREE = (1, 8, 32, 224)
# Of all inputs together. Where several sizes vary, the larger of those above would take all memory.
_TRIED_BYTES, _ASKED_BYTES = 2**28, 2**30
# What two unlike rows are chosen as.
_PIXELS, _FEW, _ITS_OWN = "pixels", "few", "its own"


class WarmUp:
    """Binary asks of the Open Inference Protocol for all outputs."""

    def __init__(self, signature: Signature, record: Record, padder: Padder | None) -> None:
        """Raises SignatureError if the record's shapes are not those of the model's inputs."""
        self._signature = signature
        self._padder = padder
        self._shapes = [self._filled_up(each) for each in record.warm_up or ()]

    def probes(self) -> Iterator[bytes]:
        """Asks of one row, to be tried in turn until one runs."""
        for shape in self._shapes[:1]:
            yield self._ask([(1, *each[1:]) for each in shape] if self._signature.batch_axis else shape)
            return
        # Some models take no zero, and no empty text: texts that are numbers, say, or ids from 1 on.
        for ones in (False, True) if self._padder is None else (False,):
            yield from self._tried(ones)

    @property
    def is_asked_for(self) -> bool:
        """Whether the record names shapes."""
        return bool(self._shapes)

    def _tried(self, ones: bool) -> Iterator[bytes]:
        frees = _FREE if any(not isinstance(d, int) for each in self._signature.inputs for d in each.dims[1:]) else (1,)
        sizes = {} if self._padder is None else {self._padder.dimension: self._padder.buckets[0]}
        for free in frees:
            shapes = self._signature.shapes(1, free, sizes)
            if free == frees[0] or self._bytes(shapes) <= _TRIED_BYTES:
                yield self._ask(shapes, ones)

    def asked_for(self) -> Iterator[bytes]:
        """What the record asks for."""
        for shapes in self._shapes:
            yield self._ask(shapes)

    def of_length(self, probe: Sample, length: int) -> Sample:
        """The probe with another size of the padded dimension, which is not filled up."""
        assert self._padder is not None
        shapes = [self._padder.padded(index, each.shape, length) for index, each in enumerate(probe.arrays)]
        tensors = zip(self._signature.inputs, shapes, strict=True)
        arrays = tuple(
            np.full(shape, "" if each.dtype == object else int(index == self._padder.mask), each.dtype)
            for index, (each, shape) in enumerate(tensors)
        )
        return replace(probe, arrays=arrays, length=length, bucket=length)

    def unlike_rows(self, probe: Sample) -> Iterator[tuple[Sample, Sample]]:
        """Two rows of the probe's shape, to be tried in turn until both run: floats at random, around 0 and around 1;
        of 8 bits, which may be pixels, all that there is; other integers and booleans now 0, now 1, and all 1; then
        those of 8 bits too; then the probe's own values, and these from the end. Masks say that all is there."""
        if any(each.dtype.kind in "iu" and each.dtype.itemsize == 1 for each in self._signature.inputs):
            yield self._two_rows(probe, _PIXELS)
        yield self._two_rows(probe, _FEW)
        yield self._two_rows(probe, _ITS_OWN)

    def _two_rows(self, probe: Sample, chosen: str) -> tuple[Sample, Sample]:
        rng = np.random.default_rng(1)
        mask = self._padder.mask if self._padder is not None else None

        def values(index: int, each: Tensor, number: int) -> np.ndarray:
            like = probe.arrays[index]
            if each.dtype != object and (index == mask or "mask" in each.name.lower()):
                return np.ones_like(like)
            if each.dtype == object or chosen == _ITS_OWN:
                return like.reshape(-1)[::-1].reshape(like.shape) if number else like
            if each.dtype.kind == "f":
                return (rng.standard_normal(like.shape) + number).astype(each.dtype)
            if chosen == _PIXELS and each.dtype.kind in "iu" and each.dtype.itemsize == 1:
                limits = np.iinfo(each.dtype)
                return rng.integers(limits.min, limits.max, like.shape, each.dtype, endpoint=True)
            return np.ones_like(like) if number else (np.arange(like.size) % 2).reshape(like.shape).astype(each.dtype)

        first, second = (
            replace(
                probe, arrays=tuple(values(index, each, number) for index, each in enumerate(self._signature.inputs))
            )
            for number in range(2)
        )
        return first, second

    def _bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
        return sum(
            size_of(shape) * each.dtype.itemsize for each, shape in zip(self._signature.inputs, shapes, strict=True)
        )

    def _filled_up(self, named: dict[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
        """A shape for each input; those that the record leaves out have the sizes that the others give their names."""
        inputs = self._signature.inputs
        self._signature.check_names(named, "its record's warm_up")
        sizes: dict[str, int] = {}
        for each in inputs:
            shape = named.get(each.name)
            if shape is not None and not _fits(each, shape):
                raise SignatureError(
                    f"its record's warm_up has {list(shape)} for {each.name!r}, which is {each.shape_text}"
                )
            sizes |= {dim: size for dim, size in zip(each.dims, shape or (), strict=False) if isinstance(dim, str)}
        rows = next((shape[0] for shape in named.values() if shape), 1)
        others = self._signature.shapes(rows, 1, sizes)
        shapes = [named.get(each.name, other) for each, other in zip(inputs, others, strict=True)]
        if (size := self._bytes(shapes)) > _ASKED_BYTES:
            asked = ", ".join(f"{list(shape)} for {name!r}" for name, shape in named.items())
            raise SignatureError(
                f"its record's warm_up has {asked}: {size / 2**20:.0f} MiB of inputs, and {_ASKED_BYTES // 2**20} is "
                "the limit; name smaller shapes"
            )
        return shapes

    def _ask(self, shapes: Sequence[tuple[int, ...]], ones: bool = False) -> bytes:
        mask = self._padder.mask if self._padder is not None else None
        inputs = self._signature.inputs
        tensors = [
            _filled(each, shape, ones or index == mask)
            for index, (each, shape) in enumerate(zip(inputs, shapes, strict=True))
        ]
        return _packed(inputs, shapes, tensors)


def _fits(each: Tensor, shape: Sequence[int]) -> bool:
    sizes = zip(each.dims, shape, strict=False)
    return len(shape) == len(each.dims) and all(dim == size or not isinstance(dim, int) for dim, size in sizes)


def ask_of(inputs: Sequence[Tensor], sample: Sample) -> bytes:
    """A sample as a binary ask for all outputs."""
    tensors = [pack_strings(each) if each.dtype == object else each.tobytes() for each in sample.arrays]
    return _packed(inputs, [each.shape for each in sample.arrays], tensors)


def _packed(inputs: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], tensors: Sequence[bytes]) -> bytes:
    heads = [
        {
            "name": each.name,
            "datatype": each.datatype,
            "shape": shape,
            "parameters": {"binary_data_size": len(data)},
        }
        for each, shape, data in zip(inputs, shapes, tensors, strict=True)
    ]
    return pack_v2(msgspec.json.encode(heads), None, True, *tensors)


def _filled(each: Tensor, shape: tuple[int, ...], ones: bool) -> bytes:
    if each.dtype == object:
        return pack_strings(np.full(shape, "1" if ones else "", object))
    return np.ones(shape, each.dtype).tobytes() if ones else bytes(size_of(shape) * each.dtype.itemsize)
