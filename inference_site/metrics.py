"""What gateway and worker both tell Prometheus of a model: V2's statistics, under the names that Triton has for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from inference_site.lib.catalog import Statistics
from inference_site.lib.prometheus import Family, Labels, Samples

COUNTERS: tuple[tuple[Family, Callable[[Statistics], int]], ...] = (
    (
        Family("nv_inference_request_success", "counter", "Requests that were answered, also from a cache"),
        lambda found: found.success,
    ),
    (
        Family("nv_inference_count", "counter", "Rows that were computed, without cache hits"),
        lambda found: found.inferences,
    ),
    (
        Family("nv_inference_exec_count", "counter", "Batches that were computed"),
        lambda found: found.executions,
    ),
    (
        Family("nv_inference_request_duration_us", "counter", "Microseconds that answered requests took"),
        lambda found: found.success_ns // 1000,
    ),
    (
        Family("nv_inference_queue_duration_us", "counter", "Microseconds that computed requests waited for the model"),
        lambda found: found.queue_ns // 1000,
    ),
    (
        Family("nv_inference_compute_input_duration_us", "counter", "Microseconds of putting inputs together"),
        lambda found: found.compute_input_ns // 1000,
    ),
    (
        Family("nv_inference_compute_infer_duration_us", "counter", "Microseconds of running the model"),
        lambda found: found.compute_infer_ns // 1000,
    ),
    (
        Family("nv_inference_compute_output_duration_us", "counter", "Microseconds of encoding outputs"),
        lambda found: found.compute_output_ns // 1000,
    ),
    (
        Family("nv_cache_num_hits_per_model", "counter", "Requests that were answered from a cache"),
        lambda found: found.cache_hits,
    ),
    (
        Family("nv_cache_num_misses_per_model", "counter", "Requests that were not found in the worker's cache"),
        lambda found: found.cache_misses,
    ),
    (
        Family("nv_cache_num_evictions", "counter", "Results that a cache has forgotten for want of room"),
        lambda found: found.cache_evictions,
    ),
)
FAILURES = Family(
    "nv_inference_request_failure",
    "counter",
    "Requests that failed: REJECTED, it was too late when it was their turn; BACKEND, the model could not be run; "
    "OTHER, among them inputs that the model does not take",
)
REASONS: Mapping[str, Callable[[Statistics], int]] = {
    "REJECTED": lambda found: found.fail_late,
    "BACKEND": lambda found: found.fail_engine,
    "OTHER": lambda found: found.fail - found.fail_late - found.fail_engine,
}
QUEUE = Family("inference_queue_duration_seconds", "histogram", "How long computed requests waited for the model")
COMPUTE = Family("inference_compute_duration_seconds", "histogram", "How long the batches of computed requests took")
BATCH = Family("inference_batch_size", "histogram", "Rows of the batches that were computed")
REQUEST = Family("inference_request_duration_seconds", "histogram", "How long answered requests took in this process")
PENDING = Family("nv_inference_pending_request_count", "gauge", "Requests that wait for the model")
ENTRIES = Family("nv_cache_num_entries", "gauge", "Results that the caches of the workers hold")
UTIL = Family("nv_cache_util", "gauge", "How full the fullest of these is, 0 to 1: by entries or bytes, the higher")
UPTIME = Family("inference_uptime_seconds", "gauge", "Since the process began to serve")

# A duration is counted by the bits of its nanoseconds. Bounds from 1 µs to 69 s, each twice the one before.
_BITS = range(10, 37)
# Larger batches are counted by powers of two as well.
_ROWS = tuple(1 << exponent for exponent in range(11))


def labels_of(name: str, version: str) -> dict[str, str]:
    """As Triton labels a model."""
    return {"model": name, "version": version}


def add_statistics(samples: Samples, found: Statistics, labels: Labels) -> None:
    """Those of one version of a model."""
    for family, value in COUNTERS:
        samples.add(family, value(found), labels)
    for reason, value in REASONS.items():
        samples.add(FAILURES, value(found), {**labels, "reason": reason})
    add_spread(samples, QUEUE, found.queue_spread, found.queue_ns, labels)
    compute_ns = found.compute_input_ns + found.compute_infer_ns + found.compute_output_ns
    add_spread(samples, COMPUTE, found.compute_spread, compute_ns, labels)
    counts = dict.fromkeys(_ROWS, 0)
    more = 0
    for size, (count, _) in found.batches.items():
        bound = 1 << (size - 1).bit_length()
        if bound in counts:
            counts[bound] += count
        else:
            more += count
    samples.add_histogram(BATCH, counts.items(), more, found.inferences, labels)


def add_spread(samples: Samples, family: Family, spread: Mapping[int, int], total_ns: int, labels: Labels) -> None:
    """Durations as Statistics has them."""
    first, last = _BITS[0], _BITS[-1]
    counts = [((1 << bits) / 1e9, spread.get(bits, 0)) for bits in _BITS]
    counts[0] = counts[0][0], sum(count for bits, count in spread.items() if bits <= first)
    more = sum(count for bits, count in spread.items() if bits > last)
    samples.add_histogram(family, counts, more, total_ns / 1e9, labels)
