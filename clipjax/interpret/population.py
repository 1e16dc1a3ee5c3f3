"""Units of a scan as neuroscience would describe cells and populations of them.

A population is described by which stimuli it tells apart (representational similarity analysis), a
cell by how few stimuli it answers to, and how many views of one thing. Definitions:
`clipjax.interpret.statistics.selectivity`.
"""

import csv
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from clipjax.config.errors import UserError
from clipjax.interpret.findings import Findings
from clipjax.interpret.spaces import Space, UnitName
from clipjax.interpret.statistics.selectivity import (
    Comparison,
    Metric,
    Similarity,
    compare_dissimilarities,
    dissimilarity,
    response_invariance,
    selectivity_index,
)

LEAST_STIMULI, MOST_STIMULI = 3, 2_000
"""Fewer have no order of dissimilarities; of more, matrices take longer than the scan did."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dissimilarities:
    """How unlike each two stimuli are.

    Attributes:
        name: of what says so: a facet, or a file.
        stimuli: ids.
        matrix: symmetric, in their order.
    """

    name: str
    stimuli: tuple[str, ...]
    matrix: Float[np.ndarray, "stimuli stimuli"]

    def of(self, stimuli: Sequence[str]) -> Float[np.ndarray, "some some"]:
        """Returns the part of some stimuli, in their order."""
        place = {one: row for row, one in enumerate(self.stimuli)}
        rows: Int[np.ndarray, " some"] = np.array([place[one] for one in stimuli], np.int64)
        return self.matrix[np.ix_(rows, rows)]


@dataclasses.dataclass(frozen=True)
class Compared:
    """How alike two sides arrange the stimuli that both know.

    Attributes:
        first: name of one side.
        second: name of the other.
        stimuli: that both know.
        similarity: of their arrangements.
    """

    first: str
    second: str
    stimuli: int
    similarity: Similarity


@dataclasses.dataclass(frozen=True)
class Cell:
    """A unit as a cell.

    Attributes:
        unit: which.
        concept: id of the concept that was found for it.
        selectivity: by facet, Quian Quiroga's index; None of a constant unit.
        invariance: share of the concept's stimuli, over all facets, that it answers to.
        views: how many these stimuli are.
    """

    unit: UnitName
    concept: str
    selectivity: Mapping[str, float | None]
    invariance: float
    views: int


def read_dissimilarities(path: str | os.PathLike[str]) -> Dissimilarities:
    """Reads a table whose first row and first column are the ids of stimuli.

    Rows may stand in another order than columns.

    Args:
        path: of a file of comma-separated values; of tabs, if its name ends in .tsv.

    Raises:
        UserError: if it is no such table, or not symmetric and finite.
    """
    where = Path(path)
    try:
        with open(where, newline="", encoding="utf-8") as file:
            tabs = where.suffix == ".tsv"
            lines = [line for line in csv.reader(file, delimiter="\t" if tabs else ",") if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    ids = tuple(lines[0][1:]) if lines else ()
    rows = {line[0]: line[1:] for line in lines[1:]}
    if len(ids) < 3 or len(set(ids)) < len(ids) or len(lines) != len(ids) + 1:
        raise UserError(
            f"{path}: {max(0, len(lines) - 1)} rows for {len(set(ids))} different ids in the first "
            "row; expected a square table of three stimuli or more, each named once, with commas "
            "between the cells (tabs in a .tsv)."
        )
    matrix = np.empty((len(ids), len(ids)))
    for place, one in enumerate(ids):
        try:
            matrix[place] = [float(cell) for cell in rows[one]]
        except KeyError:
            raise UserError(f"{path}: no row of {one!r}, which has a column.") from None
        except ValueError:
            raise UserError(f"{path}: the row of {one!r} is not {len(ids)} numbers.") from None
    _check_distances(path, ids, matrix)
    return Dissimilarities(where.name, ids, matrix)


def _check_distances(
    path: str | os.PathLike[str], ids: Sequence[str], matrix: Float[np.ndarray, "ids ids"]
) -> None:
    bad = ~np.isclose(matrix, matrix.T) | ~np.isfinite(matrix)  # NaN differs from itself
    if bad.any():
        a, b = np.argwhere(bad)[0]
        raise UserError(
            f"{path}: {ids[a]} and {ids[b]} are {matrix[a, b]} apart, and {matrix[b, a]} the other "
            "way; expected one finite number."
        )
    selves = np.flatnonzero(np.diag(matrix))
    if len(selves):
        one = ids[selves[0]]
        raise UserError(
            f"{path}: {one} is {matrix[selves[0], selves[0]]} from itself, expected 0. Of a table "
            "of similarities, write how unlike things are, such as 1 - similarity."
        )


def facet_dissimilarities(
    space: Space, facet: str, *, metric: Metric = "correlation", seed: int = 0
) -> Dissimilarities:
    """Returns how unlike the activations of all units of a path are for each two stimuli.

    Args:
        space: the units.
        facet: whose stimuli; of more than 2,000, so many are drawn.
        metric: see `dissimilarity`.
        seed: of the draw, which goes by ids: facets with the same stimuli draw the same.

    Raises:
        UserError: if a stimulus leaves all units alike, where the metric asks for a direction.
    """
    stimuli = space.rows(facet).stimuli
    rows = np.arange(len(stimuli))
    if len(rows) > MOST_STIMULI:
        drawn = np.argsort([_drawn(one, seed) for one in stimuli], kind="stable")
        rows = np.sort(drawn[:MOST_STIMULI])
    values = space.values(facet, slice(0, space.width))[rows]
    ids = tuple(stimuli[row] for row in rows)
    try:
        return Dissimilarities(facet, ids, dissimilarity(values, metric=metric))
    except ValueError:
        flat = np.flatnonzero(np.ptp(values, axis=1) <= 1e-12 * abs(values).max())
        raise UserError(
            f"{space.path}: in the facet {facet}, {len(flat)} stimuli such as {ids[flat[0]]} leave "
            f"all units alike, so that {metric} says nothing of them. Use --metric euclidean."
        ) from None


def _drawn(stimulus: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {stimulus}".encode(), digest_size=7).digest())


def shared(first: Dissimilarities, second: Dissimilarities) -> list[str]:
    """Returns the stimuli that both sides know, in the order of the first."""
    known = set(second.stimuli)
    return [one for one in first.stimuli if one in known]


def compare(
    first: Dissimilarities,
    second: Dissimilarities,
    *,
    method: Comparison = "spearman",
    permutations: int = 999,
    seed: int = 0,
) -> Compared:
    """Returns how alike two sides arrange the stimuli that both know; see the statistic.

    Raises:
        UserError: if they share fewer than three stimuli, or all are equally far apart in one.
    """
    both = shared(first, second)
    if len(both) < LEAST_STIMULI:
        raise UserError(
            f"{first.name} and {second.name} share {len(both)} stimuli, and three are needed. "
            f"Ids are such as {first.stimuli[0]!r} and {second.stimuli[0]!r}."
        )
    for side in (first, second):
        if np.ptp(side.of(both)[np.triu_indices(len(both), 1)]) == 0:
            raise UserError(
                f"{side.name}: all {len(both)} stimuli that {first.name} and {second.name} share "
                "are equally far from each other there, which correlates with nothing."
            )
    found = compare_dissimilarities(
        first.of(both), second.of(both), method=method, permutations=permutations, seed=seed
    )
    return Compared(first.name, second.name, len(both), found)


def cells(space: Space, findings: Findings, concepts: Sequence[str]) -> list[Cell]:
    """Returns the units of a path that `clipjax neurons test` found, as cells.

    Args:
        space: the units.
        findings: of the scan.
        concepts: ids, in the order of the labels.
    """
    out = []
    for unit in findings.units():
        concept = next((one["concept"] for one in unit["concepts"] if one["found"]), None)
        if unit["path"] != space.path or concept is None:
            continue
        name = UnitName(unit["path"], unit["index"], unit["sign"])
        place = unit["index"] + (space.width if unit["sign"] == "-" else 0)
        index, answered, views = {}, 0.0, 0
        for facet in space.facets:
            values = space.values(facet, [place])
            shows = space.rows(facet).labels[:, concepts.index(concept)]
            found = float(selectivity_index(values)[0])
            index[facet] = found if np.isfinite(found) else None
            if shows.any() and not shows.all():
                views += int(shows.sum())
                answered += (
                    float(response_invariance(values[shows], values[~shows])[0]) * shows.sum()
                )
        out.append(Cell(name, concept, index, answered / max(views, 1), views))
    return out
