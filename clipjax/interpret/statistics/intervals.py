"""How sure an AUROC is: intervals by DeLong's variance and by drawing stimuli again."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from clipjax.core.statistics import Seed, bootstrap_metric
from clipjax.interpret.statistics.ranks import midranks

_HALVINGS = 60  # of an interval of length 1: beyond the last bit


def delong_variance(
    activations: Float[np.ndarray, "stimuli units"], positive: Bool[np.ndarray, " stimuli"]
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
    """Returns the AUROC of each unit and its variance over draws of stimuli.

    Raises:
        ValueError: if there are fewer than two positives or two negatives.

    Source: DeLong, DeLong and Clarke-Pearson 1988, "Comparing the Areas under Two or More
    Correlated Receiver Operating Characteristic Curves", Biometrics 44; Sun and Xu 2014, "Fast
    Implementation of DeLong's Algorithm", IEEE Signal Processing Letters 21 (from mid-ranks).
    """
    on, off = activations[positive], activations[~positive]
    n_on, n_off = len(on), len(off)
    if min(n_on, n_off) < 2:
        raise ValueError(
            f"{n_on} positives and {n_off} negatives; an interval needs two of either or more"
        )
    ranks = midranks(np.concatenate([on, off]))
    above = (ranks[:n_on] - midranks(on)) / n_off  # of each positive, share of negatives below
    below = 1 - (ranks[n_on:] - midranks(off)) / n_on
    variance = above.var(axis=0, ddof=1) / n_on + below.var(axis=0, ddof=1) / n_off
    return above.mean(axis=0), variance


def delong_interval(
    activations: Float[np.ndarray, "stimuli units"],
    positive: Bool[np.ndarray, " stimuli"],
    *,
    coverage: float = 0.95,
    scale: Literal["logit", "plain"] = "logit",
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
    """Returns the ends of the interval of each unit's AUROC.

    Where positives and negatives are apart (AUROC 0 or 1) DeLong's variance is 0, and the interval
    is Newcombe's: what could the AUROC be, if this is what was seen?

    Args:
        activations: one row a stimulus.
        positive: whether a stimulus shows the concept.
        coverage: of the interval.
        scale: on which it is symmetric; "logit" stays inside 0 to 1 and covers better where there
            are few positives or the AUROC is high, "plain" is cut at 0 and 1.

    Raises:
        ValueError: if there are fewer than two positives or two negatives.

    Source: `delong_variance`; Qin and Hotilovac 2008, "Comparison of non-parametric confidence
    intervals for the area under the ROC curve of a continuous-scale diagnostic test", Statistical
    Methods in Medical Research 17 (logit); Newcombe 2006, "Confidence intervals for an effect size
    measure based on the Mann-Whitney statistic. Part 2", Statistics in Medicine 25, method 5.
    """
    from scipy import special

    auroc, variance = delong_variance(activations, positive)
    width = float(special.ndtri((1 + coverage) / 2))
    deviation = np.sqrt(variance)
    n_on = int(positive.sum())
    low, high = np.empty(len(auroc)), np.empty(len(auroc))
    inside = variance > 0
    a, reach = auroc[inside], width * deviation[inside]
    if scale == "plain":
        low[inside], high[inside] = np.maximum(0, a - reach), np.minimum(1, a + reach)
    else:
        middle, reach = special.logit(a), reach / (a * (1 - a))
        low[inside], high[inside] = special.expit(middle - reach), special.expit(middle + reach)
    # No variance without separation: all stimuli have one activation, or each half has.
    bound = _newcombe_bound(n_on, len(positive) - n_on, width)
    low[~inside] = np.where(auroc[~inside] == 1, bound, 0)
    high[~inside] = np.where(auroc[~inside] == 0, 1 - bound, 1)
    return low, high


def bootstrap_auroc_interval(
    activations: Float[np.ndarray, " stimuli"],
    positive: Bool[np.ndarray, " stimuli"],
    *,
    resamples: int = 2000,
    seed: Seed = 0,
    coverage: float = 0.95,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of one unit's AUROC, stimuli drawn again.

    Positives and negatives are drawn together, so that their number varies too.

    Args:
        activations: one a stimulus; average over views of one thing first.
        positive: whether a stimulus shows the concept.
        resamples: how often the stimuli are drawn again.
        seed: of the draws.
        coverage: share of the resampled scores inside the interval.

    Raises:
        ValueError: if there are no stimuli, or most draws lack positives or negatives.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    distinct, place = np.unique(activations, return_inverse=True)
    cells: Int[np.ndarray, " stimuli"] = 2 * place.reshape(-1) + positive

    def auroc(counts: np.ndarray) -> np.ndarray:
        padded = np.zeros((len(counts), 2 * len(distinct)))
        padded[:, : counts.shape[1]] = counts
        off, on = padded[:, 0::2], padded[:, 1::2]
        lower = np.cumsum(off, axis=1) - off / 2
        pairs = on.sum(axis=1) * off.sum(axis=1)
        ordered = (on * lower).sum(axis=1)
        return np.divide(ordered, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)

    return bootstrap_metric(cells, auroc, resamples=resamples, seed=seed, coverage=coverage)


def _newcombe_bound(n_on: int, n_off: int, width: float) -> float:
    """Returns the lowest AUROC for which 1 is no further than `width` standard deviations."""
    low, high = 0.0, 1.0
    star = (n_on + n_off) / 2 - 1
    for _ in range(_HALVINGS):
        a = (low + high) / 2
        shape = 1 + star * (1 - a) / (2 - a) + star * a / (1 + a)
        # (1 - a)^2 <= width^2 a (1 - a) shape / (n+ n-), divided by 1 - a.
        near = 1 - a <= width**2 * a * shape / (n_on * n_off)
        low, high = (low, a) if near else (a, high)
    return high
