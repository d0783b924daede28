"""What `GET /metrics` answers, read by Prometheus' own library and held to what it does not check."""

from __future__ import annotations

import math
import re
from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """Values by name and labels."""

    def __init__(self, text: str) -> None:
        assert text.endswith("\n")
        self.kinds: dict[str, str] = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
        told = re.findall(r"^# (?:HELP|TYPE) (\S+)", text, re.MULTILINE)
        assert told == [name for name in self.kinds for _ in range(2)], "HELP, then TYPE, once for each name"
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            assert family.type in ("counter", "gauge", "histogram"), family.name
            assert family.documentation, family.name
            for sample in family.samples:
                # The library gives counters the suffix that it would write them with.
                name = sample.name if sample.name in self.kinds else sample.name.removesuffix("_total")
                key = name, frozenset(sample.labels.items())
                assert key not in self._values, f"{key} is there twice"
                self._values[key] = sample.value
        self._check_histograms()

    def __call__(self, name: str, /, **labels: str) -> float:
        """The value with exactly these labels."""
        return self._values[name, frozenset(labels.items())]

    def total(self, name: str, /, **labels: str) -> float:
        """The sum of all values that have these labels, and maybe others."""
        return sum(self._with(name, **labels).values())

    def labels(self, name: str) -> list[dict[str, str]]:
        """Those that the name is there with."""
        return [dict(found) for (each, found) in self._values if each == name]

    def counters(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """All that may only grow."""
        return {
            key: value
            for key, value in self._values.items()
            if self.kinds.get(key[0], "histogram") in ("counter", "histogram")
        }

    def below(self, name: str, /, **labels: str) -> list[tuple[float, float]]:
        """A histogram's bounds, ascending, and how many values are not above each."""
        found = self._with(f"{name}_bucket", **labels)
        return sorted((float(dict(key)["le"]), count) for key, count in found.items())

    def _with(self, name: str, /, **labels: str) -> dict[frozenset[tuple[str, str]], float]:
        return {
            key: value for (each, key), value in self._values.items() if each == name and labels.items() <= set(key)
        }

    def _check_histograms(self) -> None:
        series: defaultdict[tuple[str, frozenset[tuple[str, str]]], list[tuple[float, float]]] = defaultdict(list)
        for (name, key), value in self._values.items():
            if name.endswith("_bucket"):
                labels = dict(key)
                bound = float(labels.pop("le"))
                series[name.removesuffix("_bucket"), frozenset(labels.items())].append((bound, value))
        for (name, key), found in series.items():
            bounds, counts = zip(*sorted(found), strict=True)
            assert bounds[-1] == math.inf
            assert list(counts) == sorted(counts), f"{name}: {counts}"
            assert counts[-1] == self._values[f"{name}_count", key]
            assert (f"{name}_sum", key) in self._values
        assert {name for name, kind in self.kinds.items() if kind == "histogram"} == {name for name, _ in series}
