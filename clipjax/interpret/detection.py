"""From a scan to findings: which units answer to which concepts, and whether that holds up."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import clipjax
from clipjax.config.errors import UserError
from clipjax.core.progress import Progress
from clipjax.interpret.controls import (
    ROTATED,
    control_scans,
    failed_lines,
    rotated_control,
    scan_control,
    unit_permutation,
)
from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.evidence import Advance, gather
from clipjax.interpret.findings import SCHEMA, Findings
from clipjax.interpret.scan_files import Scan
from clipjax.interpret.space_finds import SpaceFinds, find, space_figures, untested_lines
from clipjax.interpret.spaces import Space, spaces_of
from clipjax.interpret.statistics.ranks import count_positives, testable
from clipjax.interpret.unit_findings import UnitDetails, listed_units

Keep = Callable[[str, np.ndarray], None]


def detect(
    scan: Scan,
    settings: DetectSettings | None = None,
    *,
    controls: bool = True,
    keep: Keep | None = None,
) -> Findings:
    """Returns what was found in a scan, and what its controls found.

    Spaces are tested one by one: in memory are the scores of all pairs of one space, and the
    activations of a block of its units.

    Args:
        scan: of a model; scans of control models are looked for below its folder.
        settings: of the tests.
        controls: whether to run them; without, counts stand alone and prove little.
        keep: is given the scores of all pairs, by name; by default the findings hold them.

    Raises:
        UserError: if a name is misspelt, no concept is tested in enough facets, an activation is
            NaN, or a control saw other stimuli.
    """
    settings = settings or DetectSettings()
    start = time.monotonic()
    spaces, lines = spaces_of(scan, settings)
    spaces, untested = _with_concepts(scan, spaces, settings)
    others = control_scans(scan) if controls else {}
    arrays: dict[str, np.ndarray] = {}
    keep = keep or arrays.__setitem__
    lines = dict.fromkeys([*lines, *untested])
    figures: list[dict[str, Any]] = []
    listed: list[tuple[Any, dict[str, Any]]] = []
    rotations = settings.rotations if scan.record.store != "none" else 0
    turns = 1 + (len(others) + rotations if controls else 0)
    total = turns * sum(space.units for space in spaces)
    with Progress("testing", total, "units", quiet_seconds=2.0) as progress:
        for space in spaces:
            advance = progress.advance
            one = find(space, gather(space, settings, advance), settings)
            lines |= dict.fromkeys(untested_lines(one, settings.least))
            found = space_figures(one, settings)
            found["controls"] = _controls(one, others, settings, advance) if controls else {}
            found["permutation"] = unit_permutation(one, settings) if controls else None
            figures.append(found)
            listed = _listed(listed, one, found, settings)
            for name, array in _arrays(one).items():
                keep(f"{space.path}:{name}", array)
    content = {
        "schema": SCHEMA,
        "version": clipjax.__version__,
        "scan": scan.record.key,
        "model": _model(scan),
        "data": _data(scan, list(lines)),
        "settings": {**settings.as_json(), "store": scan.record.store, "pool": scan.record.pool},
        "spaces": figures,
        "units": [unit for _, unit in listed],
        "summary": _summary(figures),
        "failed_controls": failed_lines(figures),
        "proves": _proves(scan, figures),
        "seed": settings.seed,
        "seconds": time.monotonic() - start,
    }
    return Findings(content=content, arrays=arrays)


def _with_concepts(
    scan: Scan, spaces: Sequence[Space], settings: DetectSettings
) -> tuple[list[Space], list[str]]:
    """Returns the spaces in whose facets some concept is tested, and a line for each other one.

    Raises:
        UserError: if there is none.
    """
    kept, lines = [], []
    for space in spaces:
        positives = {name: count_positives(scan.rows(name).labels) for name in space.facets}
        enough = {
            name: testable(counts, len(scan.rows(name).stimuli), settings.least)
            for name, counts in positives.items()
        }
        weak = tuple(name for name in space.facets if not enough[name].any())
        tested = tuple(name for name in space.facets if name not in weak)
        common = [enough[name] & (positives[name] > 0) for name in tested]
        common += [positives[name] > 0 for name in weak]
        most = ", ".join(f"{name} {int(positives[name].max(initial=0))}" for name in space.facets)
        if len(tested) < max(2, settings.required or 2) or not np.logical_and.reduce(common).any():
            lines.append(
                f"{space.path}: not tested; no concept has {settings.least} positives and as many "
                f"negatives in enough of its facets (most positives of one concept: {most})"
            )
            continue
        kept.append(dataclasses.replace(space, facets=tested, weak=weak))
        lines += [
            f"{name}: no concept has {settings.least} positives, so that nothing is tested there; "
            "a find must reach the AUROC there too"
            for name in weak
        ]
    if not kept:
        raise UserError(
            f"{scan.path}: its facets share no concept that can be tested. {'. '.join(lines)}. "
            "Name facets that share concepts (--facets), or lower --least."
        )
    return kept, lines


def _controls(
    finds: SpaceFinds, others: Mapping[str, Scan], settings: DetectSettings, advance: Advance
) -> dict[str, dict[str, Any]]:
    found = {name: scan_control(finds, scan, settings, advance) for name, scan in others.items()}
    found[ROTATED] = rotated_control(finds, settings, advance)
    return {name: figures for name, figures in found.items() if figures is not None}


def _listed(
    listed: list[tuple[Any, dict[str, Any]]],
    finds: SpaceFinds,
    figures: Mapping[str, Any],
    settings: DetectSettings,
) -> list[tuple[Any, dict[str, Any]]]:
    """Adds the units of a space to those that are listed, and keeps the strongest."""
    keys = [(key, None) for key, _ in listed] + [(k, u) for k, u in listed_units(finds)]
    bar = sorted(key for key, _ in keys)[: settings.most][-1:]
    details = UnitDetails(finds, settings)
    badges = _space_badges(figures)
    for key, unit in listed_units(finds):
        if key <= bar[0]:
            told = details.of(unit)
            listed.append((key, {**told, "badges": [*told["badges"], *badges]}))
    return sorted(listed, key=lambda pair: pair[0])[: settings.most]


def _space_badges(figures: Mapping[str, Any]) -> list[str]:
    """What a unit must be told of because of its space."""
    badges = []
    for name, control in figures["controls"].items():
        if control["failed"]:
            badges.append(
                "rotated control equal" if name == ROTATED else f"control {name} finds as much"
            )
    if figures["permutation"] is not None and figures["permutation"]["failed"]:
        badges.append("permuted units find as much")
    return badges


def _arrays(finds: SpaceFinds) -> dict[str, np.ndarray]:
    evidence, joint = finds.evidence, finds.joint
    arrays = {
        "auroc": evidence.auroc,
        "p": evidence.p_value,
        "q": joint.adafilter,
        "q_bh": joint.bh,
        "effect": joint.effect,
        "found": finds.found,
    }
    if finds.replicated is not None:
        arrays["replicated"] = finds.replicated
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _model(scan: Scan) -> dict[str, Any]:
    record = scan.record
    return {"spec": record.model, "step": record.step, "identity": record.identity}


def _data(scan: Scan, untested: list[str]) -> dict[str, Any]:
    rows = [scan.rows(name) for name in scan.facets]
    return {
        "stimuli": scan.record.stimuli,
        "facets": [
            {
                "name": one.name,
                "tower": one.tower,
                "stimuli": len(one.stimuli),
                "samples": one.samples,
                "control": one.is_control,
                "confounds": list(one.confound_names),
            }
            for one in rows
        ],
        "concepts": [
            {
                "id": concept.id,
                "name": concept.name,
                "words": list(concept.words),
                "positives": {one.name: int(one.labels[:, place].sum()) for one in rows},
            }
            for place, concept in enumerate(scan.concepts)
        ],
        "untested": untested,
    }


def _summary(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures of the space that holds most, and sums over all."""
    names = (
        "pairs",
        "multimodal_units",
        "strict_units",
        "strict_concepts",
        "concepts",
        "replicated_pairs",
        "replicated_units",
        "replicated_concepts",
    )
    best = max(figures, key=lambda one: (one["replicated_pairs"] or 0, one["pairs"]))
    sums = {
        name: sum(one[name] or 0 for one in figures)
        for name in ("units", *names)
        if not name.endswith("concepts")
    }
    return {"best_space": best["path"], **{name: best[name] for name in names}, "all_spaces": sums}


