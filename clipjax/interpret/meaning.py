"""Whether what drives the units of a space means one thing, in a facet and across facets."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from clipjax.interpret.facets import FacetRows
from clipjax.interpret.spaces import Space
from clipjax.interpret.statistics.monosemanticity import (
    CrossModalMonosemanticity,
    Monosemanticity,
)

Rows = Int[np.ndarray, " _"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meaning:
    """Of each unit; NaN where it cannot be said.

    Attributes:
        within: monosemanticity over its baseline, by facet.
        across: cross-modal monosemanticity over its baseline, mean over pairs of facets.
        modality: share of the mean size of activations that is of the image tower's facets, 0 to
            1; a balanced unit has 1/2. NaN where only one tower runs the units.
    """

    within: Float[np.ndarray, "facets units"]
    across: Float[np.ndarray, " units"]
    modality: Float[np.ndarray, " units"]

    @classmethod
    def joined(cls, parts: Sequence["Meaning"]) -> "Meaning":
        """Returns the blocks of a space as one."""
        return cls(
            within=np.concatenate([part.within for part in parts], axis=1),
            across=np.concatenate([part.across for part in parts]),
            modality=np.concatenate([part.modality for part in parts]),
        )


def concept_vectors(
    labels: Bool[np.ndarray, "rows concepts"],
) -> Float[np.ndarray, "rows concepts"]:
    """Returns what each stimulus means by its concepts, the rarer the heavier (TF-IDF).

    >>> concept_vectors(np.array([[True, True], [False, True], [False, False]])).round(2).tolist()
    [[1.39, 0.69], [0.0, 0.69], [0.0, 0.0]]
    """
    # One more stimulus than there are, so that a concept that all show still counts.
    rarity = np.log((1 + len(labels)) / np.maximum(1, labels.sum(axis=0)))
    return labels * rarity


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MeaningOfBlock:
    """Scores blocks of units of a space; stimuli without a concept say nothing and are left out.

    Attributes:
        facets: what is known of the stimuli of each facet.
        vectors: what they mean.
        shown: rows with a concept, by facet.
        pairs: facets that are compared: those of different towers, or all if there is one tower.
        signed: whether either direction is a unit, which is silent while the other one fires.
    """

    facets: tuple[FacetRows, ...]
    vectors: tuple[Float[np.ndarray, "_ concepts"], ...]
    shown: tuple[Rows, ...]
    pairs: tuple[tuple[int, int], ...]
    signed: bool

    @classmethod
    def of(cls, space: Space) -> "MeaningOfBlock":
        """Returns what the scores of a space need."""
        facets = tuple(space.rows(name) for name in space.shown)
        return cls(
            facets=facets,
            vectors=tuple(concept_vectors(facet.labels) for facet in facets),
            shown=tuple(np.flatnonzero(facet.labels.any(axis=1)) for facet in facets),
            pairs=compared_facets(facets),
            signed=space.signed,
        )

    def scores(self, values: Sequence[Float[np.ndarray, "_ units"]]) -> Meaning:
        """Returns the scores of a block.

        Args:
            values: activations in each facet.
        """
        units = values[0].shape[1]
        within = np.full((len(values), units), np.nan)
        for m, (of_facet, vectors, rows) in enumerate(
            zip(values, self.vectors, self.shown, strict=True)
        ):
            if len(rows) > 1:
                sums = Monosemanticity()
                sums.update(of_facet[rows], vectors[rows])
                within[m] = sums.result().ratio
        across = [self._across(values, *pair) for pair in self.pairs]
        return Meaning(
            within=within, across=_mean_of_known(across, units), modality=self._modality(values)
        )

    def _across(self, values: Sequence[np.ndarray], first: int, second: int) -> np.ndarray:
        a, b = values[first], values[second]
        e, f = self.vectors[first], self.vectors[second]
        left, right, only_left, only_right = self._matched[first, second]
        sums = CrossModalMonosemanticity()
        sums.update_pairs(a[left], e[left], b[right], f[right])
        sums.update_first(a[only_left], e[only_left])
        sums.update_second(b[only_right], f[only_right])
        try:
            return sums.result().ratio
        except ValueError:  # no two different things
            return np.full(a.shape[1], np.nan)

    @functools.cached_property
    def _matched(self) -> dict[tuple[int, int], tuple[Rows, Rows, Rows, Rows]]:
        return {
            (m, n): _match(self.facets[m], self.facets[n], self.shown[m], self.shown[n])
            for m, n in self.pairs
        }

    def _modality(self, values: Sequence[np.ndarray]) -> np.ndarray:
        size: dict[str, list[np.ndarray]] = {"image": [], "text": []}
        for facet, of_facet in zip(self.facets, values, strict=True):
            fired = np.maximum(of_facet, 0) if self.signed else abs(of_facet)
            size[facet.tower].append(fired.mean(axis=0))
        units = values[0].shape[1]
        if not (size["image"] and size["text"]):
            return np.full(units, np.nan)
        image, text = (np.mean(size[tower], axis=0) for tower in ("image", "text"))
        both = image + text
        return np.divide(image, both, out=np.full(units, np.nan), where=both > 0)


def compared_facets(facets: Sequence[FacetRows]) -> tuple[tuple[int, int], ...]:
    """Returns pairs of facets of different towers; of all facets where there is one tower."""
    pairs = list(itertools.combinations(range(len(facets)), 2))
    crossing = [(m, n) for m, n in pairs if facets[m].tower != facets[n].tower]
    return tuple(crossing or pairs)


def _match(
    first: FacetRows, second: FacetRows, shown_first: Rows, shown_second: Rows
) -> tuple[Rows, Rows, Rows, Rows]:
    """Returns rows that show the same thing, side by side, and those of one facet alone."""
    place = {second.stimuli[row]: int(row) for row in shown_second}
    shared = [
        (int(row), place[first.stimuli[row]]) for row in shown_first if first.stimuli[row] in place
    ]
    left, right = np.array(shared, np.int64).reshape(-1, 2).T
    return left, right, np.setdiff1d(shown_first, left), np.setdiff1d(shown_second, right)


def _mean_of_known(rows: Sequence[np.ndarray], units: int) -> np.ndarray:
    """Returns the mean over rows that are not NaN."""
    both = np.stack(rows) if rows else np.empty((0, units))
    known = ~np.isnan(both)
    count = known.sum(axis=0)
    total = np.where(known, both, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(units, np.nan), where=count > 0)
