"""Scores of groups of samples: each alone, their mean, and the worst of them."""

import numpy as np
from jaxtyping import Bool, Float, Int

from clipjax.evals.metric import Counts, Metric, mean_metric

Hits = Bool[np.ndarray, " samples"]
Groups = Int[np.ndarray, " samples"]


def group_share(hits: Hits, groups: Groups, group: int, *, chance: float) -> Metric:
    """Returns the share of hits within one group; NaN in a draw that holds nothing of it."""
    inside = groups == group
    return mean_metric((hits & inside).astype(np.float64), inside.astype(float), chance=chance)


def mean_of_groups(hits: Hits, groups: Groups, *, chance: float) -> Metric:
    """Returns the mean over groups of their shares of hits, however large each group is.

    Groups are those that occur in the draw. With classes as groups this is balanced accuracy.

    >>> hits = np.array([True, True, False, True])
    >>> mean_of_groups(hits, np.array([0, 0, 0, 1]), chance=0.5).value
    0.8333333333333333
    """
    cells, distinct, first = _cells(hits, groups)

    def of_counts(counts: Counts) -> Float[np.ndarray, " resamples"]:
        shares = _shares(counts, distinct, first)
        occurs = ~np.isnan(shares)
        with np.errstate(invalid="ignore"):
            return np.where(occurs, shares, 0).sum(axis=1) / occurs.sum(axis=1)

    return Metric(cells=cells, of_counts=of_counts, chance=chance, samples=len(hits))


def worst_of_groups(hits: Hits, groups: Groups, *, chance: float) -> Metric:
    """Returns the lowest share of hits among the groups that occur in the draw.

    The lowest of several noisy shares is lower than the share of the group that is truly worst, the
    more so the smaller the groups: read it with its interval.

    Args:
        hits: of every sample.
        groups: of every sample; those of -1 belong to none and do not count.
        chance: what guessing gives.

    >>> hits = np.array([True, False, True, False])
    >>> worst_of_groups(hits, np.array([0, 0, 1, -1]), chance=0.5).value
    0.5
    """
    cells, distinct, first = _cells(hits, groups)
    outside = distinct[first] < 0

    def of_counts(counts: Counts) -> Float[np.ndarray, " resamples"]:
        shares = _shares(counts, distinct, first)
        lowest = np.where(np.isnan(shares) | outside, np.inf, shares).min(axis=1)
        return np.where(np.isinf(lowest), np.nan, lowest)

    samples = int((groups >= 0).sum())
    return Metric(cells=cells, of_counts=of_counts, chance=chance, samples=samples)


def _cells(hits: Hits, groups: Groups) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the cell of every sample, what each cell holds and where each group begins.

    What a cell holds is 2 * group + hit, in ascending order.
    """
    distinct, cells = np.unique(2 * groups.astype(np.int64) + hits, return_inverse=True)
    _, first = np.unique(distinct // 2, return_index=True)
    return cells, distinct, first


def _shares(
    counts: Counts, distinct: np.ndarray, first: np.ndarray
) -> Float[np.ndarray, "resamples groups"]:
    with np.errstate(invalid="ignore"):
        hits = np.add.reduceat(counts * (distinct % 2), first, axis=1)
        return hits / np.add.reduceat(counts, first, axis=1)
