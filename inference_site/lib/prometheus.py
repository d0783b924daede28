"""Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/.

Its own library writes no counter whose name does not end in `_total`, and those that Triton's dashboards ask for don't.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
NONE: Labels = {}

_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
_IN_LABEL = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


@dataclass(frozen=True, slots=True)
class Family:
    """What samples of one name have in common. A counter only grows."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str


class Samples:
    """Values as they are at one moment. To `add` is cheap, and `text` can be made later and elsewhere."""

    def __init__(self) -> None:
        self._found: dict[Family, list[tuple[str, Labels, float]]] = {}

    def add(self, family: Family, value: float, labels: Labels = NONE) -> None:
        """A counter's or a gauge's value; each set of labels once."""
        self._found.setdefault(family, []).append(("", labels, value))

    def add_histogram(
        self, family: Family, counts: Iterable[tuple[float, int]], more: int, total: float, labels: Labels = NONE
    ) -> None:
        """counts: upper bounds, ascending, and how many values were above the one before and not above this one;
        more: how many were above the last; total: the sum of all values."""
        samples = self._found.setdefault(family, [])
        seen = 0
        for bound, count in counts:
            seen += count
            samples.append(("_bucket", {**labels, "le": f"{bound:.12g}"}, seen))
        seen += more
        samples.append(("_bucket", {**labels, "le": "+Inf"}, seen))
        samples.append(("_sum", labels, total))
        samples.append(("_count", labels, seen))

    def text(self) -> str:
        """All of it as Prometheus reads it."""
        lines = []
        for family, samples in self._found.items():
            lines.append(f"# HELP {family.name} {family.help.translate(_IN_HELP)}\n")
            lines.append(f"# TYPE {family.name} {family.kind}\n")
            lines.extend(f"{family.name}{suffix}{_braced(labels)} {value!r}\n" for suffix, labels, value in samples)
        return "".join(lines)


def thinned(bounds: Sequence[float], counts: Sequence[int], kept: range) -> tuple[list[tuple[float, int]], int]:
    """A histogram as `add_histogram` takes it, with fewer bounds: those at the indices in `kept`. There is one count
    more than there are bounds, for what is above the last."""
    found, first = [], 0
    for index in kept:
        found.append((bounds[index], sum(counts[first : index + 1])))
        first = index + 1
    return found, sum(counts[first:])


def _braced(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_IN_LABEL)}"' for name, value in labels.items()) + "}"
