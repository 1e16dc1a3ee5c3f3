"""What the same tests find where nothing ought to be found: the lab's controls.

Counts alone mislead: a rotation of a layer smears every concept over every unit and finds more
pairs, not fewer. So a rotated basis is judged by cross-modal monosemanticity, and the others by
what they replicate.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from clipjax.config.errors import UserError
from clipjax.interpret.detect_settings import CONTROL_SHARE, DetectSettings
from clipjax.interpret.evidence import Advance, gather
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.scan_files import CONTROLS, Scan
from clipjax.interpret.space_finds import SpaceFinds, counts_of, find
from clipjax.interpret.spaces import Space

ROTATED = "rotated"

ALIKE = 0.1
"""How much a basis must exceed its rotation by, as a share, to be more than one of many."""

_LEVEL = 0.05

_Pairs = Bool[np.ndarray, "units concepts"]


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
        UserError: if it was scanned with other stimuli, labels or concepts.
    """
    space = finds.space
    if space.path not in control.record.paths:
        return None
    _check_same_stimuli(space, control)
    other = dataclasses.replace(space, scan=control)
    found = find(other, gather(other, settings, advance), settings)
    firm = found.firm_pairs
    # Where the model has nothing, nothing is claimed that a control could refute.
    failed = finds.pairs > 0 and firm > 0 and firm >= CONTROL_SHARE * finds.firm_pairs
    return {**counts_of(found, settings), "failed": failed}


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
    own, turned = _claimed(counts_of(finds, settings)), _claimed(mean)
    alike = own is None or turned is None or own < (1 + ALIKE) * turned
    return {**mean, "seeds": settings.rotations, "failed": alike}


def _claimed(figures: dict[str, Any]) -> float | None:
    """Returns the cross-modal ratio of the units that a count speaks of, or of all."""
    if figures["cross_modal_found"] is not None:
        return figures["cross_modal_found"]
    every = figures["cross_modal_ratio"]
    return None if every is None else every["mean"]


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
    facets = finds.space.shown
    runs = [_permuted(finds, settings, name) for name in facets]
    worst = min(
        range(len(runs)), key=lambda m: (_or_infinite(runs[m]["enrichment"]), -runs[m]["p"])
    )
    return {**runs[worst], "facet": facets[worst], "failed": runs[worst]["p"] > _LEVEL}


def _permuted(finds: SpaceFinds, settings: DetectSettings, facet: str) -> dict[str, Any]:
    """Counts pairs with the units of one facet permuted."""
    needs = list(_needs(finds, settings, facet))
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


def _needs(
    finds: SpaceFinds, settings: DetectSettings, facet: str
) -> Iterator[tuple[_Pairs, _Pairs]]:
    """Yields which pairs the other facets leave open, and which of them this facet closes."""
    space, evidence = finds.space, finds.evidence
    required = settings.required or len(space.facets)
    p, auroc = evidence.p_value, evidence.auroc
    bar = np.sort(p, axis=0)[required - 1][finds.found].max()
    sure, strong = p <= bar, auroc >= settings.floor
    open_pairs = ~np.isnan(p).any(axis=0)
    weak = {name: scores >= settings.floor for name, scores in evidence.weak_auroc.items()}
    for name, reached in weak.items():
        if name != facet:
            open_pairs &= reached
    if facet in weak:
        enough = (sure.sum(axis=0) >= required) & (strong.sum(axis=0) >= required)
        yield open_pairs & enough, weak[facet]
        return
    here = space.facets.index(facet)
    rest = np.arange(len(p)) != here
    others_sure, others_strong = sure[rest].sum(axis=0), strong[rest].sum(axis=0)
    everything = np.ones(open_pairs.shape, bool)
    for by_sure, left_sure in (
        (everything, others_sure >= required),
        (sure[here], others_sure == required - 1),
    ):
        for by_strong, left_strong in (
            (everything, others_strong >= required),
            (strong[here], others_strong == required - 1),
        ):
            yield open_pairs & left_sure & left_strong, by_sure & by_strong


def _draws(
    needs: list[tuple[_Pairs, _Pairs]],
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
    """Returns a line for each control model that finds about as much as the model does.

    Rotated bases and permuted units are not among them, but are told beside the counts: that axes
    are no better than directions does not make a find false, and a space with a pair or two is no
    failure of the whole.

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
    return lines


def _firm(figures: dict[str, Any]) -> int:
    confirmed = figures["replicated_pairs"]
    return figures["pairs"] if confirmed is None else confirmed


def _check_same_stimuli(space: Space, control: Scan) -> None:
    ids = [concept.id for concept in space.scan.concepts]
    what = "concepts" if [concept.id for concept in control.concepts] != ids else None
    for facet in (*space.shown, *space.controls):
        what = what or _other(space.rows(facet), control, facet)
        if what:
            raise UserError(
                f"{control.path}: was not scanned with the {what} of {facet} that the model was "
                "scanned with. Scan the control again: clipjax neurons scan --control."
            )


def _other(rows: FacetRows, control: Scan, facet: str) -> str | None:
    """Returns what of a facet is another one in the scan of a control."""
    if facet not in control.facets or control.rows(facet).stimuli != rows.stimuli:
        return "stimuli"
    return None if np.array_equal(control.rows(facet).labels, rows.labels) else "labels"


def _mean_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the mean of each figure over the runs that have it; None where none has."""
    out: dict[str, Any] = {}
    for name in runs[0]:
        known = [run[name] for run in runs if run[name] is not None]
        if not known:
            out[name] = None
        elif isinstance(known[0], dict):  # mean, median and largest
            out[name] = _mean_of(known)
        else:
            out[name] = float(np.mean(known))
    return out
