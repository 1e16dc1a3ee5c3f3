"""A score with what it rests on."""

import dataclasses

import numpy as np

from clipjax.core.statistics import bootstrap_interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over samples.

    Attributes:
        value: the score, in [0, 1].
        low: lower end of the 95 % bootstrap interval.
        high: upper end.
        chance: what guessing gives; for classification always naming the commonest class, where
            that is more.
        samples: number of samples behind the score.
    """

    value: float
    low: float
    high: float
    chance: float
    samples: int


def estimate(hits: np.ndarray, *, chance: float, resamples: int) -> Estimate:
    """Returns the mean of `hits` with its interval.

    Raises:
        ValueError: if there are no samples.
    """
    low, high = bootstrap_interval(hits, resamples=resamples)
    return Estimate(
        value=float(np.mean(hits)), low=low, high=high, chance=chance, samples=len(hits)
    )


def rank_of_best(
    queries: np.ndarray, items: np.ndarray, is_match: "MatchRows", *, chunk: int = 1024
) -> np.ndarray:
    """Returns how many wrong items are at least as similar as the best matching one.

    Ties count against the query, so that a model which maps everything to one point scores zero;
    so does NaN.

    Args:
        queries: float32 [queries, embed], unit rows.
        items: float32 [items, embed], unit rows.
        is_match: rows `first` to `last` of the matrix of matches, bool [last - first, items].
        chunk: queries of one block of the similarity matrix.
    """
    ranks = np.empty(len(queries), np.int64)
    # Equal items are multiplied once: a product of matrices may round its last columns otherwise.
    distinct, number = np.unique(items, axis=0, return_inverse=True)
    number = number.reshape(-1)
    for first in range(0, len(queries), chunk):
        last = min(first + chunk, len(queries))
        similarity = (queries[first:last] @ distinct.T)[:, number]
        match = is_match(first, last)
        best = np.where(match, similarity, -np.inf).max(axis=1, keepdims=True)
        ranks[first:last] = (~(similarity < best) & ~match).sum(axis=1)
    return ranks


class MatchRows:
    """Which items match which queries: those with the same label."""

    def __init__(self, query_labels: np.ndarray, item_labels: np.ndarray):
        self._queries, self._items = query_labels, item_labels

    def __call__(self, first: int, last: int) -> np.ndarray:
        """Returns rows `first` to `last`."""
        return self._queries[first:last, None] == self._items[None, :]
