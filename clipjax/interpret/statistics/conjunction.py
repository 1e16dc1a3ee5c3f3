"""Units that answer to one concept in several facets: p values joined, errors held, finds named."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from clipjax.core.paired_comparison import benjamini_hochberg
from clipjax.interpret.statistics.ranks import Pairs, facet_scores

FacetPairs = Float[np.ndarray, "facets units concepts"]
PairFinds = Bool[np.ndarray, "units concepts"]
FacetFinds = Bool[np.ndarray, "facets units concepts"]

FLOOR = 0.75
STRICT_FLOOR = 0.8
DETECTOR = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conjunction:
    """What all facets together say of each pair of a unit and a concept; NaN where not tested.

    Attributes:
        p_value: that fewer than the required facets hold.
        adafilter: smallest rate of false finds at which AdaFilter finds the pair.
        bh: the same of Benjamini and Hochberg.
        by: the same of Benjamini and Yekutieli, which holds under any dependence.
        effect: AUROC of the weakest facet that is required.
        invariance: AUROC - 1/2 of the weakest facet as a share of that of the strongest, 0 to 1.
    """

    p_value: Pairs
    adafilter: Pairs
    bh: Pairs
    by: Pairs
    effect: Pairs
    invariance: Pairs

    def finds(
        self,
        *,
        rate: float = 0.05,
        floor: float = FLOOR,
        method: Literal["adafilter", "bh", "by"] = "adafilter",
    ) -> PairFinds:
        """Returns which pairs are found: the rate of false finds is held and the effect is there.

        Args:
            rate: of false finds among the finds, on average.
            floor: AUROC that the required facets must reach; 0 for none.
            method: how the rate is held.
        """
        adjusted = {"adafilter": self.adafilter, "bh": self.bh, "by": self.by}[method]
        return (adjusted <= rate) & (self.effect >= floor)

    def counts(self, *, rate: float = 0.05, floor: float = FLOOR) -> dict[str, int]:
        """Returns how many pairs each method finds, to be printed side by side."""
        methods: list[Literal["adafilter", "bh", "by"]] = ["adafilter", "bh", "by"]
        return {m: int(self.finds(rate=rate, floor=floor, method=m).sum()) for m in methods}


def conjunction(
    p_values: FacetPairs, auroc: FacetPairs, *, required: int | None = None
) -> Conjunction:
    """Returns what the facets together say of each pair.

    A pair that is not tested in some facet is not tested.

    Args:
        p_values: of each facet, already the larger of raw and stratified.
        auroc: of each facet.
        required: facets in which a pair must hold; all if None.
    """
    facets = len(p_values)
    required = facets if required is None else required
    ascending = np.sort(auroc, axis=0)  # NaN comes last, hence the mask
    missing = np.isnan(p_values).any(axis=0) | np.isnan(auroc).any(axis=0)
    p_value = np.where(missing, np.nan, partial_conjunction(p_values, required))
    filters = np.where(missing, np.nan, _filter_values(p_values, required))
    selection = np.where(missing, np.nan, _bonferroni(p_values, required))
    return Conjunction(
        p_value=p_value,
        adafilter=adafilter(filters, selection),
        bh=_adjusted(p_value),
        by=_adjusted(p_value, any_dependence=True),
        effect=np.where(missing, np.nan, ascending[facets - required]),
        invariance=np.where(missing, np.nan, invariance_index(auroc)),
    )


def partial_conjunction(
    p_values: Float[np.ndarray, "facets ..."],
    required: int,
    *,
    method: Literal["simes", "bonferroni", "fisher"] = "simes",
) -> Float[np.ndarray, "..."]:
    """Returns p values of "the pair holds in fewer than `required` facets".

    If all facets are required it is the largest p, whatever the method: an intersection-union test,
    which needs no correction for the number of facets.

    Args:
        p_values: of each facet.
        required: facets in which the pair must hold, 1 or more.
        method: how the largest p values are joined; "fisher" needs independent facets, "simes"
            ones that are independent or depend positively, "bonferroni" nothing.

    Raises:
        ValueError: if `required` is not between 1 and the number of facets.

    Source: Benjamini and Heller 2008, "Screening for Partial Conjunction Hypotheses", Biometrics
    64; Berger 1982, "Multiparameter hypothesis testing and acceptance sampling" (all facets).

    >>> partial_conjunction(np.array([[0.01], [0.03], [0.5]]), 2).tolist()
    [0.06]
    """
    from scipy import special

    facets = len(p_values)
    if not 1 <= required <= facets:
        raise ValueError(f"required is {required}; expected 1 to {facets}, the number of facets")
    largest = np.sort(p_values, axis=0)[required - 1 :]
    if method == "bonferroni":
        return _bonferroni(p_values, required)
    if method == "fisher":
        with np.errstate(divide="ignore"):
            return special.chdtrc(2 * len(largest), -2 * np.log(largest).sum(axis=0))
    places = np.arange(1, len(largest) + 1).reshape((-1,) + (1,) * (p_values.ndim - 1))
    return np.minimum(1, (largest * len(largest) / places).min(axis=0))


def adafilter(
    filters: Float[np.ndarray, "..."], selection: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Returns for each pair the smallest rate of false finds at which AdaFilter finds it.

    Where most pairs hold in no facet, the largest of their p values is far too large to be a p
    value: AdaFilter counts, at each threshold g, how many pairs could reach it at all (their
    filter value is at most g), instead of all. g #(F <= g) / #(S <= g) estimates the rate.

    The guarantee is asymptotic, for weak dependence among pairs; units of one network depend on
    each other, so look at controls as well.

    Args:
        filters: F, of which a null's S is uniform given that F is smaller; NaN if not tested.
        selection: S, at least F.

    Source: Wang, Gui, Su, Sabatti and Owen 2022, "Detecting Multiple Replicating Signals Using
    Adaptive Filtering Procedures", Annals of Statistics 50, https://arxiv.org/abs/1610.03330.
    """
    out = np.full(selection.shape, np.nan)
    tested = ~np.isnan(selection)
    f, s = np.sort(filters[tested]), selection[tested]
    order = np.argsort(s, kind="stable")[::-1]
    thresholds = s[order]
    reachable = np.searchsorted(f, thresholds, side="right")
    below = np.searchsorted(thresholds[::-1], thresholds, side="right")
    rates = np.minimum.accumulate(thresholds * reachable / below)
    adjusted = np.empty(s.shape)
    adjusted[order] = np.minimum(1, rates)
    out[tested] = adjusted
    return out


