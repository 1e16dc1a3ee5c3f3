"""What is found in one space: pairs, units and concepts, and how many of them hold up."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.evidence import Evidence
from clipjax.interpret.spaces import Space
from clipjax.interpret.statistics.conjunction import (
    Conjunction,
    FacetFinds,
    PairFinds,
    UnitKind,
    confirmation_half,
    conjunction,
    facet_finds,
    replicated,
    unit_kinds,
)
from clipjax.interpret.statistics.explanation import average_precision
from clipjax.interpret.statistics.ranks import testable

_PRECISION_PAIRS = 500  # finds whose average precision is looked at, the strongest


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SpaceFinds:
    """The finds of a space.

    Attributes:
        space: that was tested.
        evidence: of all its pairs.
        joint: what the facets together say of each pair.
        found: pairs that hold in the required facets.
        replicated: those of them that one half of the stimuli finds and the other confirms; None
            where activations were not kept.
        unstratified: pairs that would be found if confounds were not held still.
        single: pairs that each facet finds by itself.
        kinds: what each unit is.
        held_out: finds among concepts that had no part in the threshold.
    """

    space: Space
    evidence: Evidence
    joint: Conjunction
    found: PairFinds
    replicated: PairFinds | None
    unstratified: PairFinds
    single: FacetFinds
    kinds: list[UnitKind]
    held_out: dict[str, Any]

    @property
    def pairs(self) -> int:
        """Pairs that were found."""
        return int(self.found.sum())

    @property
    def firm_pairs(self) -> int:
        """Pairs that were replicated, or found where nothing can be replicated."""
        return self.pairs if self.replicated is None else int(self.replicated.sum())


def find(space: Space, evidence: Evidence, settings: DetectSettings) -> SpaceFinds:
    """Returns what the evidence of a space amounts to."""
    joint = conjunction(evidence.p_value, evidence.auroc, required=settings.required)
    raw = conjunction(evidence.raw_p, evidence.auroc, required=settings.required)
    found = _finds(joint, settings)
    single = facet_finds(evidence.p_value, evidence.auroc, rate=settings.rate, floor=settings.floor)
    facet_auroc = evidence.facet_auroc
    if facet_auroc is None:
        facet_auroc = np.full(evidence.p_value.shape[:2], np.nan)
    return SpaceFinds(
        space=space,
        evidence=evidence,
        joint=joint,
        found=found,
        replicated=_replicated(found, evidence, settings),
        unstratified=_finds(raw, settings),
        single=single,
        kinds=unit_kinds(found, single, facet_auroc, evidence.dead),
        held_out=_held_out(space, evidence, settings),
    )


def _finds(joint: Conjunction, settings: DetectSettings) -> PairFinds:
    return joint.finds(rate=settings.rate, floor=settings.floor, method=settings.method)


def _replicated(found: PairFinds, evidence: Evidence, settings: DetectSettings) -> PairFinds | None:
    halves = evidence.halves
    if halves is None:
        return None
    joint = conjunction(halves.discovery_p, halves.discovery_auroc, required=settings.required)
    confirmed = replicated(
        _finds(joint, settings),
        halves.confirmation_p,
        level=settings.level,
        required=settings.required,
    )
    return found & confirmed


def _held_out(space: Space, evidence: Evidence, settings: DetectSettings) -> dict[str, Any]:
    """Counts finds of half of the concepts, at the threshold that the other half has set."""
    kept = confirmation_half([c.id for c in space.scan.concepts], salt="concepts")
    if kept.all() or not kept.any():
        return {"concepts": 0, "threshold": 0.0, "pairs": 0, "units": 0}
    p, auroc = evidence.p_value, evidence.auroc
    seen = conjunction(p[..., ~kept], auroc[..., ~kept], required=settings.required)
    found = seen.p_value[_finds(seen, settings)]
    threshold = float(found.max(initial=0))
    others = conjunction(p[..., kept], auroc[..., kept], required=settings.required)
    held = (others.p_value <= threshold) & (others.effect >= settings.floor)
    return {
        "concepts": int(kept.sum()),
        "threshold": threshold,
        "pairs": int(held.sum()),
        "units": int(held.any(axis=1).sum()),
        "found_concepts": int(held.any(axis=0).sum()),
    }


def counts_of(finds: SpaceFinds, settings: DetectSettings) -> dict[str, Any]:
    """Returns the figures of a space that the same figures of a control are compared with."""
    found, confirmed = finds.found, finds.replicated
    strict = found & (finds.joint.effect >= settings.strict)
    units = found.any(axis=1)
    return {
        "units": finds.space.units,
        "pairs": finds.pairs,
        "multimodal_units": int(units.sum()),
        "concepts": int(found.any(axis=0).sum()),
        "strict_pairs": int(strict.sum()),
        "strict_units": int(strict.any(axis=1).sum()),
        "strict_concepts": int(strict.any(axis=0).sum()),
        "replicated_pairs": None if confirmed is None else int(confirmed.sum()),
        "replicated_units": None if confirmed is None else int(confirmed.any(axis=1).sum()),
        "replicated_concepts": None if confirmed is None else int(confirmed.any(axis=0).sum()),
        "concepts_per_unit": float(found.sum() / units.sum()) if units.any() else None,
        "average_precision": _mean_precision(finds),
        "cross_modal_ratio": cross_modal_ratio(finds),
    }


def cross_modal_ratio(finds: SpaceFinds) -> dict[str, float] | None:
    """Returns mean, median and largest ratio over the units that are not dead."""
    meaning = finds.evidence.meaning
    return None if meaning is None else spread(meaning.across[~finds.evidence.dead])


def spread(values: Float[np.ndarray, " units"]) -> dict[str, float] | None:
    """Returns mean, median and largest of what is known; None where nothing is."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    return {
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "max": float(known.max()),
    }