def _proves(scan: Scan, figures: Sequence[dict[str, Any]]) -> list[str]:
    """Returns what the findings prove and what not, in sentences."""
    lines = [
        "A pair of a unit and a concept is found if the unit tells the concept's stimuli from all "
        "others in every required facet, beyond what chance and the measured confounds explain.",
        "It is replicated if one half of the stimuli finds it and the other half confirms it.",
        "That a unit answers to a concept does not show that the model uses it: ablate it for "
        "that.",
        "Confounds that were not measured are not held still, and the list of concepts decides "
        "what can be found.",
        "Units of one network depend on each other: believe the control models before the q "
        "values.",
        "Small clean stimuli prove that the machinery works; they say nothing about models of the "
        "web.",
    ]
    if not any(name != ROTATED for one in figures for name in one["controls"]):
        lines.append(
            "No control model was scanned (untrained, shuffled pairs): that training made these "
            "units is not shown."
        )
    equal = [
        one["path"]
        for one in figures
        if one["pairs"] and one["controls"].get(ROTATED, {}).get("failed")
    ]
    shuffled = [one["path"] for one in figures if (one["permutation"] or {}).get("failed")]
    if shuffled:
        lines.append(
            f"In {', '.join(shuffled)} the units of a facet named at random share about as many "
            "concepts with the other facets: these counts may be coincidence."
        )
    if equal:
        lines.append(
            f"In {', '.join(equal)} a random rotation of the axes means as much across facets: "
            "these are directions, and not units in a basis of their own."
        )
    if scan.record.store == "none":
        lines.append(
            "The scan kept no activations: p values are normal approximations from rank sums, "
            "confounds are not held still, and nothing is replicated or rotated."
        )
    elif scan.record.store == "codes":
        lines.append(
            "Activations are codes of a byte: what is not a matter of order (monosemanticity, "
            "rotations, mad) is approximate."
        )
    return lines
