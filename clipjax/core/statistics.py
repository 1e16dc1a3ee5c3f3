"""How sure a score is: intervals from its samples, and the noise of seeds."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

Cells = Int[np.ndarray, " clusters"]
OfCounts = Callable[[np.ndarray], np.ndarray]
Seed = int | Sequence[int]

_CHUNK_ENTRIES = 2**22  # counts held at once: 32 MB
# A multinomial costs this many times more for each cell than an index does for each cluster.
_CELL_COST = 24


def bootstrap_interval(
    values: np.ndarray, *, resamples: int, seed: Seed = 0, coverage: float = 0.95
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of the mean of `values`.

    Args:
        values: one number a sample; for accuracy and recall 0 or 1.
        resamples: how often the samples are drawn again, with replacement.
        seed: of the draws.
        coverage: share of the resampled means inside the interval.

    Raises:
        ValueError: if there are no values.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    values = np.asarray(values, np.float64)
    if not values.size:
        raise ValueError("no values to draw from")
    distinct, cells = np.unique(values, return_inverse=True)
    return bootstrap_metric(
        cells.reshape(-1),
        lambda counts: counts @ distinct / values.size,
        resamples=resamples,
        seed=seed,
        coverage=coverage,
    )


def bootstrap_metric(
    cells: Cells,
    of_counts: OfCounts,
    *,
    resamples: int,
    seed: Seed = 0,
    coverage: float = 0.95,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of a score that is a function of counts.

    Args:
        cells: of every cluster (what is drawn again, with all that depends on it), its cell.
        of_counts: maps how often each cell was drawn, [draws, cells], to scores, [draws]; NaN
            where there is nothing to score.
        resamples: how often the clusters are drawn again, with replacement.
        seed: of the draws.
        coverage: share of the resampled scores inside the interval.

    Raises:
        ValueError: if there are no clusters, or most draws have nothing to score.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3; clusters
    are drawn whole as in Field and Welsh 2007, "Bootstrapping clustered data".
    """
    draws = bootstrap_draws(cells, of_counts, resamples=resamples, seed=seed)
    return central_interval(draws, coverage)


def bootstrap_draws(
    cells: Cells, of_counts: OfCounts, *, resamples: int, seed: Seed = 0
) -> Float[np.ndarray, " draws"]:
    """Returns the scores behind `bootstrap_metric`, without those of draws that have none.

    Raises:
        ValueError: if there are no clusters, or most draws have nothing to score.
    """
    parts = [of_counts(c) for (c,) in drawn_counts(cells, resamples=resamples, seed=seed)]
    return without_nan(np.concatenate(parts))


def central_interval(draws: np.ndarray, coverage: float) -> tuple[float, float]:
    """Returns the ends of the central share `coverage` of `draws`."""
    tail = 100 * (1 - coverage) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def without_nan(draws: np.ndarray) -> np.ndarray:
    """Returns the draws that have a score.

    Raises:
        ValueError: if more than half have none.
    """
    kept = draws[~np.isnan(draws)]
    if 2 * len(kept) < len(draws):
        raise ValueError(
            f"{len(draws) - len(kept):,} of {len(draws):,} resamples have nothing to score: too "
            "few samples for an interval"
        )
    return kept