def space_figures(finds: SpaceFinds, settings: DetectSettings) -> dict[str, Any]:
    """Returns all figures of a space but its controls."""
    evidence, space = finds.evidence, finds.space
    reads = reads_letters(finds, settings)
    meaning = evidence.meaning
    return {
        "path": space.path,
        "facets": list(space.facets),
        "control_facets": list(space.controls),
        "signed": space.signed,
        **counts_of(finds, settings),
        "counts": finds.joint.counts(rate=settings.rate, floor=settings.floor),
        "pairs_without_strata": int(finds.unstratified.sum()),
        "pairs_in_control_facets": int(reads.sum()),
        "kinds": dict(Counter(kind.kind for kind in finds.kinds)),
        "monosemanticity": {
            name: spread(row[~evidence.dead])
            for name, row in zip(space.facets, meaning.within, strict=True)
        }
        if meaning is not None
        else None,
        "held_out_concepts": finds.held_out,
        "not_replicable_concepts": int(evidence.not_replicable.sum()),
    }


def reads_letters(
    finds: SpaceFinds, settings: DetectSettings
) -> Bool[np.ndarray, "units concepts"]:
    """Returns which found pairs hold in a facet in which no concept ought to be found."""
    out = np.zeros(finds.found.shape, bool)
    for auroc in finds.evidence.control_auroc.values():
        out |= auroc >= settings.floor
    return out & finds.found


def strongest_pairs(finds: SpaceFinds, most: int) -> list[tuple[int, int]]:
    """Returns found pairs, replicated ones first, then by the AUROC of their weakest facet."""
    units, concepts = np.nonzero(finds.found)
    firm = np.zeros(len(units)) if finds.replicated is None else finds.replicated[units, concepts]
    order = np.lexsort((concepts, units, -finds.joint.effect[units, concepts], -firm.astype(float)))
    return [(int(units[i]), int(concepts[i])) for i in order[:most]]


def _mean_precision(finds: SpaceFinds) -> float | None:
    """Mean average precision of the strongest finds, each in its worst facet."""
    pairs = strongest_pairs(finds, _PRECISION_PAIRS)
    if not pairs or not finds.space.stored:
        return None
    units = sorted({unit for unit, _ in pairs})
    place = {unit: i for i, unit in enumerate(units)}
    worst = np.ones(len(pairs))
    for facet in finds.space.facets:
        values, labels = finds.space.values(facet, units), finds.space.rows(facet).labels
        here = [average_precision(values[:, place[u]], labels[:, c]) for u, c in pairs]
        worst = np.minimum(worst, here)
    return float(worst.mean())


def untested_lines(finds: SpaceFinds, least: int) -> list[str]:
    """Returns a line for each concept that is not tested in some facet, which says why."""
    lines = []
    for facet, total, positives in zip(
        finds.space.facets, finds.evidence.stimuli, finds.evidence.positives, strict=True
    ):
        for place in np.flatnonzero(~testable(positives, total, least)).tolist():
            lines.append(
                f"{finds.space.scan.concepts[place].name}: not tested in {facet}; "
                f"{positives[place]} of {total} stimuli are positive, {least} and as many "
                "negatives are needed"
            )
    return lines
