"""Whether units that were found matter: what holding them does, beside other units of their layer.

A unit that fires for cats need not be used for anything. If it is, the model is less sure of cats
without it, in every facet, and other units of its layer are no such loss.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.config import UserError, did_you_mean
from clipjax.inference.load import Model
from clipjax.interpret.causal import BATCH_SIZE, CausalDrops, causal_drop
from clipjax.interpret.facets import Facet
from clipjax.interpret.findings import Findings
from clipjax.interpret.model_units import running
from clipjax.interpret.sae.scan_codes import space_path
from clipjax.interpret.scan_files import Scan
from clipjax.interpret.spaces import EMBED, UnitName, is_signed
from clipjax.interpret.statistics.effects import EffectRatio, effect_ratio
from clipjax.interpret.statistics.ranks import Pairs
from clipjax.models import unit_paths

Pair = tuple[UnitName, int]
"""A unit and the number of its concept."""

AGAINST = 50
RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation:
    """What the units of one path do for their concepts.

    Attributes:
        path: of the units.
        pairs: units and concepts that were looked at.
        drops: by facet, of these units and of others.
        ratios: by facet, the pairs against the others; None where there is nothing to compare.
    """

    path: str
    pairs: tuple[Pair, ...]
    drops: Mapping[str, CausalDrops]
    ratios: Mapping[str, EffectRatio | None]

    def to_json(self, concepts: Sequence[str]) -> dict[str, Any]:
        """Returns plain values.

        Args:
            concepts: their ids.
        """
        units = []
        for unit, concept in self.pairs:
            place = next(iter(self.drops.values())).units.index(unit.index)
            units.append(
                {
                    "unit": str(unit),
                    "concept": concepts[concept],
                    "drop": {n: _number(d.drop[place, concept]) for n, d in self.drops.items()},
                    "z": {n: _number(d.z[place, concept]) for n, d in self.drops.items()},
                }
            )
        ratios = {n: None if one is None else one.to_json() for n, one in self.ratios.items()}
        return {"path": self.path, "facets": ratios, "units": units}


def found_pairs(findings: Findings, concepts: Sequence[str], *, most: int) -> list[Pair]:
    """Returns the multimodal units of a test with their concepts, the strongest units first.

    Args:
        findings: of `clipjax neurons test`.
        concepts: ids, in the order of the labels.
        most: units that are taken.

    Raises:
        UserError: if there are none.
    """
    pairs = [
        (UnitName(unit["path"], unit["index"], unit["sign"]), concepts.index(told["concept"]))
        for unit in findings.units("multimodal")[:most]
        for told in unit["concepts"]
    ]
    if not pairs:
        raise UserError(
            "no multimodal unit was found in this scan, so there is none to hold. Name units "
            "yourself: --units PATH:INDEX=CONCEPT."
        )
    return pairs


def named_pairs(
    texts: Sequence[str], concepts: Sequence[str], findings: Findings | None
) -> list[Pair]:
    """Returns the units that are named, each with the concept that is named or that was found.

    Args:
        texts: "PATH:INDEX=CONCEPT" or, of a listed unit, "PATH:INDEX".
        concepts: ids.
        findings: of the scan, if it was tested.

    Raises:
        UserError: if one names no unit, or a concept is unknown or not said.
    """
    pairs: list[Pair] = []
    for text in texts:
        name, equals, concept = text.partition("=")
        unit = UnitName.parse(name)
        if not equals:
            if findings is None:
                raise UserError(f"{text}: for which concept? Write {name}=CONCEPT.")
            told = findings.show(name)["concepts"]
            found = [one["concept"] for one in told if one.get("found", True)]
            if not found:
                raise UserError(
                    f"{name}: no concept was found for it in all facets. Name one: "
                    f"{name}=CONCEPT, or --concept of neurons steer."
                )
            concept = found[0]
        if concept not in concepts:
            raise UserError(
                f"{text}: there is no concept {concept!r}.{did_you_mean(concept, concepts)}"
            )
        pairs.append((unit, concepts.index(concept)))
    return pairs


def check_named(scan: Scan, unit: UnitName) -> None:
    """Refuses a unit that was not scanned, before a model is loaded.

    Raises:
        UserError: naming the nearest path, how many units there are, or that they have no sign.
    """
    if any(path.startswith(space_path("")) for path in (unit.path, *scan.record.paths)):
        raise UserError(
            f"{unit}: latents of an autoencoder cannot be steered or ablated. Name a unit of the "
            "model, and the scan that the autoencoder was labelled by."
        )
    facets = scan.facets_of(unit.path)
    width = scan.record.paths[unit.path]
    if unit.index >= width:
        raise UserError(f"{unit.path} has units 0 to {width - 1}, not {unit.index}.")
    if unit.sign and not is_signed(scan, unit.path, facets):
        raise UserError(
            f"{unit}: the units of {unit.path} have no sign; only those of {EMBED} may. Write "
            f"{unit.path}:{unit.index}."
        )


def ablation(
    model: Model,
    facets: Mapping[str, Facet],
    names: Sequence[str],
    pairs: Sequence[Pair],
    *,
    against: int = AGAINST,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    resamples: int = RESAMPLES,
) -> list[Ablation]:
    """Holds units at their means one by one, and others of the same path, and compares.

    Args:
        model: as loaded.
        facets: by name.
        names: of the concepts: the prompts.
        pairs: units and their concepts.
        against: other units of each path, drawn at random; fewer where there are fewer.
        seed: of that draw and of the intervals.
        batch_size: samples of a call.
        resamples: draws of units for the intervals.

    Raises:
        UserError: if the model has no such unit, no facet runs it, or there are too few units or
            draws for an interval.
    """

    def ratio(drops: Pairs, found: np.ndarray, where: str) -> EffectRatio | None:
        try:
            return effect_ratio(drops, found, resamples=resamples, seed=seed)
        except ValueError as error:
            raise UserError(
                f"{where}: {error}. Compare with more units (--against, now {against}), or draw "
                f"more often (--resamples, now {resamples})."
            ) from error

    plans = []
    for path in dict.fromkeys(unit.path for unit, _ in pairs):
        own = tuple(pair for pair in pairs if pair[0].path == path)
        looked_at = sorted({unit.index for unit, _ in own})
        width = unit_paths(model.config, [path]).get(path, 0)
        rest = np.setdiff1d(np.arange(width), looked_at)
        rng = np.random.default_rng(seed)
        others = sorted(rng.permutation(rest)[:against].tolist())
        units = [*looked_at, *others]
        found = np.zeros((len(units), len(names)), bool)
        for unit, concept in own:
            found[units.index(unit.index), concept] = True
        plans.append((path, own, units, found))
        # Whether draws have pairs and others does not depend on what they do: told before the work.
        for name, facet in running(path, facets).items():
            told = facet.rows.labels.any(axis=0) & ~facet.rows.labels.all(axis=0)
            ratio(np.where(told, np.ones(found.shape), np.nan), found, f"{path} in {name}")
    out = []
    for path, own, units, found in plans:
        drops = causal_drop(model, path, units, facets, names, batch_size=batch_size)
        ratios = {name: ratio(one.drop, found, f"{path} in {name}") for name, one in drops.items()}
        out.append(Ablation(path=path, pairs=own, drops=drops, ratios=ratios))
    return out


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
