"""Batches by their size and by what released them."""

from worker_app.batchsizes import Histogram, add_batches, batch_rows, by_release
from worker_app.core.batcher import Release

FULL, TIMEOUT, FREE = Release.FULL, Release.TIMEOUT, Release.FREE


def test_sizes_of_several_models_add_up() -> None:
    found: Histogram = {}
    one = {1: {FULL: 0, TIMEOUT: 2, FREE: 3}}
    add_batches(found, one)
    add_batches(found, {1: {FULL: 1, TIMEOUT: 0, FREE: 1}, 8: {FULL: 5, TIMEOUT: 0, FREE: 0}})
    assert found == {1: {FULL: 1, TIMEOUT: 2, FREE: 4}, 8: {FULL: 5, TIMEOUT: 0, FREE: 0}}
    assert one == {1: {FULL: 0, TIMEOUT: 2, FREE: 3}}
    assert by_release(found) == {FULL: 6, TIMEOUT: 2, FREE: 4}


def test_every_power_of_two_up_to_the_largest_has_a_row() -> None:
    assert batch_rows({}) == []
    assert batch_rows({4: {FULL: 1, TIMEOUT: 0, FREE: 2}}) == [
        {"size": 1, "full": 0, "timeout": 0, "free": 0},
        {"size": 2, "full": 0, "timeout": 0, "free": 0},
        {"size": 4, "full": 1, "timeout": 0, "free": 2},
    ]
