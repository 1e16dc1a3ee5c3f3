"""Units of two scans, or of two facets of one, that answer to the same stimuli."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from clipjax.config import UserError
from clipjax.interpret.alignment import Alignment, alignments
from clipjax.interpret.matching import Matches, match_units
from clipjax.interpret.scan_files import Scan

MOST_ALIGNED = 2_000  # stimuli, since all pairs of them are looked at
_MOST_PRODUCTS = 2**28  # correlations at once: 2 GB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """Units of one facet of a scan.

    Attributes:
        scan: opened.
        facet: of the scan.
        path: of the units.
    """

    scan: Scan
    facet: str
    path: str

    def __str__(self) -> str:
        return f"{self.scan.path} {self.facet} {self.path}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanMatches:
    """What two sides have in common.

    Attributes:
        matches: pairs of units.
        alignment: of the whole sides, by measure.
        aligned_stimuli: that the alignment looked at.
    """

    matches: Matches
    alignment: Mapping[str, Alignment]
    aligned_stimuli: int


def match_scans(
    first: Side,
    second: Side,
    *,
    neighbours: int = 1,
    shuffles: int = 99,
    floor: float = 0.5,
    aligned_neighbours: int = 10,
    seed: int = 0,
) -> ScanMatches:
    """Returns the units that match, against shuffled stimuli.

    Of two scans all stimuli must be the same. Of two facets, such as pictures and captions, those
    that both have are looked at: a match is then an image unit and a text unit.

    Args:
        first: units of A.
        second: units of B.
        neighbours: see `match_units`.
        shuffles: see `match_units`.
        floor: see `match_units`.
        aligned_neighbours: of the alignment.
        seed: of the shuffles, and of the stimuli of the alignment where there are very many.

    Raises:
        UserError: if the stimuli are not the same, none is shared, a scan kept no activations, or
            there are too many units for all pairs.
    """
    pairs = first.scan.record.paths.get(first.path, 0) * second.scan.record.paths.get(
        second.path, 0
    )
    if pairs > _MOST_PRODUCTS:
        raise UserError(
            f"{first.path} and {second.path}: {pairs:,} pairs of units are too many, the most is "
            f"{_MOST_PRODUCTS:,}. Match smaller layers."
        )
    places = shared_stimuli(first, second)
    a, b = (_of_side(side, place) for side, place in zip((first, second), places, strict=True))
    matches = match_units(a, b, neighbours=neighbours, shuffles=shuffles, floor=floor, seed=seed)
    chosen = np.arange(len(a))
    if len(a) > MOST_ALIGNED:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(a))[:MOST_ALIGNED])
    alignment = alignments(
        a[chosen], b[chosen], neighbours=aligned_neighbours, shuffles=shuffles, seed=seed
    )
    return ScanMatches(matches=matches, alignment=alignment, aligned_stimuli=len(chosen))


def shared_stimuli(first: Side, second: Side) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of both sides that are the same stimuli, in one order.

    Raises:
        UserError: if there are none, or two scans of one facet saw others.
    """
    ids = [side.scan.rows(side.facet).stimuli for side in (first, second)]
    of_second = {one: row for row, one in enumerate(ids[1])}
    both = [(row, of_second[one]) for row, one in enumerate(ids[0]) if one in of_second]
    same_facet = first.facet == second.facet
    if same_facet and not len(both) == len(ids[0]) == len(ids[1]):
        example = next(iter(set(ids[0]) ^ set(ids[1])))
        raise UserError(
            f"{first.scan.path} and {second.scan.path} saw other stimuli in the facet "
            f"{first.facet}: {example!r} is in one of them only. Scan the same stimuli with both."
        )
    if len(both) < 2:
        raise UserError(
            f"the facets {first.facet} and {second.facet} share {len(both)} stimuli: a match needs "
            "the same things in both."
        )
    rows = np.array(both, np.int64)
    return rows[:, 0], rows[:, 1]


def _of_side(side: Side, rows: np.ndarray) -> Float[np.ndarray, "stimuli units"]:
    # Codes are in the order of activations, and steps of their ranks.
    return np.asarray(side.scan.activations(side.facet, side.path)[rows], np.float32)
