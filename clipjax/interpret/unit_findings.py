"""All that is told of one unit: its concepts facet by facet, its exemplars, its histogram."""

import dataclasses
from typing import Any

import numpy as np

from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.space_finds import SpaceFinds, reads_letters
from clipjax.interpret.statistics.explanation import explain
from clipjax.interpret.statistics.intervals import delong_interval
from clipjax.interpret.statistics.ranks import EXACT_BELOW
from clipjax.interpret.unit_words import UnitWords

HISTOGRAM_BINS = 32
SHOWN_EXEMPLARS = 25

_RANK = ("multimodal-same", "multimodal-partial", "multimodal-divergent", "unimodal")


class UnitDetails:
    """Tells of units of one space.

    Args:
        finds: of the space.
        settings: of the tests.
    """

    def __init__(self, finds: SpaceFinds, settings: DetectSettings):
        self._finds, self._settings = finds, settings
        self._space = finds.space
        self._words = UnitWords(finds.space)
        self._letters = reads_letters(finds, settings)

    def of(self, unit: int) -> dict[str, Any]:
        """Returns plain values."""
        finds, space = self._finds, self._space
        name, kind = space.unit_name(unit), finds.kinds[unit]
        meaning = finds.evidence.meaning
        values = {
            facet: space.values(facet, [unit])[:, 0] for facet in space.facets if space.stored
        }
        chosen = self._concepts(unit)
        concepts = [self._concept(unit, concept, values) for concept in chosen]
        return {
            "unit": str(name),
            "path": name.path,
            "index": name.index,
            "sign": name.sign,
            "kind": kind.kind,
            "detects": [space.facets[m] for m in kind.detects],
            "facets": [space.facets[m] for m in kind.facets],
            "monosemanticity": _mean(meaning.within[:, unit]) if meaning else None,
            "cross_modal_ratio": _number(meaning.across[unit]) if meaning else None,
            "modality_score": _number(meaning.modality[unit]) if meaning else None,
            **self._words.of(unit),
            "badges": self._badges(unit, concepts),
            "concepts": concepts,
            "top": {facet: self._exemplars(facet, unit, chosen, 0) for facet in space.facets},
            "bottom": {facet: self._exemplars(facet, unit, chosen, 1) for facet in space.facets},
            "histogram": {
                facet: self._histogram(facet, chosen, values.get(facet)) for facet in space.facets
            },
        }

    def _concepts(self, unit: int) -> list[int]:
        """The unit's concepts, the surest first."""
        effect = np.nan_to_num(self._finds.joint.effect[unit], nan=-1.0)
        firm = self._finds.replicated
        return sorted(
            self._finds.kinds[unit].concepts,
            key=lambda c: (firm is not None and not firm[unit, c], -effect[c], c),
        )

    def _concept(self, unit: int, concept: int, values: dict[str, np.ndarray]) -> dict[str, Any]:
        finds, settings = self._finds, self._settings
        joint, evidence = finds.joint, finds.evidence
        facets = self._space.facets
        known = self._space.scan.concepts[concept]
        firm = finds.replicated
        out: dict[str, Any] = {
            "concept": known.id,
            "name": known.name,
            "found": bool(finds.found[unit, concept]),
            "facets": [f for m, f in enumerate(facets) if finds.single[m, unit, concept]],
            "auroc": _by_facet(facets, evidence.auroc[:, unit, concept]),
            "p": _by_facet(facets, evidence.raw_p[:, unit, concept]),
            "p_stratified": _by_facet(facets, evidence.p_value[:, unit, concept]),
            "p_joint": _number(joint.p_value[unit, concept]),
            "q": _number(joint.adafilter[unit, concept]),
            "q_bh": _number(joint.bh[unit, concept]),
            "q_by": _number(joint.by[unit, concept]),
            "effect": _number(joint.effect[unit, concept]),
            "invariance": _number(joint.invariance[unit, concept]),
            "strict": bool(
                finds.found[unit, concept] and joint.effect[unit, concept] >= settings.strict
            ),
            "replicated": None if firm is None else bool(firm[unit, concept]),
            "positives": _by_facet(facets, evidence.positives[:, concept], int),
            "control_auroc": {
                name: _number(auroc[unit, concept])
                for name, auroc in evidence.control_auroc.items()
            },
        }
        scores: dict[str, dict[str, Any]] = {}
        for facet, of_facet in values.items():
            shown = self._space.rows(facet).labels[:, concept]
            if shown.sum() < 2 or (~shown).sum() < 2:
                continue
            low, high = delong_interval(of_facet[:, None], shown)
            scores.setdefault("interval", {})[facet] = [float(low[0]), float(high[0])]
            for name, value in dataclasses.asdict(explain(of_facet, shown)).items():
                scores.setdefault(name, {})[facet] = _number(value)
        empty: dict[str, dict[str, Any]] = {
            name: {} for name in ("interval", "ap", "f1", "iou", "pearson", "cosine", "mad")
        }
        return out | empty | scores

    def _badges(self, unit: int, concepts: list[dict[str, Any]]) -> list[str]:
        badges = []
        if self._letters[unit].any():
            badges.append("reads letters, not the word")
        found = [concept for concept in concepts if concept["found"]]
        firm = self._finds.replicated
        if found and firm is not None and not firm[unit].any():
            badges.append("not replicated")
        if any(min(c["positives"].values()) < EXACT_BELOW for c in found):
            badges.append("few positives")
        if any(low < 0.5 for c in found for low, _ in c["interval"].values()):
            badges.append("interval reaches chance")
        if (self._finds.unstratified[unit] & ~self._finds.found[unit]).any():
            badges.append("confound")
        return badges

    def _exemplars(
        self, facet: str, unit: int, concepts: list[int], end: int
    ) -> list[dict[str, Any]]:
        """The most (end 0) or least (end 1) active stimuli of a facet."""
        space = self._space
        rows, summary = space.rows(facet), space.summary(facet)
        column, flipped = unit % space.width, unit >= space.width
        from_top = (end == 0) != flipped
        values = (summary.top_values if from_top else summary.bottom_values)[column]
        chosen = self._words.exemplars(facet, unit)[end][:SHOWN_EXEMPLARS]
        return [
            {
                "stimulus": rows.stimuli[row],
                "row": row,
                "text": rows.texts[row],
                "value": float(-value if flipped else value),
                "positive": bool(rows.labels[row, concepts[:1]].any()),
            }
            for row, value in zip(chosen, values, strict=False)
        ]

    def _histogram(
        self, facet: str, concepts: list[int], values: np.ndarray | None
    ) -> dict[str, Any] | None:
        """Counts of all stimuli, and of those that show the unit's first concept."""
        if values is None:
            return None
        edges = np.histogram_bin_edges(values, bins=HISTOGRAM_BINS)
        shown = self._space.rows(facet).labels[:, concepts[0]] if concepts else np.zeros(0, bool)
        positives = values[shown] if concepts else values[:0]
        return {
            "edges": edges.tolist(),
            "counts": np.histogram(values, bins=edges)[0].tolist(),
            "positives": np.histogram(positives, bins=edges)[0].tolist(),
        }


