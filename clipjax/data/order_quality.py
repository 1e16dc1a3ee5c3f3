"""How well an order mixes: what a windowed one gives up against the full shuffle."""

import numpy as np

from clipjax.data.order import Order, shuffled

_MOST = 2_000_000


def order_quality(order: Order) -> dict[str, float]:
    """Returns how alike the orders of consecutive epochs are, beside the full shuffle's.

    Of the first source: Spearman's rank correlation of the places of its examples in its first
    epoch and in its second; and the median distance in the data of two neighbours of the order,
    over the number of examples (1 - sqrt(1/2) if they are independent). 0 of a single example.

    Args:
        order: of a run.

    Source: Spearman 1904, "The Proof and Measurement of Association between Two Things".
    """
    stream = order.streams[0]
    count = min(stream.num_examples, _MOST)
    full = shuffled(num_examples=stream.num_examples, global_batch_size=1, seed=order.seed)
    out = {}
    for name, one in (("", order), ("_of_full_shuffle", full)):
        first, second = (_places(one, epoch, count) for epoch in (0, 1))
        out[f"rank_correlation{name}"] = _correlation(first, second)
        if stream.num_examples == 1:
            out[f"neighbour_distance{name}"] = 0.0
            continue
        neighbours = one.streams[0].examples(*_sequence(one, 0, count))
        distance = np.median(np.abs(np.diff(neighbours)))
        out[f"neighbour_distance{name}"] = float(distance / stream.num_examples)
    return out


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / scale) if scale else 0.0


def _sequence(order: Order, epoch: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = epoch * order.streams[0].num_examples + np.arange(count)
    return order.places(numbers)


def _places(order: Order, epoch: int, count: int) -> np.ndarray:
    """Returns where each example comes in an epoch, or a rank among the first of its places."""
    examples = order.streams[0].examples(*_sequence(order, epoch, count))
    places = np.full(order.streams[0].num_examples, count, np.int64)
    places[examples[::-1]] = np.arange(count)[::-1]
    return places
