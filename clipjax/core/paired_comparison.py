"""Whether one model is better than another on the same samples."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from clipjax.core.statistics import (
    Cells,
    OfCounts,
    Seed,
    central_interval,
    drawn_counts,
    without_nan,
)

_ENUMERATED = 14  # differences of which all 2^n patterns of signs are looked at
_CHUNK_ENTRIES = 2**21
# One binomial for all differences of one size, where there are so many of them on average.
_SHARED_SIGNS = 8
# Sums of the same numbers in another order differ by rounding; scores are of order 1.
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The score of a second model less that of a first.

    Attributes:
        value: the difference.
        low: lower end of its interval.
        high: upper end.
        p_value: two-sided; how often a difference like this comes by chance between equal models.
    """

    value: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    cells_a: Cells,
    of_counts_a: OfCounts,
    cells_b: Cells,
    of_counts_b: OfCounts,
    *,
    resamples: int,
    seed: Seed = 0,
    coverage: float = 0.95,
) -> Difference:
    """Returns how much better the second model is, both drawn by the same clusters.

    Args:
        cells_a: of every cluster, its cell for the first model; see `bootstrap_metric`.
        of_counts_a: of the first model.
        cells_b: of the same clusters, in the same order, for the second model.
        of_counts_b: of the second model.
        resamples: how often the clusters are drawn again, with replacement.
        seed: of the draws.
        coverage: share of the resampled differences inside the interval.

    Raises:
        ValueError: if there are no clusters, or most draws have nothing to score.
    """
    value = float(_once(cells_b, of_counts_b) - _once(cells_a, of_counts_a))
    draws = paired_draws(cells_a, of_counts_a, cells_b, of_counts_b, resamples=resamples, seed=seed)
    return difference_of_draws(value, draws, coverage=coverage)


def paired_draws(
    cells_a: Cells,
    of_counts_a: OfCounts,
    cells_b: Cells,
    of_counts_b: OfCounts,
    *,
    resamples: int,
    seed: Seed = 0,
) -> Float[np.ndarray, " draws"]:
    """Returns the resampled differences behind `paired_bootstrap`.

    Raises:
        ValueError: if there are no clusters, or most draws have nothing to score.
    """
    blocks = drawn_counts(cells_a, cells_b, resamples=resamples, seed=seed)
    return without_nan(np.concatenate([of_counts_b(b) - of_counts_a(a) for a, b in blocks]))


