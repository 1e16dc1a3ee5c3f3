"""What the same tests find where nothing ought to be found: the lab's controls.

Counts alone mislead: a rotation of a layer smears every concept over every unit and finds more
pairs, not fewer. So a rotated basis is judged by cross-modal monosemanticity, and the others by
what they replicate.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from clipjax.config.errors import UserError
from clipjax.interpret.detect_settings import CONTROL_SHARE, DetectSettings
from clipjax.interpret.evidence import Advance, gather
from clipjax.interpret.scan_files import Scan
from clipjax.interpret.space_finds import SpaceFinds, counts_of, cross_modal_ratio, find
from clipjax.interpret.spaces import Space

CONTROLS = "controls"
ROTATED = "rotated"

ALIKE = 0.1
"""How much a basis must exceed its rotation by, as a share, to be more than one of many."""

_LEVEL = 0.05


def control_scans(scan: Scan) -> dict[str, Scan]:
    """Returns the scans of control models below the folder of a scan, by name.

    Raises:
        UserError: if one is not whole.
    """
    folder = scan.path / CONTROLS
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return {name: Scan(Path(folder) / name) for name in names}


def scan_control(
    finds: SpaceFinds, control: Scan, settings: DetectSettings, advance: Advance = lambda _: None
) -> dict[str, Any] | None:
    """Returns the figures of a control model in the space of the model; None if it lacks it.

    Args:
        finds: of the model.
        control: scan of the other model, of the same stimuli.
        settings: of the tests.
        advance: is called with the number of units that were read.

    Raises:
        UserError: if it was scanned with other stimuli.
    """
    space = finds.space
    if space.path not in control.record.paths:
        return None
    _check_same_stimuli(space, control)
    other = dataclasses.replace(space, scan=control)
    found = find(other, gather(other, settings, advance), settings)
    firm = found.firm_pairs
    failed = firm > 0 and firm >= CONTROL_SHARE * finds.firm_pairs
    return {**counts_of(found, settings), "failed": bool(failed)}


def rotated_control(
    finds: SpaceFinds, settings: DetectSettings, advance: Advance = lambda _: None
) -> dict[str, Any] | None:
    """Returns the figures of random bases of the same space, averaged over them.

    It fails where what drives a unit means one thing no more than what drives a random direction:
    the axes are then one basis of many, and "unit" is the wrong word. None without activations.

    Args:
        finds: of the space.
        settings: how many bases, and their seed.
        advance: is called with the number of units that were read.
    """
    space = finds.space
    if not settings.rotations or not space.stored:
        return None
    runs = []
    for number in range(settings.rotations):
        basis = random_rotation(space.width, seed=(settings.seed, number))
        turned = dataclasses.replace(space, basis=basis)
        found = find(turned, gather(turned, settings, advance), settings)
        runs.append(counts_of(found, settings))
    mean = _mean_of(runs)
    native = cross_modal_ratio(finds)
    turned_ratio = mean["cross_modal_ratio"]
    alike = (
        native is None
        or turned_ratio is None
        or native["mean"] < (1 + ALIKE) * turned_ratio["mean"]
    )
    return {**mean, "seeds": settings.rotations, "failed": bool(alike)}


def random_rotation(width: int, *, seed: int | tuple[int, ...]) -> Float[np.ndarray, "width width"]:
    """Returns an orthogonal matrix, all of which are equally likely.

    Source: Mezzadri 2007, "How to Generate Random Matrices from the Classical Compact Groups",
    https://arxiv.org/abs/math-ph/0609050 (QR of normal numbers, signs from R).
    """
    normal = np.random.default_rng(seed).normal(size=(width, width))
    q, r = np.linalg.qr(normal)
    return q * np.sign(np.diag(r))


def unit_permutation(finds: SpaceFinds, settings: DetectSettings) -> dict[str, Any] | None:
    """Returns how many pairs there would be if one facet's units were anybody's.

    The units of one facet change places, and pairs are counted again at the bar that the finds
    met: the largest p value and the floor. Of all facets, that with the least enrichment is told.
    The mean over all permutations is exact; `p` is from those that were drawn.

    Units are no independent replicates, and concepts cluster: this shows that facets agree beyond
    chance, not that the model has learned anything. Control models show that.

    Returns:
        "observed", "null_mean", "enrichment" (None where the null is 0), "p", "facet" and
        "failed"; None where nothing was found or no permutation is asked for.
    """
    if not settings.permutations or not finds.pairs:
        return None
    facets = finds.space.facets
    runs = [_permuted(finds, settings, m) for m in range(len(facets))]
    worst = min(
        range(len(runs)), key=lambda m: (_or_infinite(runs[m]["enrichment"]), -runs[m]["p"])
    )
    return {**runs[worst], "facet": facets[worst], "failed": runs[worst]["p"] > _LEVEL}


def _permuted(finds: SpaceFinds, settings: DetectSettings, facet: int) -> dict[str, Any]:
    """Counts pairs with the units of one facet permuted."""
    required = settings.required or len(finds.space.facets)
    p, auroc = finds.evidence.p_value, finds.evidence.auroc
    bar = np.sort(p, axis=0)[required - 1][finds.found].max()
    sure, strong = p <= bar, auroc >= settings.floor
    tested = ~np.isnan(p).any(axis=0)
    rest = np.arange(len(p)) != facet
    others_sure, others_strong = sure[rest].sum(axis=0), strong[rest].sum(axis=0)
    # What the others leave this facet to decide: nothing, or that it be sure, strong, or both.
    needs = []
    for by_sure, left_sure in (
        (None, others_sure >= required),
        (sure, others_sure == required - 1),
    ):
        for by_strong, left_strong in (
            (None, others_strong >= required),
            (strong, others_strong == required - 1),
        ):
            target = np.ones(tested.shape, bool)
            for condition in (by_sure, by_strong):
                target &= True if condition is None else condition[facet]
            needs.append((tested & left_sure & left_strong, target))
    observed = sum(int((open_pairs & target).sum()) for open_pairs, target in needs)
    width = finds.space.width
    halves = [slice(first, first + width) for first in range(0, finds.space.units, width)]
    null_mean = sum(
        float(open_pairs[half].sum(axis=0) @ target[half].mean(axis=0))
        for open_pairs, target in needs
        for half in halves
    )
    draws = _draws(needs, settings, width=width, units=finds.space.units)
    return {
        "observed": observed,
        "null_mean": null_mean,
        "enrichment": observed / null_mean if null_mean else None,
        "p": (1 + int((draws >= observed).sum())) / (1 + settings.permutations),
    }


def _draws(
    needs: list[tuple[Bool[np.ndarray, "units concepts"], Bool[np.ndarray, "units concepts"]]],
    settings: DetectSettings,
    *,
    width: int,
    units: int,
) -> np.ndarray:
    """Counts pairs in each permutation; either direction of a coordinate goes where it goes."""
    rng = np.random.default_rng((settings.seed, 1))
    places = [(*np.nonzero(open_pairs), target) for open_pairs, target in needs]
    draws = np.zeros(settings.permutations, np.int64)
    for number in range(settings.permutations):
        moved = rng.permutation(width)
        whole = np.concatenate([moved + first for first in range(0, units, width)])
        draws[number] = sum(target[whole[u], c].sum() for u, c, target in places)
    return draws


def _or_infinite(value: float | None) -> float:
    return float("inf") if value is None else value


def failed_lines(spaces: list[dict[str, Any]]) -> list[str]:
    """Returns a line for each control that finds about as much as the model does.

    The rotated basis is not among them: that axes are no better than directions does not make a
    find false. It is told beside the counts.

    Args:
        spaces: as in neurons.json.
    """
    lines = []
    for space in spaces:
        firm = _firm(space)
        for name, control in space["controls"].items():
            if name != ROTATED and control["failed"]:
                lines.append(
                    f"control failed: {space['path']}: {name} has {_firm(control)} pairs where the "
                    f"model has {firm}; expected less than {CONTROL_SHARE:.0%} of them"
                )
        shuffled = space["permutation"]
        if shuffled is not None and shuffled["failed"]:
            lines.append(
                f"control failed: {space['path']}: units of {shuffled['facet']} named at random "
                f"share as many concepts (p = {shuffled['p']:.3g})"
            )
    return lines


def _firm(figures: dict[str, Any]) -> int:
    confirmed = figures["replicated_pairs"]
    return figures["pairs"] if confirmed is None else confirmed


def _check_same_stimuli(space: Space, control: Scan) -> None:
    for facet in (*space.facets, *space.controls):
        if facet not in control.facets or control.rows(facet).stimuli != space.rows(facet).stimuli:
            raise UserError(
                f"{control.path}: was not scanned with the stimuli of {facet} that the model was "
                "scanned with. Scan the control again: clipjax neurons scan --control."
            )


def _mean_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the mean of each figure over runs; None where a run has none."""
    out: dict[str, Any] = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        if any(value is None for value in values):
            out[name] = None
        elif isinstance(values[0], dict):
            out[name] = _mean_of(values)
        else:
            out[name] = float(np.mean(values))
    return out
