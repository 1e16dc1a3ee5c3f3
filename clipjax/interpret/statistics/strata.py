"""Ranks compared only between stimuli that are alike in what could explain a unit instead."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from clipjax.config import UserError
from clipjax.interpret.statistics.ranks import (
    FacetScores,
    Pairs,
    count_positives,
    facet_scores,
    midranks,
    rank_spread,
    unit_blocks,
    upper_tail,
)

BINS = 30

Strata = Int[np.ndarray, "stimuli groupings"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StratifiedScores:
    """What the strata say of all pairs of a unit and a concept.

    Attributes:
        z: van Elteren's statistic.
        p_value: one-sided; 1 where no stratum holds both positives and negatives.
        informative: share of each concept's positives that lie in strata with negatives too.
    """

    z: Pairs
    p_value: Pairs
    informative: Float[np.ndarray, " concepts"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlledScores:
    """One facet's scores, raw and with confounds held still.

    Attributes:
        raw: without regard to confounds.
        stratified: one for each grouping of the stimuli; empty without confounds.
        p_value: the largest of all, which is what is tested.
    """

    raw: FacetScores
    stratified: list[StratifiedScores]
    p_value: Pairs


def confound_strata(
    confounds: Float[np.ndarray, "stimuli confounds"],
    *,
    bins: int = BINS,
    joint: Literal["each", "principal", "crossed"] = "each",
) -> Strata:
    """Returns quantile bins of confounds, as one or more groupings of the stimuli.

    A confound that lies between the bins' edges still varies inside a bin: more bins leave less of
    it, and fewer positives that have a negative to be compared with.

    Args:
        confounds: such as luminance or length; only their order matters.
        bins: of each grouping, at most.
        joint: "each" gives a grouping to every confound, to be tested one by one; "principal" bins
            the first principal component of their ranks, which misses what is not along it;
            "crossed" crosses as many bins of each as make `bins` together.

    Raises:
        UserError: if a confound is not finite.

    >>> confound_strata(np.array([[3.0], [1.0], [2.0], [4.0]]), bins=2)[:, 0].tolist()
    [1, 0, 0, 1]
    """
    wrong = np.argwhere(~np.isfinite(confounds))
    if len(wrong):
        row, column = wrong[0]
        raise UserError(
            f"confounds: number {column} of stimulus {row} is {confounds[row, column]}; expected a "
            "finite number."
        )
    total, count = confounds.shape
    ranks = midranks(confounds)
    if joint == "principal":
        spread = np.maximum(np.sqrt(rank_spread(ranks)), 1e-300)
        scaled = (ranks - (total + 1) / 2) / spread
        _, _, axes = np.linalg.svd(scaled, full_matrices=False)
        ranks = midranks(np.round(scaled @ axes[0], 12)[:, None])
    each = bins if joint != "crossed" else max(1, int(bins ** (1 / max(1, count)) + 1e-9))
    cut: np.ndarray = ((ranks - 0.5) * each / total).astype(np.int64)
    if joint != "crossed":
        return cut
    return (cut @ each ** np.arange(count))[:, None]


def van_elteren(
    activations: Float[np.ndarray, "stimuli units"],
    labels: Shaped[np.ndarray, "stimuli concepts"],
    strata: Int[np.ndarray, " stimuli"],
    *,
    units: Sequence[str] | None = None,
    stimuli: Sequence[str] | None = None,
) -> StratifiedScores:
    """Returns the rank sums inside strata, weighted by 1 / (stratum size + 1) and standardised.

    The weights are those that find a shift best when it is the same in all strata. A concept whose
    positives fill their strata cannot be told from the confound: its p is 1.

    Args:
        activations: one row a stimulus.
        labels: whether a stimulus shows a concept, 0 or 1.
        strata: of each stimulus the number of its stratum.
        units: names for errors.
        stimuli: names for errors.

    Raises:
        UserError: if an activation is NaN.

    Source: van Elteren 1960, "On the combination of independent two-sample tests of Wilcoxon",
    Bulletin of the International Statistical Institute 37; Lehmann 1975, "Nonparametrics",
    section 3.3.
    """
    hot = labels.astype(np.float64)
    positives = count_positives(labels)
    order = np.argsort(strata, kind="stable")
    starts = np.flatnonzero(np.diff(strata[order], prepend=np.nan))
    sizes = np.diff(np.append(starts, len(order))).astype(np.float64)
    weights = 1 / (sizes + 1)
    inside = np.add.reduceat(hot[order], starts, axis=0)  # positives, [strata, concepts]
    outside = sizes[:, None] - inside
    # weights^2 n+ n- / (n (n - 1)), of which each unit takes its own spread of ranks.
    factors = (weights**2 / np.maximum(1, sizes * (sizes - 1)))[:, None] * inside * outside
    # Where all are positive, any unit has the expected sum, which rounding must not touch.
    both = outside > 0
    hot = hot[order] * np.repeat(both, sizes.astype(np.int64), axis=0)
    expected = (weights * (sizes + 1) / 2) @ (inside * both)
    z = np.empty((activations.shape[1], labels.shape[1]))
    p_value = np.empty(z.shape)
    for part, block in unit_blocks(activations, units=units, stimuli=stimuli):
        block = block[order]
        ranks = np.empty(block.shape)
        spread = np.empty((len(starts), block.shape[1]))
        for k, (start, size) in enumerate(zip(starts, sizes.astype(np.int64), strict=True)):
            rows = slice(start, start + size)
            here = midranks(block[rows])
            spread[k] = rank_spread(here)
            ranks[rows] = weights[k] * here
        variance = spread.T @ factors
        some = variance > 0
        z[part] = np.where(some, ranks.T @ hot - expected, 0) / np.sqrt(np.where(some, variance, 1))
        p_value[part] = np.where(some, upper_tail(z[part]), 1.0)
    return StratifiedScores(
        z=z, p_value=p_value, informative=(inside * both).sum(axis=0) / np.maximum(1, positives)
    )


def controlled_scores(
    activations: Float[np.ndarray, "stimuli units"],
    labels: Shaped[np.ndarray, "stimuli concepts"],
    strata: Strata | None = None,
    *,
    min_positives: int = 5,
    units: Sequence[str] | None = None,
    stimuli: Sequence[str] | None = None,
) -> ControlledScores:
    """Returns one facet's scores, whose p value is the largest of the raw one and of all groupings.

    So a confound can only take a finding away: one that is not measured is not held still.

    Args:
        activations: one row a stimulus.
        labels: whether a stimulus shows a concept, 0 or 1.
        strata: groupings from `confound_strata`.
        min_positives: concepts with fewer positives or fewer negatives are NaN.
        units: names for errors.
        stimuli: names for errors.

    Raises:
        UserError: if an activation is NaN.
    """
    raw = facet_scores(
        activations, labels, min_positives=min_positives, units=units, stimuli=stimuli
    )
    groupings = [] if strata is None else list(strata.T)
    stratified = [van_elteren(activations, labels, grouping) for grouping in groupings]
    p_value = raw.p_value
    for scores in stratified:
        p_value = np.maximum(p_value, scores.p_value)
    return ControlledScores(raw=raw, stratified=stratified, p_value=p_value)
