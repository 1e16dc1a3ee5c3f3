"""Measures of mixing against their definitions, computed another way."""

import itertools
import math
import statistics

import numpy as np
import pytest

from clipjax.data.batch_schedule import every_step
from clipjax.data.order import Order, shuffled
from clipjax.data.order_quality import order_quality
from clipjax.data.streams import WindowedShuffle, WithReplacement


def spearman(first, second):
    """1 - 6 sum d^2 / (n (n^2 - 1)): Spearman's own formula, for ranks without ties."""
    n = len(first)
    squares = sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
    return 1 - 6 * squares / (n * (n * n - 1))


def epochs_of(order, count):
    """The examples of the first two epochs, from batches alone (the epoch ends with a batch)."""
    steps = count // order.batches.size(0)
    run = [int(e) for step in range(2 * steps) for e in order.examples(order.samples(step))]
    return run[:count], run[count:]


def places(epoch):
    return [epoch.index(example) for example in range(len(epoch))]


def windowed(counts, lanes, window, batch=8, seed=0):
    stream = WindowedShuffle(np.array(counts), seed, lanes, window)
    return Order(streams=(stream,), batches=every_step(batch), seed=seed, lanes=lanes)


ORDERS = {
    "full": shuffled(num_examples=64, global_batch_size=8, seed=1),
    "windows of one shard": windowed([8] * 8, 1, 1),
    "windows of two, unequal": windowed([3, 13, 9, 7, 16, 16], 1, 2),
    "two lanes": windowed([8] * 8, 2, 1),
    "four lanes": windowed([16] * 8, 4, 2),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_both_measures_follow_from_the_batches_alone(order):
    count = order.num_examples
    first, second = epochs_of(order, count)
    assert sorted(first) == sorted(second) == list(range(count))
    found = order_quality(order)
    assert found["rank_correlation"] == pytest.approx(spearman(places(first), places(second)))
    distance = statistics.median(abs(b - a) for a, b in itertools.pairwise(first))
    assert found["neighbour_distance"] == pytest.approx(distance / count)


def test_the_full_shuffle_is_as_good_as_chance():
    n = 20_000
    found = order_quality(shuffled(num_examples=n, global_batch_size=50, seed=7))
    assert abs(found["rank_correlation"]) < 5 / math.sqrt(n)
    assert found["rank_correlation"] == found["rank_correlation_of_full_shuffle"]
    # |U - V| of independent uniform numbers has the median 1 - sqrt(1/2).
    assert found["neighbour_distance"] == pytest.approx(1 - math.sqrt(0.5), abs=0.02)


def test_windows_bring_neighbours_closer_and_leave_epochs_unlike():
    one, four = (order_quality(windowed([100] * 200, 1, window, batch=50)) for window in (1, 4))
    assert one["neighbour_distance"] < 100 / 20_000  # within a shard
    # A quarter of the neighbours lie in one shard, the others anywhere.
    expected = 1 - math.sqrt(1 - (0.5 - 0.25) / 0.75)
    assert four["neighbour_distance"] == pytest.approx(expected, abs=0.03)
    for found in (one, four):
        assert abs(found["rank_correlation"]) < 5 / math.sqrt(200)  # shards move as a whole


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_a_few_examples_too_the_measures_are_numbers(count):
    for stream in (None, WithReplacement(count, 0)):
        order = shuffled(num_examples=count, global_batch_size=2, seed=0)
        if stream is not None:
            order = Order(streams=(stream,), batches=every_step(2), seed=0)
        assert all(math.isfinite(value) for value in order_quality(order).values())
