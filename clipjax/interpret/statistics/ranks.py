"""How well each unit tells each concept apart inside one facet, from the ranks of activations."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from clipjax.config import UserError

Pairs = Float[np.ndarray, "units concepts"]

CHUNK_ENTRIES = 2**21  # activations ranked at once: 16 MB an array
EXACT_BELOW = 8  # positives (or negatives) with fewer have the exact null
# Tails smaller than this drown in the rounding of the transform, unless they can be counted.
_SMALLEST_TAIL = 1e-12
_COUNTABLE = 2**40
_REMEMBERED = 8  # patterns of ties: those of units without ties are one; each holds megabytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class FacetScores:
    """What one facet says of all pairs of a unit and a concept; NaN where it was not tested.

    Attributes:
        auroc: how often a positive is above a negative, ties counting half.
        z: standardised rank sum with the variance of ties.
        p_value: one-sided; how often positives drawn at random are as high.
        positives: stimuli of each concept.
        stimuli: all stimuli of the facet.
        min_positives: fewer, and the concept was not tested; so also with negatives.
    """

    auroc: Pairs
    z: Pairs
    p_value: Pairs
    positives: Int[np.ndarray, " concepts"]
    stimuli: int
    min_positives: int

    @property
    def tested(self) -> Bool[np.ndarray, " concepts"]:
        """Whether each concept was tested."""
        return testable(self.positives, self.stimuli, self.min_positives)

    def untested(self, names: Sequence[str]) -> list[str]:
        """Returns a line for each concept that was not tested, which says why."""
        return [
            f"{names[c]}: not tested; {self.positives[c]} of {self.stimuli} stimuli are positive, "
            f"{self.min_positives} and as many negatives are needed"
            for c in np.flatnonzero(~self.tested).tolist()
        ]


def midranks(
    columns: Shaped[np.ndarray, "stimuli units"],
) -> Float[np.ndarray, "stimuli units"]:
    """Returns the rank of each entry in its column, from 1; equal ones share their mean rank.

    >>> midranks(np.array([[0.0], [3.0], [0.0]])).T.tolist()
    [[1.5, 3.0, 1.5]]
    """
    rows = np.ascontiguousarray(columns.T)
    order = np.argsort(rows, axis=1)
    ordered = np.take_along_axis(rows, order, axis=1)
    places = np.arange(rows.shape[1])
    fresh = np.ones(rows.shape, bool)  # where a run of equal entries begins
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    begins = np.maximum.accumulate(np.where(fresh, places, 0), axis=1)
    last = np.ones(rows.shape, bool)
    last[:, :-1] = fresh[:, 1:]
    backwards = np.where(last, places, rows.shape[1])[:, ::-1]
    ends = np.minimum.accumulate(backwards, axis=1)[:, ::-1]
    ranks = np.empty(rows.shape)
    np.put_along_axis(ranks, order, (begins + ends) / 2 + 1, axis=1)
    return ranks.T


def facet_scores(
    activations: Float[np.ndarray, "stimuli units"],
    labels: Shaped[np.ndarray, "stimuli concepts"],
    *,
    min_positives: int = 5,
    exact_below: int = EXACT_BELOW,
    units: Sequence[str] | None = None,
    stimuli: Sequence[str] | None = None,
) -> FacetScores:
    """Returns AUROC, z and one-sided p of every unit against every concept of one facet.

    All rank sums are one matrix product, ranks^T labels. Their null is normal with the variance
    that ties leave, and exact (all ways to choose the positives) where positives or negatives are
    few. A unit that gives one value to all stimuli has AUROC 1/2 and p 1.

    Args:
        activations: one row a stimulus; average over views of one thing first.
        labels: whether a stimulus shows a concept, 0 or 1.
        min_positives: concepts with fewer positives or fewer negatives are NaN.
        exact_below: how few positives or negatives make the null exact.
        units: names for errors.
        stimuli: names for errors.

    Raises:
        UserError: if an activation is NaN.

    Source: Mann and Whitney 1947, "On a Test of Whether one of Two Random Variables is
    Stochastically Larger than the Other"; Lehmann 1975, "Nonparametrics", section 1.4 (ties).
    """
    positives = count_positives(labels)
    total = len(activations)
    shape = (activations.shape[1], labels.shape[1])
    auroc, z, p_value = (np.empty(shape) for _ in range(3))
    tested = testable(positives, total, min_positives)
    few = np.minimum(positives, total - positives) < exact_below
    exact = np.flatnonzero(tested & few)
    hot = labels.astype(np.float64)
    for part, block in unit_blocks(activations, units=units, stimuli=stimuli):
        ranks = midranks(block)
        sums = ranks.T @ hot
        spread = rank_spread(ranks)
        auroc[part], z[part] = of_rank_sums(sums, spread, positives, total)
        p_value[part] = np.where(spread[:, None] > 0, upper_tail(z[part]), 1.0)
        p_value[part][:, exact] = exact_tails(ranks, sums[:, exact], positives[exact])
    for scores in (auroc, z, p_value):
        scores[:, ~tested] = np.nan
    return FacetScores(
        auroc=auroc,
        z=z,
        p_value=p_value,
        positives=positives,
        stimuli=total,
        min_positives=min_positives,
    )


def testable(
    positives: Int[np.ndarray, " concepts"], total: int, min_positives: int
) -> Bool[np.ndarray, " concepts"]:
    """Returns which concepts have positives and negatives enough; never with none of either."""
    return np.minimum(positives, total - positives) >= max(1, min_positives)


def count_positives(
    labels: Shaped[np.ndarray, "stimuli concepts"],
) -> Int[np.ndarray, " concepts"]:
    """Returns how many stimuli show each concept.

    Raises:
        UserError: if a label is neither 0 nor 1.
    """
    wrong = np.argwhere((labels != 0) & (labels != 1))
    if len(wrong):
        row, column = wrong[0]
        raise UserError(
            f"labels: stimulus {row}, concept {column} is {labels[row, column]}; expected 0 or 1."
        )
    return labels.sum(axis=0, dtype=np.int64)


def unit_blocks(
    activations: Float[np.ndarray, "stimuli units"],
    *,
    units: Sequence[str] | None = None,
    stimuli: Sequence[str] | None = None,
) -> Iterator[tuple[slice, Float[np.ndarray, "stimuli _"]]]:
    """Yields blocks of units with their columns, small enough to rank at once.

    Raises:
        UserError: if an activation is NaN; the first unit and stimulus are named.
    """
    width = max(1, CHUNK_ENTRIES // max(1, len(activations)))
    for first in range(0, activations.shape[1], width):
        part = slice(first, first + width)
        block = activations[:, part]
        missing = np.argwhere(np.isnan(block))
        if len(missing):
            row, column = missing[0]
            unit = f"unit {units[first + column]}" if units else f"unit {first + column}"
            stimulus = f"stimulus {stimuli[row]}" if stimuli else f"stimulus {row}"
            raise UserError(
                f"{unit}: its activation at {stimulus} is NaN (of {len(missing):,} in this block); "
                "expected numbers, since NaN has no rank. Look at the model's outputs for it."
            )
        yield part, block


def rank_spread(ranks: Float[np.ndarray, "stimuli units"]) -> Float[np.ndarray, " units"]:
    """Returns the sum of squares of each column's ranks about their mean; ties lower it."""
    return ((ranks - (len(ranks) + 1) / 2) ** 2).sum(axis=0)