def drawn_counts(
    *cells: Cells, resamples: int, seed: Seed = 0
) -> Iterator[tuple[Float[np.ndarray, "draws _"], ...]]:
    """Yields how often each cell occurs when the clusters are drawn again with replacement.

    The order of the clusters does not matter, nor does it matter how draws are cut into blocks.

    Args:
        cells: of every cluster, its cell; several arrays see the same draws.
        resamples: draws over all blocks.
        seed: of the draws.

    Yields:
        A block of draws: for each array of `cells` its counts, [draws, highest cell + 1].

    Raises:
        ValueError: if there are no clusters.
    """
    total = len(cells[0])
    if not total:
        raise ValueError("no clusters to draw from")
    sizes = [int(c.max()) + 1 for c in cells]
    joint, of_joint = np.unique(np.ravel_multi_index(cells, sizes), return_counts=True)
    owners = np.unravel_index(joint, sizes)
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK_ENTRIES // max(len(joint), *sizes))
    by_cell = len(joint) * _CELL_COST <= total
    # Sorted, so that the draws do not depend on the order of the clusters.
    ordered = () if by_cell else [np.repeat(owner, of_joint) for owner in owners]
    for first in range(0, resamples, rows):
        draws = min(rows, resamples - first)
        if by_cell:
            drawn = rng.multinomial(total, of_joint / total, size=draws)
            yield tuple(map(_summed, [drawn] * len(sizes), owners, sizes))
            continue
        block = tuple(np.empty((draws, size)) for size in sizes)
        for row in range(draws):
            chosen = rng.integers(0, total, total)
            for counts, owner, size in zip(block, ordered, sizes, strict=True):
                counts[row] = np.bincount(owner[chosen], minlength=size)
        yield block


def _summed(drawn: np.ndarray, owner: np.ndarray, size: int) -> np.ndarray:
    """Adds the columns of `drawn` that have the same owner, [draws, size]."""
    order = np.argsort(owner, kind="stable")
    present, starts = np.unique(owner[order], return_index=True)
    out = np.zeros((len(drawn), size))
    out[:, present] = np.add.reduceat(drawn[:, order], starts, axis=1)
    return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """How much the scores of one recipe differ for no other reason than the seed.

    Attributes:
        runs: number of runs behind it.
        standard_deviation: of the scores, with n - 1 in the denominator.
        low: lower end of the interval of the standard deviation.
        high: upper end.
        smallest_difference: two single runs must differ by more than this, for the difference to
            be more than noise.
    """

    runs: int
    standard_deviation: float
    low: float
    high: float
    smallest_difference: float


def noise_floor(scores: Float[np.ndarray, " runs"], *, coverage: float = 0.95) -> NoiseFloor:
    """Returns the noise of runs that differ in nothing but the seed, if it is normal.

    The standard deviation has the interval of chi-square with n - 1 degrees of freedom. The
    difference of two further runs, divided by sqrt(2) times the estimated standard deviation,
    follows Student's t with as many: with few runs the floor is high, since little is known.

    Args:
        scores: one a run; at least two.
        coverage: of the interval, and of differences below the floor if there is but noise.

    Raises:
        ValueError: if there are fewer than two scores, or one is not finite.

    Source: NIST/SEMATECH e-Handbook of Statistical Methods, sections 7.2.3.1 (interval) and 7.3.1
    (two means, here of one run each), https://www.itl.nist.gov/div898/handbook; Bouthillier et al.
    2021, "Accounting for Variance in Machine Learning Benchmarks", https://arxiv.org/abs/2103.03098.

    >>> floor = noise_floor(np.array([0.60, 0.61, 0.62]))
    >>> round(floor.standard_deviation, 4), round(floor.smallest_difference, 4)
    (0.01, 0.0608)
    """
    from scipy import special

    scores = np.asarray(scores, np.float64)
    if len(scores) < 2:
        raise ValueError(f"the noise of seeds needs two runs or more; there is {len(scores)}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    freedom, tail = len(scores) - 1, (1 - coverage) / 2
    deviation = float(scores.std(ddof=1))
    # chdtri(v, p) is the value that chi-square exceeds with probability p.
    low, high = (
        deviation * float(np.sqrt(freedom / special.chdtri(freedom, p))) for p in (tail, 1 - tail)
    )
    quantile = float(special.stdtrit(freedom, 1 - tail))
    return NoiseFloor(
        runs=len(scores),
        standard_deviation=deviation,
        low=low,
        high=high,
        smallest_difference=quantile * float(np.sqrt(2)) * deviation,
    )
