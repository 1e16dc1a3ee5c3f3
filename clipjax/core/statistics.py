"""How sure a score is."""

import numpy as np


def bootstrap_interval(
    values: np.ndarray, *, resamples: int, seed: int = 0, coverage: float = 0.95
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
    rng = np.random.default_rng(seed)
    # A resample is fixed by how often each distinct value was drawn: one multinomial, and for
    # hits and misses one binomial, instead of n indices.
    distinct, counts = np.unique(values, return_counts=True)
    drawn = rng.multinomial(values.size, counts / values.size, size=resamples)
    tail = 100 * (1 - coverage) / 2
    low, high = np.percentile(drawn @ distinct / values.size, [tail, 100 - tail])
    return float(low), float(high)