def difference_of_draws(
    value: float, draws: Float[np.ndarray, " draws"], *, coverage: float = 0.95
) -> Difference:
    """Returns a difference with interval and p value from its resampled values.

    The p value is the level at which the interval of these draws would begin to hold zero, so that
    the two agree. The difference itself counts as one more draw on either side, so that it is never
    0.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 15.4 (achieved
    level from an interval); Phipson and Smyth 2010, "Permutation P-values Should Never Be Zero",
    https://arxiv.org/abs/1603.05766 (the one that is added).
    """
    low, high = central_interval(draws, coverage)
    beyond = min((draws <= _ROUNDING).sum(), (draws >= -_ROUNDING).sum())
    p_value = min(1.0, 2 * (1 + int(beyond)) / (1 + len(draws)))
    return Difference(value=value, low=low, high=high, p_value=p_value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignFlips:
    """What a permutation test found.

    Attributes:
        p_value: two-sided.
        method: "binomial" (exact), "all signs" (exact) or "random signs".
    """

    p_value: float
    method: str


def paired_permutation(
    differences: Float[np.ndarray, " clusters"], *, resamples: int = 9999, seed: Seed = 0
) -> SignFlips:
    """Tests whether the mean of paired differences is zero: if so, each may have either sign.

    Where all that are not zero have one size (hits and misses), the number of positive ones is
    binomial and the test is McNemar's, exact. Up to 14 that are not zero have all their signs
    looked at. Otherwise signs are drawn, and the data count as one of the draws.

    Args:
        differences: score of the second model less that of the first, of every cluster.
        resamples: draws of signs, where they are drawn.
        seed: of the draws.

    Raises:
        ValueError: if there are none, or one is not finite.

    Source: Fisher 1935, "The Design of Experiments", section 21 (signs); McNemar 1947, "Note on the
    sampling error of the difference between correlated proportions or percentages", Psychometrika
    12; Phipson and Smyth 2010, https://arxiv.org/abs/1603.05766 (p values).

    >>> paired_permutation(np.array([1.0, 1, 1, 1, 0, -1]))
    SignFlips(p_value=0.375, method='binomial')
    """
    differences = np.asarray(differences, np.float64)
    if not differences.size:
        raise ValueError("no differences to test")
    if not np.isfinite(differences).all():
        raise ValueError("a difference is not finite")
    nonzero = differences[abs(differences) > _ROUNDING]
    sizes = abs(nonzero)
    if not nonzero.size or np.ptp(sizes) <= _ROUNDING:
        return SignFlips(
            p_value=_binomial(int((nonzero > 0).sum()), nonzero.size), method="binomial"
        )
    needed = abs(nonzero.sum()) - _ROUNDING * sizes.sum()
    if nonzero.size <= _ENUMERATED:
        patterns = np.arange(2**nonzero.size)[:, None] >> np.arange(nonzero.size) & 1
        sums = (2 * patterns - 1) @ sizes
        return SignFlips(p_value=float((abs(sums) >= needed).mean()), method="all signs")
    extreme = sum(
        int((abs(sums) >= needed).sum()) for sums in _sums_of_signs(sizes, resamples, seed)
    )
    return SignFlips(p_value=(1 + extreme) / (1 + resamples), method="random signs")


def _sums_of_signs(sizes: np.ndarray, resamples: int, seed: Seed) -> Iterator[np.ndarray]:
    """Yields blocks of sums in which each of `sizes` has a random sign."""
    rng = np.random.default_rng(seed)
    distinct, repeats = np.unique(sizes, return_counts=True)
    together = _SHARED_SIGNS * len(distinct) <= len(sizes)
    terms = distinct if together else np.sort(sizes)
    rows = max(1, _CHUNK_ENTRIES // len(terms))
    for first in range(0, resamples, rows):
        shape = (min(rows, resamples - first), len(terms))
        if together:
            signs = 2 * rng.binomial(repeats, 0.5, size=shape) - repeats
        else:
            bits = np.frombuffer(rng.bytes(-(-shape[0] * shape[1] // 8)), np.uint8)
            signs = 2.0 * np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape) - 1
        yield signs @ terms


def holm(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Returns p values adjusted so that one true null among all is rejected with at most alpha.

    It holds however the tests depend on each other.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(6).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    out = np.empty(len(p_values))
    out[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return out


def benjamini_hochberg(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Returns p values adjusted so that of those below alpha, at most alpha are false on average.

    It holds for tests that are independent or depend on each other positively.

    Source: Benjamini and Hochberg 1995, "Controlling the False Discovery Rate", Journal of the
    Royal Statistical Society B 57.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).round(6).tolist()
    [0.03, 0.04, 0.04]
    """
    order = np.argsort(p_values, kind="stable")[::-1]
    scaled = p_values[order] * len(p_values) / np.arange(len(p_values), 0, -1)
    out = np.empty(len(p_values))
    out[order] = np.minimum(1, np.minimum.accumulate(scaled))
    return out


def _once(cells: np.ndarray, of_counts: OfCounts) -> float:
    return of_counts(np.bincount(cells).astype(np.float64)[None])[0]


def _binomial(positive: int, trials: int) -> float:
    """Two-sided exact p value of so many heads of a fair coin."""
    from scipy import special

    return min(1.0, 2 * float(special.bdtr(min(positive, trials - positive), trials, 0.5)))