def invariance_index(auroc: Float[np.ndarray, "facets ..."]) -> Float[np.ndarray, "..."]:
    """Returns min (A - 1/2) / max (A - 1/2) over facets; 0 where a facet is at chance or below.

    >>> invariance_index(np.array([[0.7], [0.9]])).tolist()
    [0.5]
    """
    low, high = auroc.min(axis=0) - 0.5, auroc.max(axis=0) - 0.5
    share = np.maximum(low, 0) / np.where(high > 0, high, 1)
    # Rounding of (0.7 - 0.5) / (0.9 - 0.5) would be seen in reports.
    return np.round(share, 12)


def confirmation_half(
    stimulus_ids: Sequence[str], *, salt: str = ""
) -> Bool[np.ndarray, " stimuli"]:
    """Returns which stimuli are kept to confirm finds of the others: about half, by a hash.

    All views of one stimulus fall on the same side in every facet and every run.

    Args:
        stimulus_ids: of each stimulus.
        salt: another one gives another split.
    """
    digests = [hashlib.blake2b(f"{salt}\0{i}".encode(), digest_size=1) for i in stimulus_ids]
    return np.array([digest.digest()[0] & 1 for digest in digests], bool)


def replicated(
    finds: PairFinds, confirmation: FacetPairs, *, level: float = 0.05, required: int | None = None
) -> PairFinds:
    """Returns which finds have p below `level` in the required facets of the confirmation half.

    By chance a pair does so with probability level^facets, if the facets are independent.

    Args:
        finds: of the discovery half.
        confirmation: p values of the confirmation half; NaN where it has too few positives, which
            is no replication.
        level: of each facet.
        required: facets that must hold; all if None.
    """
    needed = len(confirmation) if required is None else required
    return finds & ((confirmation < level).sum(axis=0) >= needed)


def facet_finds(
    p_values: FacetPairs, auroc: FacetPairs, *, rate: float = 0.05, floor: float = FLOOR
) -> FacetFinds:
    """Returns which pairs each facet finds by itself, by Benjamini and Hochberg over its pairs."""
    adjusted = np.stack([_adjusted(p) for p in p_values])
    return (adjusted <= rate) & (auroc >= floor)


