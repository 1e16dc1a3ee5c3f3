"""Which unit of one network answers to the same stimuli as which unit of another.

Source: Dravid et al. 2023, "Rosetta Neurons: Mining the Common Units in a Model Zoo", section 3,
https://arxiv.org/abs/2306.09346.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from clipjax.config import UserError
from clipjax.core.paired_comparison import benjamini_hochberg

First = Float[np.ndarray, "stimuli first"]
Second = Float[np.ndarray, "stimuli second"]
Correlations = Float[np.ndarray, "first second"]


class PairSums:
    """Sums over batches that give the correlation of every unit of A with every unit of B.

    Deviation: Rosetta neurons average correlations of batches; these are of all stimuli together,
    whatever the batches.

    >>> sums = PairSums()
    >>> sums.update(np.array([[0.0], [1.0]]), np.array([[5.0], [3.0]]))
    >>> sums.update(np.array([[2.0]]), np.array([[1.0]]))
    >>> sums.correlations().round(6).tolist()
    [[-1.0]]
    """

    def __init__(self) -> None:
        self.stimuli = 0
        self._sides: list[_Side] = []
        self._products: np.ndarray

    def update(self, first: First, second: Second) -> None:
        """Adds a batch; row i of both is the same stimulus.

        Raises:
            UserError: if an activation is not finite.
        """
        if not len(first):
            return
        if not self.stimuli:
            self._sides = [_Side(first), _Side(second)]
            self._products = np.zeros((first.shape[1], second.shape[1]))
        a, b = (side.add(rows) for side, rows in zip(self._sides, (first, second), strict=True))
        self._products += a.T @ b
        self.stimuli += len(first)

    def merge(self, other: "PairSums") -> None:
        """Adds all batches that `other` has seen."""
        if not other.stimuli:
            return
        if not self.stimuli:
            self.__dict__.update(other.__dict__)
            return
        a, b = self._sides
        other_a, other_b = other._sides
        moved_a, moved_b = other_a.shift - a.shift, other_b.shift - b.shift
        self._products = (
            self._products
            + other._products
            + np.outer(moved_a, other_b.total)
            + np.outer(other_a.total, moved_b)
            + other.stimuli * np.outer(moved_a, moved_b)
        )
        a.join(other_a, other.stimuli)
        b.join(other_b, other.stimuli)
        self.stimuli += other.stimuli

    def correlations(self) -> Correlations:
        """Returns Pearson's correlations, in [-1, 1]; NaN for a unit that does not vary.

        Raises:
            ValueError: if fewer than two stimuli were seen.
        """
        if self.stimuli < 2:
            raise ValueError(f"{self.stimuli} stimuli were seen; a correlation needs two")
        a, b = self._sides
        covariance = self._products - np.outer(a.total, b.total) / self.stimuli
        spread = np.outer(a.spread(self.stimuli), b.spread(self.stimuli))
        return np.clip(covariance / spread, -1, 1)


class _Side:
    """Sums of the units of one network, less the mean of the first batch."""

    def __init__(self, rows: np.ndarray):
        self.shift = rows.mean(axis=0, dtype=np.float64)
        self.total = np.zeros(rows.shape[1])
        self.squares = np.zeros(rows.shape[1])

    def add(self, rows: np.ndarray) -> np.ndarray:
        wrong = np.argwhere(~np.isfinite(rows))
        if len(wrong):
            row, unit = wrong[0].tolist()
            raise UserError(
                f"unit {unit}: its activation in row {row} of a batch is {rows[row, unit]}; "
                "expected a finite number."
            )
        shifted = rows.astype(np.float64) - self.shift
        self.total += shifted.sum(axis=0)
        self.squares += (shifted**2).sum(axis=0)
        return shifted

    def join(self, other: "_Side", rows: int) -> None:
        moved = other.shift - self.shift
        self.squares = self.squares + other.squares + 2 * moved * other.total + rows * moved**2
        self.total = self.total + other.total + rows * moved

    def spread(self, rows: int) -> np.ndarray:
        """Root of the sum of squared deviations; NaN where it is rounding of the activations."""
        squares = self.squares - self.total**2 / rows
        least = rows * (np.finfo(np.float64).eps * 8 * self.shift) ** 2
        return np.sqrt(np.where(squares > least, squares, np.nan))


def mutual_pairs(correlations: Correlations, *, neighbours: int = 1) -> Int[np.ndarray, "pairs 2"]:
    """Returns pairs of which each unit is among the nearest of the other.

    Args:
        correlations: NaN counts as the least.
        neighbours: how many are the nearest; of equal ones the smaller number.

    Returns:
        Units of A and of B, ordered by the unit of A and then by that of B.
    """
    known = np.where(np.isnan(correlations), -np.inf, correlations)
    both = nearest(known, neighbours) & nearest(known.T, neighbours).T & np.isfinite(known)
    return np.argwhere(both)


def nearest(rows: Correlations, count: int) -> Bool[np.ndarray, "first second"]:
    """Returns whether each entry is among the `count` largest of its row; ties go to the left."""
    order = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    found = np.zeros(rows.shape, bool)
    np.put_along_axis(found, order, True, axis=1)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matches:
    """Pairs of units that match, and what chance makes of the same activations.

    Attributes:
        pairs: units of A and of B.
        correlation: of each pair.
        p_value: of each; how often the best partner of its unit of A is as good after the stimuli
            of B were shuffled, of all units of A together.
        q_value: adjusted for all units of A (Benjamini and Hochberg).
        null_pairs: mutual pairs above `floor` in each shuffle.
        floor: correlation that a pair must reach to be counted.
        stimuli: that both have seen.
    """

    pairs: Int[np.ndarray, "pairs 2"]
    correlation: Float[np.ndarray, " pairs"]
    p_value: Float[np.ndarray, " pairs"]
    q_value: Float[np.ndarray, " pairs"]
    null_pairs: Int[np.ndarray, " shuffles"]
    floor: float
    stimuli: int

    @property
    def enrichment(self) -> float:
        """Pairs above the floor over their mean number in a shuffle; infinite where that is 0."""
        found, chance = float((self.correlation >= self.floor).sum()), self.null_pairs.mean()
        return found / chance if chance else float("inf" if found else "nan")


def match_units(
    first: First,
    second: Second,
    *,
    neighbours: int = 1,
    shuffles: int = 99,
    floor: float = 0.5,
    seed: int = 0,
) -> Matches:
    """Returns pairs of units that answer alike, against shuffled pairs of stimuli.

    A shuffle keeps all that is between units of one network, and breaks which stimulus of B is
    which stimulus of A.

    Args:
        first: activations of A, one row a stimulus.
        second: of B, of the same stimuli in the same order.
        neighbours: see `mutual_pairs`.
        shuffles: how often stimuli are shuffled.
        floor: correlation that a pair must reach to be counted.
        seed: of the shuffles.

    Raises:
        UserError: if an activation is not finite.
        ValueError: if there are fewer than two stimuli.
    """
    correlations = _correlations(first, second)
    pairs = mutual_pairs(correlations, neighbours=neighbours)
    rng = np.random.default_rng(seed)
    best, counts = [], []
    for _ in range(shuffles):
        shuffled = _correlations(first, second[rng.permutation(len(second))])
        best.append(_best(shuffled))
        chance = mutual_pairs(shuffled, neighbours=neighbours)
        counts.append(int((shuffled[tuple(chance.T)] >= floor).sum()))
    null = np.sort(np.concatenate(best)) if best else np.empty(0)
    # Over units as well: a shuffle alone could give no p value below 1 / shuffles.
    of_units = _p_values(_best(correlations), null)
    of_pairs = correlations[tuple(pairs.T)]
    q_values = benjamini_hochberg(of_units) if len(of_units) else of_units
    return Matches(
        pairs=pairs,
        correlation=of_pairs,
        p_value=_p_values(of_pairs, null),
        # A pair that is not the best of its unit is no surer than the best.
        q_value=q_values[pairs[:, 0]],
        null_pairs=np.array(counts, np.int64),
        floor=floor,
        stimuli=len(first),
    )


def _correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    sums = PairSums()
    sums.update(first, second)
    return sums.correlations()


def _best(correlations: np.ndarray) -> Float[np.ndarray, " first"]:
    """Returns the largest correlation of each unit of A; -1 for one that does not vary."""
    return np.where(np.isnan(correlations), -1, correlations).max(axis=1, initial=-1)


def _p_values(found: np.ndarray, null: np.ndarray) -> np.ndarray:
    beyond = len(null) - np.searchsorted(null, found - 1e-12, side="left")
    return (1 + beyond) / (1 + len(null))
