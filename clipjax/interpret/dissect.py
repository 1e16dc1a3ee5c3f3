"""Names units after concepts: Network Dissection's IoU and CLIP-Dissect's soft WPMI, with a null.

Both measures always have a best concept, for noise too. Here a unit is named only if what it
answers to goes together better than stimuli drawn at random do; otherwise it stays unlabelled.

Source: Bau et al. 2017, "Network Dissection", section 2.3, https://arxiv.org/abs/1704.05796;
Oikarinen and Weng 2023, "CLIP-Dissect", section 3, https://arxiv.org/abs/2204.10965.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from clipjax.config import UserError
from clipjax.core.paired_comparison import benjamini_hochberg
from clipjax.interpret.statistics.ranks import count_positives

Exemplars = Int[np.ndarray, "units exemplars"]
Given = Float[np.ndarray, "stimuli concepts"]

ACTIVE_SHARE = 0.005
LEAST_ACTIVE = 10
SCALE = 10.0
# Of the exemplars, the first is surely one, the last hardly less.
_MEMBERSHIP = (0.998, 0.97)
_ENTRIES = 2**24
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
    """The best concept of each unit.

    Attributes:
        concept: number of the best one.
        score: of that concept.
        p_value: how often stimuli drawn at random have a best concept as good.
        q_value: adjusted over units (Benjamini and Hochberg).
        scores: of all concepts.
    """

    concept: Int[np.ndarray, " units"]
    score: Float[np.ndarray, " units"]
    p_value: Float[np.ndarray, " units"]
    q_value: Float[np.ndarray, " units"]
    scores: Float[np.ndarray, "units concepts"]

    def labelled(self, level: float = 0.05) -> Bool[np.ndarray, " units"]:
        """Returns which units have a name at a false discovery rate; the others have none."""
        return self.q_value <= level


def active_stimuli(
    exemplars: Exemplars, values: Float[np.ndarray, "units exemplars"], stimuli: int
) -> Int[np.ndarray, "units active"]:
    """Returns the stimuli for which P(activation > T) is 0.005, as T of Network Dissection.

    Deviation: of a few hundred stimuli that would be one or two, which name nothing; ten are taken
    then, and never more than exemplars were kept, less one. An activation equal to the largest of
    those that are left out is not above T.

    Args:
        exemplars: rows of the largest activations, the largest first, -1 for none.
        values: their activations.
        stimuli: of the facet.

    Returns:
        Rows, -1 for those that are not active.
    """
    wanted = max(LEAST_ACTIVE, round(ACTIVE_SHARE * stimuli))
    count = min(wanted, exemplars.shape[1] - 1)
    rows = exemplars[:, :count].copy()
    # NaN, where there are no more exemplars, excludes none.
    rows[values[:, :count] <= values[:, [count]]] = -1
    return rows


def iou_names(
    active: Int[np.ndarray, "units active"], labels: Shaped[np.ndarray, "stimuli concepts"]
) -> Names:
    """Returns the concept whose stimuli are most nearly those that a unit is active for.

    Intersection over union of stimuli. The p value is the hypergeometric one of the best concept,
    times the number of concepts.

    Deviation: labels are of whole stimuli and not of pixels.

    Args:
        active: of `active_stimuli`.
        labels: whether a stimulus shows a concept.

    Raises:
        UserError: if a label is neither 0 nor 1.
    """
    positives, total = count_positives(labels), len(labels)
    sizes = (active >= 0).sum(axis=1)
    hot = labels.astype(np.float64)
    both = np.stack([hot[rows[rows >= 0]].sum(axis=0) for rows in active])
    union = sizes[:, None] + positives - both
    scores = both / np.where(union > 0, union, 1)
    best = scores.argmax(axis=1)
    units = np.arange(len(active))
    tails = _overlap_tails(both[units, best], positives[best], sizes, total)
    return _names(scores, np.minimum(1, tails * labels.shape[1]))


def given_similarity(
    stimuli: Float[np.ndarray, "stimuli embed"], concepts: Float[np.ndarray, "concepts embed"]
) -> Given:
    """Returns p(c | x) as a dual encoder sees it: softmax over concepts of 10 times the cosine.

    Args:
        stimuli: embeddings of unit length, by another model than that of the units.
        concepts: embeddings of the texts, likewise.
    """
    logits = SCALE * (stimuli.astype(np.float64) @ concepts.T)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def wpmi_names(
    exemplars: Exemplars,
    given: Given,
    *,
    weight: float = 1.0,
    draws: int = 9_999,
    seed: int = 0,
) -> Names:
    """Returns the concept that the exemplars of each unit have most in common.

    soft WPMI of a unit and a concept c is log p(c | exemplars) - weight log p(c). The first is the
    sum over exemplars x of log(1 + s (p(c | x) - 1)), with s from 0.998 for the first to 0.97 for
    the last; p(c) is its mean over exemplars drawn at random. Scores are over the spread of these
    draws, and the p value says how often the best concept of a draw has as high a score.

    Deviation: CLIP-Dissect takes p(c) over the units of the layer and all N stimuli a unit; here
    only exemplars are looked at, and no name is forced.

    Args:
        exemplars: rows of the largest activations, the largest first, -1 for none.
        given: p(c | x) of each stimulus.
        weight: of log p(c).
        draws: of random exemplars.
        seed: of the draws.

    Raises:
        UserError: if a unit has no exemplar.
    """
    width = int((exemplars >= 0).sum(axis=1).min(initial=exemplars.shape[1]))
    if not width:
        raise UserError("a unit has no exemplar: scan more stimuli.")
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.choice(len(given), width, replace=False) for _ in range(draws)])
    scores = np.empty((len(exemplars), given.shape[1]))
    best_of_null = np.full(draws, -np.inf)
    columns = max(1, _ENTRIES // (len(given) + draws + len(exemplars)))
    for first in range(0, given.shape[1], columns):
        part = slice(first, first + columns)
        found = _common(exemplars[:, :width], given[:, part])
        null = _common(drawn, given[:, part])
        spread = null.std(axis=0)
        spread = np.where(spread > 0, spread, np.inf)
        scores[:, part] = (found - weight * null.mean(axis=0)) / spread
        of_null = (null - weight * null.mean(axis=0)) / spread
        best_of_null = np.maximum(best_of_null, of_null.max(axis=1))
    ordered = np.sort(best_of_null)
    beyond = draws - np.searchsorted(ordered, scores.max(axis=1) - _ROUNDING)
    return _names(scores, (1 + beyond) / (1 + draws))


def _common(rows: np.ndarray, given: np.ndarray) -> Float[np.ndarray, "sets concepts"]:
    """Returns log p(c | exemplars) of sets of exemplars, up to a constant."""
    total = np.zeros((len(rows), given.shape[1]))
    for column, member in zip(rows.T, np.linspace(*_MEMBERSHIP, rows.shape[1]), strict=True):
        total += np.log1p(member * (given - 1))[column]
    return total


def _overlap_tails(
    both: np.ndarray, positives: np.ndarray, sizes: np.ndarray, total: int
) -> Float[np.ndarray, " units"]:
    """Returns how often so many stimuli drawn at random have as many positives or more."""
    from scipy import special

    def log_ways(among: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        possible = (chosen >= 0) & (chosen <= among)
        ways = (
            special.gammaln(among + 1.0)
            - special.gammaln(np.where(possible, chosen, 0) + 1.0)
            - special.gammaln(np.where(possible, among - chosen, 0) + 1.0)
        )
        return np.where(possible, ways, -np.inf)

    most = int(sizes.max(initial=0))
    drawn = both[:, None].astype(np.int64) + np.arange(most + 1)
    positives, sizes = positives[:, None], sizes[:, None]
    with_both = log_ways(positives, drawn) + log_ways(total - positives, sizes - drawn)
    return np.exp(with_both - log_ways(np.array(total), sizes)).sum(axis=1)


def _names(scores: np.ndarray, p_value: np.ndarray) -> Names:
    best = scores.argmax(axis=1)
    return Names(
        concept=best,
        score=scores[np.arange(len(scores)), best],
        p_value=p_value,
        q_value=benjamini_hochberg(p_value) if len(p_value) else p_value,
        scores=scores,
    )