def facet_label_auroc(
    activations: Sequence[Float[np.ndarray, "_ units"]],
) -> Float[np.ndarray, "facets units"]:
    """Returns how well each unit tells each facet from all others by its activation alone."""
    owner = np.repeat(np.arange(len(activations)), [len(a) for a in activations])
    labels = owner[:, None] == np.arange(len(activations))
    return facet_scores(np.concatenate(activations), labels, min_positives=1, exact_below=0).auroc.T


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitKind:
    """What one unit is.

    Attributes:
        kind: "multimodal-same" (a concept in the required facets), "multimodal-partial" (a concept
            in several facets, but not in all that are required), "multimodal-divergent" (concepts
            in several facets, none of them shared), "unimodal" (in one facet), "modality-detector"
            (no concept, but it knows the facet), "dead" (one value everywhere) or "none".
        concepts: those that the kind rests on.
        facets: in which it has any concept; of a detector, those that it detects.
        detects: facets that it tells from the others, whatever else it does.
    """

    kind: str
    concepts: tuple[int, ...]
    facets: tuple[int, ...]
    detects: tuple[int, ...]


def unit_kinds(
    joint: PairFinds,
    single: FacetFinds,
    facet_auroc: Float[np.ndarray, "shown units"],
    dead: Bool[np.ndarray, " units"],
    *,
    detector: float = DETECTOR,
) -> list[UnitKind]:
    """Returns what each unit is; a concept counts for more than knowing the facet.

    Args:
        joint: pairs found in the required facets, of `Conjunction.finds`.
        single: pairs that each facet finds by itself, of `facet_finds`.
        facet_auroc: of `facet_label_auroc`.
        dead: units with one value for all stimuli, of `dead_units`.
        detector: AUROC above which a unit knows the facet.
    """
    kinds = []
    for u in range(len(joint)):
        detects = _numbers(facet_auroc[:, u] > detector)
        in_facet = single[:, u].any(axis=1)
        common = single[:, u].sum(axis=0) > 1
        if dead[u]:
            kind, concepts, facets = "dead", (), ()
        elif joint[u].any():
            # The joint test has more power: each facet by itself may have missed the concept.
            kind, concepts = "multimodal-same", _numbers(joint[u])
            facets = _numbers(in_facet)
        elif common.any():
            kind, concepts, facets = "multimodal-partial", _numbers(common), _numbers(in_facet)
        elif in_facet.any():
            kind = "unimodal" if in_facet.sum() == 1 else "multimodal-divergent"
            concepts, facets = _numbers(single[:, u].any(axis=0)), _numbers(in_facet)
        elif detects:
            kind, concepts, facets = "modality-detector", (), detects
        else:
            kind, concepts, facets = "none", (), ()
        kinds.append(UnitKind(kind=kind, concepts=concepts, facets=facets, detects=detects))
    return kinds


def dead_units(
    activations: Sequence[Float[np.ndarray, "_ units"]],
) -> Bool[np.ndarray, " units"]:
    """Returns which units have one value for all stimuli of all facets."""
    low = np.min([a.min(axis=0) for a in activations], axis=0)
    return low == np.max([a.max(axis=0) for a in activations], axis=0)


def _numbers(which: np.ndarray | np.bool) -> tuple[int, ...]:
    return tuple(np.flatnonzero(which).tolist())


def _bonferroni(p_values: np.ndarray, required: int) -> np.ndarray:
    """(n - r + 1) times the r-th smallest p value."""
    wide = (len(p_values) - required + 1) * np.sort(p_values, axis=0)[required - 1]
    return np.minimum(1, wide)


def _filter_values(p_values: np.ndarray, required: int) -> np.ndarray:
    """(n - r + 1) times the (r-1)-th smallest p value; 0 if one facet is enough."""
    if required == 1:
        return np.zeros(p_values.shape[1:])
    wide = (len(p_values) - required + 1) * np.sort(p_values, axis=0)[required - 2]
    return np.minimum(1, wide)


def _adjusted(p_values: np.ndarray, *, any_dependence: bool = False) -> np.ndarray:
    """Adjusts the p values that are not NaN, over all of them.

    Source: Benjamini and Yekutieli 2001, "The control of the false discovery rate in multiple
    testing under dependency", Annals of Statistics 29 (`any_dependence`).
    """
    out = np.full(p_values.shape, np.nan)
    tested = ~np.isnan(p_values)
    adjusted = benjamini_hochberg(p_values[tested])
    if any_dependence:
        adjusted = np.minimum(1, adjusted * (1 / np.arange(1, len(adjusted) + 1)).sum())
    out[tested] = adjusted
    return out
