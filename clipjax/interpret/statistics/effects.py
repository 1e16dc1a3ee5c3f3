"""What taking a unit away does to the logits of concepts, beside what other units do."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from clipjax.core.statistics import bootstrap_metric
from clipjax.interpret.statistics.ranks import Pairs


def concept_drops(
    on: Pairs,
    everywhere: Pairs,
    positives: Float[np.ndarray, " concepts"],
    total: float,
) -> Pairs:
    """Returns by how much more a concept's logit falls where the concept is than where it is not.

    C = mean of l_c(x) - l_c(x without the unit) over stimuli of c, less the same over the others;
    NaN for a concept that all or no stimuli have.

    Args:
        on: sums of the differences of logits over the stimuli of each concept.
        everywhere: the same over all stimuli.
        positives: stimuli of each concept.
        total: all stimuli.

    >>> concept_drops(np.array([[4.0]]), np.array([[5.0]]), np.array([2.0]), 4.0).tolist()
    [[1.5]]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        drops = on / positives - (everywhere - on) / (total - positives)
    drops[:, (positives == 0) | (positives == total)] = np.nan
    return drops


def among_others(values: Pairs) -> Pairs:
    """Returns each value less the mean of the other units', in their standard deviations.

    The unit itself is left out of both, so that one large effect among few units does not hide
    itself. NaN with fewer than two others; infinite where the others are all alike.

    Args:
        values: of each unit; columns are looked at one by one.

    >>> among_others(np.array([[3.0], [1.0], [-1.0]])).round(4).tolist()
    [[2.1213], [0.0], [-2.1213]]
    """
    units = len(values)
    if units < 3:
        return np.full(values.shape, np.nan)
    values = values - values.mean(axis=0)
    others = -values / (units - 1)  # their mean, since the sum of all is 0
    squares = (values**2).sum(axis=0) - values**2
    variance = (squares - (units - 1) * others**2) / (units - 2)
    spread = np.sqrt(np.maximum(variance, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (values - others) / spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class EffectRatio:
    """How much more the found units do for their concepts than other units do for the same.

    Attributes:
        pairs: found pairs of a unit and a concept that were looked at.
        others: units that are compared with.
        found: mean drop of the found pairs.
        other: mean drop of the other units, for the concepts of the found pairs, each as often.
        other_size: the same of absolute drops, which is what noise alone would give.
        ratio: found / other_size; a unit that does as much by accident is counted against it.
        low: end of the interval of the ratio, over draws of units.
        high: other end.
        positive: share of the found pairs whose drop is above 0.
    """

    pairs: int
    others: int
    found: float
    other: float
    other_size: float
    ratio: float
    low: float
    high: float
    positive: float

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers by name."""
        return dataclasses.asdict(self)


def effect_ratio(
    drops: Pairs,
    found: Bool[np.ndarray, "units concepts"],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> EffectRatio | None:
    """Returns how the drops of found pairs compare with those of units that were not found.

    Args:
        drops: of each pair, see `concept_drops`; NaN where a concept cannot be told.
        found: which pairs were found. A unit that was found for nothing is one of the others.
        resamples: draws of units for the interval.
        seed: of the draws.

    Returns:
        The comparison; None if there is no found pair, or nothing to compare it with.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    here = found & ~np.isnan(drops)
    others = np.logical_not(found.any(axis=1))
    asked = here.any(axis=0)
    if not here.any() or not others.any():
        return None
    values = np.where(here[:, asked], drops[:, asked], 0.0)
    sums, pairs = values.sum(axis=1), here[:, asked].sum(axis=1).astype(np.float64)
    rest = np.where(others[:, None], drops[:, asked], 0.0)
    weight = here[:, asked].astype(np.float64)

    def of_counts(counts: Float[np.ndarray, "draws units"], *, size: bool) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = counts @ (abs(rest) if size else rest) / (counts @ others)[:, None]
            share = counts @ weight
            return (mean * share).sum(axis=1) / share.sum(axis=1)

    def ratio(counts: Float[np.ndarray, "draws units"]) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return counts @ sums / (counts @ pairs) / of_counts(counts, size=True)

    once = np.ones((1, len(drops)))
    low, high = bootstrap_metric(np.arange(len(drops)), ratio, resamples=resamples, seed=seed)
    return EffectRatio(
        pairs=int(here.sum()),
        others=int(others.sum()),
        found=float(sums.sum() / pairs.sum()),
        other=float(of_counts(once, size=False)[0]),
        other_size=float(of_counts(once, size=True)[0]),
        ratio=float(ratio(once)[0]),
        low=low,
        high=high,
        positive=float((drops[here] > 0).mean()),
    )
