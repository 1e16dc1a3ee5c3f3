"""How well a concept explains what a unit does: by order, by overlap, by size, and by words."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

TOP_SHARE = 0.05
"""Share of the stimuli that are called active where sets are compared."""

Activations = Float[np.ndarray, " stimuli"]
Shown = Bool[np.ndarray, " stimuli"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Scores of one concept for one unit in one facet; NaN where a unit or concept is constant.

    Attributes:
        ap: average precision, tied activations taken together.
        f1: of the stimuli above the top quantile against those that show the concept.
        iou: of the same sets.
        pearson: correlation of activation and label.
        cosine: of activations and labels.
        mad: mean of positives less that of the others, in standard deviations of the others.
    """

    ap: float
    f1: float
    iou: float
    pearson: float
    cosine: float
    mad: float


def explain(activations: Activations, shown: Shown, *, share: float = TOP_SHARE) -> Explanation:
    """Returns how well a concept explains a unit in one facet.

    AUROC tells that a unit answers to a concept, but hardly falls if the concept is only a part of
    what the unit answers to, or has too many members; these five do (mad does not).

    Deviation: Network Dissection calls the top 0.5 % of places active; among hundreds of stimuli
    that is one or two.

    Args:
        activations: of the unit.
        shown: whether a stimulus shows the concept.
        share: of the stimuli that are called active: those above this quantile.

    Source: Oikarinen et al. 2025, "Evaluating Neuron Explanations: A Unified Framework with Sanity
    Checks", https://arxiv.org/abs/2506.05774 (ap, f1, iou, pearson, cosine); Bau et al. 2017,
    "Network Dissection", https://arxiv.org/abs/1704.05796 (iou at a quantile); Kopf et al. 2024,
    "CoSy: Evaluating Textual Explanations of Neurons", https://arxiv.org/abs/2405.20331 (mad).
    """
    active = activations > np.quantile(activations, 1 - share)
    both, either = int((active & shown).sum()), int((active | shown).sum())
    size = int(active.sum() + shown.sum())
    on, off = activations[shown], activations[~shown]
    scale = float(off.std()) if len(off) else 0.0
    labels = shown.astype(np.float64)
    centred = activations - activations.mean()
    return Explanation(
        ap=average_precision(activations, shown),
        f1=2 * both / size if size else float("nan"),
        iou=both / either if either else float("nan"),
        pearson=_cosine(centred, labels - labels.mean()),
        cosine=_cosine(activations, labels),
        mad=float((on.mean() - off.mean()) / scale) if len(on) and scale else float("nan"),
    )


def average_precision(activations: Activations, shown: Shown) -> float:
    """Returns the mean over positives of the precision at their activation.

    Stimuli with one activation are found together, so that their order does not matter.

    >>> average_precision(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, False, True]))
    0.75

    Source: Manning, Raghavan and Schuetze 2008, "Introduction to Information Retrieval", section
    8.4, with ties as scikit-learn has them.
    """
    order = np.argsort(-activations, kind="stable")
    values, right = activations[order], shown[order]
    last = np.append(values[1:] != values[:-1], True)  # of each run of equal ones
    found = np.cumsum(right)[last]
    precision = found / (np.flatnonzero(last) + 1)
    gained = np.diff(found, prepend=0)
    return float((gained * precision).sum() / found[-1]) if found[-1] else float("nan")


def soft_wpmi(
    exemplars: Bool[np.ndarray, "exemplars concepts"],
    prior: Float[np.ndarray, " concepts"],
    *,
    penalty: float = 1.0,
    certain: float = 0.98,
) -> Float[np.ndarray, " concepts"]:
    """Returns for each concept how much more the exemplars of a unit say of it than of any other.

    log p(c | exemplars) - penalty log p(c), where the r-th exemplar belongs to what drives the
    unit with a probability that falls from `certain` by its rank: it adds log(1 + w (p(c|x) - 1)).

    Args:
        exemplars: which concepts each shows, the most active first.
        prior: share of all stimuli that show each concept.
        penalty: of frequent concepts.
        certain: that the first exemplar belongs to the unit; the last one half as much.

    Source: Oikarinen and Weng 2023, "CLIP-Dissect: Automatic Description of Neuron Representations
    in Deep Vision Networks", section 3.3, https://arxiv.org/abs/2204.10965; from exemplars alone
    and with labels for p(c|x).
    """
    weights = certain * np.linspace(1, 0.5, max(1, len(exemplars)))[: len(exemplars)]
    shown = exemplars / np.maximum(1, exemplars.sum(axis=1, keepdims=True))
    evidence = np.log1p(weights[:, None] * (shown - 1)).sum(axis=0)
    floor = 1 / (2 * max(1, len(exemplars)))  # an unseen concept is not infinitely unlikely
    return evidence / max(1, len(exemplars)) - penalty * np.log(np.maximum(prior, floor))


def enrichment_p(
    hits: Int[np.ndarray, " concepts"],
    drawn: int,
    positives: Int[np.ndarray, " concepts"],
    total: int,
) -> Float[np.ndarray, " concepts"]:
    """Returns how often at least so many of the drawn stimuli would be positive by chance.

    >>> enrichment_p(np.array([2, 0]), 2, np.array([5, 5]), 10).round(3).tolist()
    [0.222, 1.0]

    Source: Fisher 1935, "The logic of inductive inference" (hypergeometric tail).
    """
    from scipy import stats

    return np.asarray(stats.hypergeom.sf(hits - 1, total, positives, drawn))


def contrastive_words(
    high: Sequence[Sequence[str]],
    low: Sequence[Sequence[str]],
    rarity: dict[str, float],
    *,
    most: int = 5,
) -> list[str]:
    """Returns words that texts of active stimuli have more often than those of silent ones.

    A word scores the share of active texts with it less that of silent ones, times its rarity.

    Args:
        high: words of each active stimulus.
        low: words of each silent one.
        rarity: of words, log of (texts / texts with it); a word without one is left out.
        most: words.

    Source: Kalibhat et al. 2023, "Identifying Interpretable Subspaces in Image Representations"
    (FALCON), https://arxiv.org/abs/2307.10504 (contrast of high and low activations).

    >>> contrastive_words([["a", "cat"], ["cat"]], [["a", "dog"]], {"cat": 1.0, "dog": 1.0})
    ['cat']
    """
    share: dict[str, float] = {}
    for texts, sign in ((high, 1.0), (low, -1.0)):
        for words in texts:
            for word in set(words):
                share[word] = share.get(word, 0.0) + sign / len(texts)
    scores = {word: value * rarity.get(word, 0.0) for word, value in share.items()}
    kept = [word for word, score in scores.items() if score > 0]
    return sorted(kept, key=lambda word: (-scores[word], word))[:most]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else float("nan")