def of_rank_sums(
    sums: Pairs,
    spread: Float[np.ndarray, " units"],
    positives: Int[np.ndarray, " concepts"],
    total: int,
) -> tuple[Pairs, Pairs]:
    """Returns AUROC and z of rank sums; AUROC is NaN without positives or without negatives.

    The variance n+ n- / (N (N-1)) sum (r - mean)^2 is that of n+ ranks drawn without replacement;
    it equals the textbook n+ n- / 12 ((N+1) - sum (t^3 - t) / (N (N-1))) of ties t.
    """
    negatives = total - positives
    above = sums - positives * (positives + 1) / 2
    variance = np.outer(spread, positives * negatives) / max(1, total * (total - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = above / (positives * negatives)
        z = (above - positives * negatives / 2) / np.sqrt(variance)
    # A constant unit has no spread: its sums are what is expected, and rounding must not matter.
    return auroc, np.where(variance > 0, z, 0.0)


def upper_tail(z: np.ndarray) -> np.ndarray:
    """Returns how often a standard normal is at least z."""
    from scipy import special

    return special.ndtr(-z)


def exact_tails(
    ranks: Float[np.ndarray, "stimuli units"],
    sums: Pairs,
    positives: Int[np.ndarray, " concepts"],
) -> Pairs:
    """Returns how often positives drawn without replacement have rank sums as large.

    Ties are part of the null. The number of ways to reach each sum is the elementary symmetric
    polynomial of z^(2 rank), which Newton's identities give from power sums, and these are one
    Fourier transform of the histogram of ranks. Counts below 2^40 are exact; among more choices,
    tails below 1e-12 are given as 1e-12.

    Source: the permutation null of the rank sum, Lehmann 1975, "Nonparametrics", section 1.4;
    Newton's identities, Macdonald 1995, "Symmetric Functions and Hall Polynomials", section I.2.
    """
    total = len(ranks)
    out = np.empty(sums.shape)
    doubled = np.rint(2 * ranks).astype(np.int64)
    reached = np.rint(2 * sums).astype(np.int64)
    few_negatives = total - positives < positives
    for flipped in np.unique(few_negatives):
        concepts = np.flatnonzero(few_negatives == flipped)
        chosen, values, sought = positives[concepts], doubled, reached[:, concepts]
        if flipped:  # the negatives' reflected ranks are high where the positives' are
            chosen = total - chosen
            values = 2 * (total + 1) - doubled
            sought = sought + 2 * (total + 1) * chosen - total * (total + 1)
        least = values.min(axis=0)
        sought = sought - np.outer(least, chosen)
        known: dict[bytes, dict[int, np.ndarray]] = {}
        for unit in range(len(sums)):
            histogram = np.bincount(values[:, unit] - least[unit])
            pattern = histogram.tobytes()
            if pattern not in known:
                if len(known) >= _REMEMBERED:
                    known.clear()
                known[pattern] = _tails_of_sums(histogram, set(chosen.tolist()))
            tails = known[pattern]
            out[unit, concepts] = [
                tails[size][place]
                for size, place in zip(chosen.tolist(), sought[unit].tolist(), strict=True)
            ]
    return out


def _tails_of_sums(histogram: np.ndarray, sizes: set[int]) -> dict[int, np.ndarray]:
    """Returns how often so many drawn values reach each sum or a larger one, by their number."""
    from scipy import fft

    most = max(sizes)
    length: int = fft.next_fast_len((len(histogram) - 1) * most + 1, real=True)  # pyright: ignore[reportAssignmentType]
    frequencies = np.arange(length // 2 + 1)
    spectrum = fft.fft(histogram.astype(np.float64), length)
    powers = [spectrum[j * frequencies % length] for j in range(1, most + 1)]
    symmetric = [np.ones(len(frequencies), np.complex128)]
    for order in range(1, most + 1):
        terms = [
            (-1) ** (j - 1) * symmetric[order - j] * powers[j - 1] for j in range(1, order + 1)
        ]
        symmetric.append(np.sum(terms, axis=0) / order)
    out = {}
    for size in sizes:
        ways = np.asarray(fft.irfft(symmetric[size], length))
        choices = math.comb(int(histogram.sum()), size)
        if choices < _COUNTABLE:
            ways = np.rint(ways)
        tails = np.cumsum(ways[::-1])[::-1] / choices
        smallest = _SMALLEST_TAIL if choices >= _COUNTABLE else 1 / choices
        out[size] = np.clip(tails, smallest, 1.0)
    return out