Strength = tuple[bool, int, float, str, int]
"""Sorts units, the strongest first."""


def listed_units(finds: SpaceFinds) -> list[tuple[Strength, int]]:
    """Returns the units of a space that have a concept, each behind what sorts them.

    Replicated pairs come first, then other pairs that hold in the required facets, then units with
    concepts in some facets, by AUROC.
    """
    effect = np.where(finds.found, finds.joint.effect, -1).max(axis=1)
    single = np.where(finds.single, finds.evidence.auroc, -1).max(axis=(0, 2))
    firm = np.zeros(len(effect), bool)
    if finds.replicated is not None:
        firm = finds.replicated.any(axis=1)
    out: list[tuple[Strength, int]] = []
    for unit, kind in enumerate(finds.kinds):
        if kind.kind in _RANK:
            strength = float((effect if kind.kind == _RANK[0] else single)[unit])
            loose = not bool(firm[unit])
            out.append(((loose, _RANK.index(kind.kind), -strength, finds.space.path, unit), unit))
    return out


def _by_facet(facets: tuple[str, ...], values: np.ndarray, of: type = float) -> dict[str, Any]:
    return {
        facet: _number(value) if of is float else of(value)
        for facet, value in zip(facets, values, strict=True)
    }


def _number(value: Any) -> float | None:
    """None where nothing is known: JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
