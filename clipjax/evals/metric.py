"""A score that can be computed again with some images left out and others counted twice.

What is drawn again in a bootstrap are clusters: usually the images, each with all that depends on
it (its captions, its instances). Clusters that a metric cannot tell apart share a cell, so that a
resample is one multinomial over cells instead of n indices, and a comparison of two models one over
pairs of cells.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

Counts = Float[np.ndarray, "resamples cells"]
OfCounts = Callable[[Counts], Float[np.ndarray, " resamples"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A score in [0, 1] as a function of how often each kind of cluster occurs.

    Attributes:
        cells: of every cluster, the cell that it is in, 0 to cells - 1.
        of_counts: maps how often each cell was drawn, several draws at once, to the scores; NaN
            where a draw has nothing to score.
        chance: what guessing gives.
        samples: queries or images behind the score, for people.
        sums: where the score is sum(sums) / sum(sizes), those of every cluster: two models can then
            be told apart by an exact test.
        sizes: as `sums`; they do not depend on the model.
    """

    cells: Int[np.ndarray, " clusters"]
    of_counts: OfCounts
    chance: float
    samples: int
    sums: Float[np.ndarray, " clusters"] | None = None
    sizes: Float[np.ndarray, " clusters"] | None = None

    @property
    def counts(self) -> Float[np.ndarray, " cells"]:
        """How many clusters are in each cell."""
        return np.bincount(self.cells).astype(np.float64)

    @property
    def value(self) -> float:
        """The score itself: every cluster counted once."""
        return float(self.of_counts(self.counts[None])[0])


def mean_metric(
    sums: Float[np.ndarray, " clusters"],
    sizes: Float[np.ndarray, " clusters"] | None = None,
    *,
    chance: float,
) -> Metric:
    """Returns the mean over queries, drawn by clusters.

    Args:
        sums: of every cluster, the sum over its queries; with one query a cluster, its value.
        sizes: queries of every cluster; 1 by default.
        chance: what guessing gives.

    Raises:
        ValueError: if there is nothing to take the mean of.

    >>> hits = mean_metric(np.array([1.0, 0.0, 1.0, 1.0]), chance=0.5)
    >>> hits.value, hits.cells.tolist()
    (0.75, [1, 0, 1, 1])
    """
    sums = np.asarray(sums, np.float64)
    sizes = np.ones_like(sums) if sizes is None else np.asarray(sizes, np.float64)
    if not sizes.sum():
        raise ValueError("no samples to take the mean of")
    distinct, cells = np.unique(np.stack([sums, sizes], 1), axis=0, return_inverse=True)

    def of_counts(counts: Counts) -> Float[np.ndarray, " resamples"]:
        with np.errstate(invalid="ignore"):
            return (counts @ distinct[:, 0]) / (counts @ distinct[:, 1])

    return Metric(
        cells=cells.reshape(-1),
        of_counts=of_counts,
        chance=chance,
        samples=int(sizes.sum()),
        sums=sums,
        sizes=sizes,
    )
