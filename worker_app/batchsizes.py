"""How many batches of which size were released, and why: of one model, or of all."""

from __future__ import annotations

from typing import Any

from worker_app.core.batcher import Release

# By the power of two that the rows of a batch do not exceed; only sizes that there were.
Histogram = dict[int, dict[Release, int]]


def add_batches(into: Histogram, more: Histogram) -> None:
    """Adds another model's."""
    for size, counts in more.items():
        found = into.setdefault(size, dict.fromkeys(Release, 0))
        for release, count in counts.items():
            found[release] += count


def by_release(sizes: Histogram) -> dict[Release, int]:
    """The batches of all sizes."""
    return {release: sum(counts[release] for counts in sizes.values()) for release in Release}


def batch_rows(sizes: Histogram) -> list[dict[str, Any]]:
    """As figures: one row for each power of two up to the largest that there was, the smallest first."""
    none = dict.fromkeys(Release, 0)
    largest = max(sizes, default=0)
    powers = (1 << exponent for exponent in range(largest.bit_length()))
    return [
        {"size": size, **{str(release): count for release, count in sizes.get(size, none).items()}} for size in powers
    ]
