"""How far a model's units have come: counts of finds and scores of the space, from activations.

The definitions are those of `clipjax neurons test`, without controls: a curve over a run has its
own control, the untrained model at step 0.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from clipjax.evals.geometry import modality_gap
from clipjax.interpret.controls import random_rotation
from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.statistics.conjunction import (
    confirmation_half,
    conjunction,
    replicated,
)
from clipjax.interpret.statistics.monosemanticity import CrossModalMonosemanticity
from clipjax.interpret.statistics.ranks import Pairs, count_positives, facet_scores, testable
from clipjax.interpret.statistics.strata import confound_strata, controlled_scores

Values = Float[np.ndarray, "_ units"]

_SETTINGS = DetectSettings()
_BIMODAL = (0.25, 0.75)


@dataclasses.dataclass(frozen=True)
class UnitCounts:
    """What is found of the units of one path.

    Attributes:
        multimodal_units: that answer to a concept in all facets, the rate of false finds held.
        replicated_pairs: of a unit and a concept, found in half of the stimuli and again in the
            other half.
        strict_units: with an AUROC above 0.8 for one concept in all facets, whatever its p value.
    """

    multimodal_units: int
    replicated_pairs: int
    strict_units: int


def unit_counts(rows: Sequence[FacetRows], values: Sequence[Values]) -> UnitCounts:
    """Returns the finds of units in the facets that run them.

    A facet where no concept has five stimuli, such as one of 24 words, makes no test; the AUROC in
    it must reach the floor nevertheless. Nothing is found where fewer than two facets make a test.

    Args:
        rows: of each facet, no controls among them.
        values: of each facet, the activations of the same units.
    """
    auroc = np.stack([_auroc(x, one.labels) for one, x in zip(rows, values, strict=True)])
    effect = auroc.min(axis=0)  # NaN where a facet has no stimulus of the concept
    with np.errstate(invalid="ignore"):
        strict = int((effect > _SETTINGS.strict).any(axis=1).sum())
        reached = effect >= _SETTINGS.floor
    tests = [
        (one, x)
        for one, x in zip(rows, values, strict=True)
        if testable(count_positives(one.labels), len(one.labels), _SETTINGS.least).any()
    ]
    if len(tests) < 2:
        return UnitCounts(0, 0, strict)
    whole = [_scores(one, x, slice(None), _SETTINGS.least) for one, x in tests]
    finds = _found(whole) & reached
    halves = {}
    for confirms in (False, True):
        halves[confirms] = [
            _scores(one, x, confirmation_half(one.stimuli) == confirms, _SETTINGS.least_in_half)
            for one, x in tests
        ]
    discovered = _found(halves[False]) & reached
    confirmed = np.stack([p for p, _ in halves[True]])
    again = replicated(discovered, confirmed, level=_SETTINGS.level)
    return UnitCounts(int(finds.any(axis=1).sum()), int(again.sum()), strict)


def space_scores(
    first: tuple[FacetRows, Values], second: tuple[FacetRows, Values], *, seed: int = 0
) -> dict[str, float]:
    """Returns what the axes of the shared space are, from one facet of pictures and one of texts.

    `cross_modal_ratio` is the mean cross-modal monosemanticity over that of all pairs of stimuli,
    whose meanings are their concepts; `..._rotated` the same of a random rotation, which a space
    without axes of its own equals. `bimodal_share` is that of axes which both facets use about as
    much, among those that any uses. `modality_gap` is the distance of the facets' means.

    Args:
        first: stimuli, and their unit vectors.
        second: likewise.
        seed: of the rotation.
    """
    (_, a), (_, b) = first, second
    out = {"modality_gap": modality_gap(a, b)}
    use = np.abs(a).mean(axis=0), np.abs(b).mean(axis=0)
    used = use[0] + use[1] > 0
    share = use[0][used] / (use[0] + use[1])[used]
    if len(share):
        bimodal = (share >= _BIMODAL[0]) & (share <= _BIMODAL[1])
        out["bimodal_share"] = float(bimodal.mean())
    out["live_axes"] = float(used.sum())
    rotation = random_rotation(a.shape[1], seed=seed)
    for name, turned in (("", None), ("_rotated", rotation)):
        ratio = cross_modal_ratio(first, second, turned)
        if np.isfinite(ratio).any():
            out[f"cross_modal_ratio{name}"] = float(np.nanmean(ratio))
    return out


def cross_modal_ratio(
    first: tuple[FacetRows, Values],
    second: tuple[FacetRows, Values],
    rotation: Float[np.ndarray, "units units"] | None = None,
) -> Float[np.ndarray, " units"]:
    """Returns the cross-modal monosemanticity of units over that of all pairs, NaN of dead ones.

    What a stimulus means is its concepts; those with none are left out. See
    `CrossModalMonosemanticity`.

    Args:
        first: stimuli of a facet, and activations.
        second: of another facet, the same units.
        rotation: of the units, before all; none by default.
    """
    sums = CrossModalMonosemanticity()
    (left, a), (right, b) = (_meaning(*facet) for facet in (first, second))
    if rotation is not None:
        a, b = a @ rotation, b @ rotation
    left_labels, right_labels = left[1], right[1]
    place = {stimulus: row for row, stimulus in enumerate(right[0])}
    pairs = [(row, place[one]) for row, one in enumerate(left[0]) if one in place]
    mine, theirs = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))
    sums.update_pairs(a[mine], left_labels[mine], b[theirs], right_labels[theirs])
    alone = np.setdiff1d(np.arange(len(a)), mine)
    sums.update_first(a[alone], left_labels[alone])
    alone = np.setdiff1d(np.arange(len(b)), theirs)
    sums.update_second(b[alone], right_labels[alone])
    return sums.result().ratio


def reading_accuracy(
    rows: FacetRows, values: Values, classes: Float[np.ndarray, "concepts embed"]
) -> float | None:
    """Returns how often the nearest class is a concept of the picture; None without labels.

    Args:
        rows: of the facet of words.
        values: unit vectors of its pictures, one a row.
        classes: unit vectors of the names of the concepts.
    """
    shown = rows.labels.any(axis=0)  # others would be wrong answers that nobody asked for
    some = rows.labels.any(axis=1)
    if not some.any():
        return None
    nearest = np.flatnonzero(shown)[(values[some] @ classes[shown].T).argmax(axis=1)]
    return float(rows.labels[some][np.arange(int(some.sum())), nearest].mean())


def both_signs(values: Values) -> Float[np.ndarray, "rows twice"]:
    """Returns each axis and its opposite, which are two units where an axis has a sign."""
    return np.concatenate([values, -values], axis=1)


def _meaning(
    rows: FacetRows, values: Values
) -> tuple[tuple[list[str], Float[np.ndarray, "some concepts"]], Values]:
    some = np.flatnonzero(rows.labels.any(axis=1))
    labels = rows.labels[some].astype(np.float64)
    return ([rows.stimuli[row] for row in some], labels), values[some]


def _auroc(values: Values, labels: Bool[np.ndarray, "rows concepts"]) -> Pairs:
    return facet_scores(values, labels, min_positives=1, exact_below=0).auroc


def _scores(
    rows: FacetRows, values: Values, which: slice | np.ndarray, least: int
) -> tuple[Pairs, Pairs]:
    """Returns p values, the larger of raw and stratified, and AUROC."""
    labels, confounds = rows.labels[which], rows.confounds[which]
    bins = _SETTINGS.bins(len(labels))
    strata = None
    varies = (confounds != confounds[:1]).any(axis=0)
    if bins > 1 and varies.any():
        strata = confound_strata(confounds[:, varies], bins=bins)
    found = controlled_scores(values[which], labels, strata, min_positives=least)
    return found.p_value, found.raw.auroc


def _found(scores: list[tuple[Pairs, Pairs]]) -> Bool[np.ndarray, "units concepts"]:
    both = conjunction(np.stack([p for p, _ in scores]), np.stack([a for _, a in scores]))
    return both.finds(rate=_SETTINGS.rate, method=_SETTINGS.method, floor=_SETTINGS.floor)


def curves(
    facets: Mapping[str, FacetRows],
    values: Mapping[str, Mapping[str, Values]],
    signed: Mapping[str, bool],
) -> dict[str, float]:
    """Returns the counts of all paths together.

    Args:
        facets: rows by name; controls are left out.
        values: of each path, the activations in each facet that runs it.
        signed: whether an axis of the path and its opposite are two units.
    """
    total = dataclasses.asdict(UnitCounts(0, 0, 0))
    for path, by_facet in values.items():
        names = [name for name in by_facet if not facets[name].is_control]
        found = [both_signs(by_facet[n]) if signed[path] else by_facet[n] for n in names]
        counts = dataclasses.asdict(unit_counts([facets[n] for n in names], found))
        total = {name: total[name] + counts[name] for name in total}
    return {name: float(count) for name, count in total.items()}
