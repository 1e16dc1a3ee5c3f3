"""Whether all that drives a unit means the same, inside a modality and across, in one pass."""

import dataclasses

import numpy as np
from jaxtyping import Float

from clipjax.config import UserError

Activations = Float[np.ndarray, "batch units"]
Embeds = Float[np.ndarray, "batch embed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Monosemantic:
    """How alike the stimuli are that drive each unit.

    Attributes:
        score: mean cosine of pairs of stimuli, weighted by the product of the unit's activations,
            each scaled to 0 at its least and 1 at its most; NaN for a constant unit.
        baseline: mean cosine of all pairs.
        ratio: score / baseline, 1 for a unit that does not care; compare it with that of rotated
            units. It means little where the baseline is near 0.
        stimuli: how many were seen.
    """

    score: Float[np.ndarray, " units"]
    baseline: float
    ratio: Float[np.ndarray, " units"]
    stimuli: int


class _Sums:
    """Sums of one facet from which scaled activations can be had after the pass.

    Activations are summed less the mean of the first batch: the scaling takes the least activation
    off later, and would lose digits if it were large beside the range.
    """

    def __init__(self) -> None:
        self.stimuli = 0

    def update(self, activations: np.ndarray, embeds: np.ndarray) -> None:
        if not self.stimuli:
            self.shift = activations.mean(axis=0)
            self.low = np.full(activations.shape[1], np.inf)
            self.high = -self.low
            self.total = np.zeros(activations.shape[1])
            self.squares = np.zeros(activations.shape[1])
            self.by_embed = np.zeros((activations.shape[1], embeds.shape[1]))
            self.embeds = np.zeros(embeds.shape[1])
        shifted = activations - self.shift
        self.stimuli += len(shifted)
        self.low = np.minimum(self.low, shifted.min(axis=0))
        self.high = np.maximum(self.high, shifted.max(axis=0))
        self.total += shifted.sum(axis=0)
        self.squares += (shifted**2).sum(axis=0)
        self.by_embed += shifted.T @ embeds
        self.embeds += embeds.sum(axis=0)

    def add(self, other: "_Sums") -> None:
        if not other.stimuli:
            return
        if not self.stimuli:
            self.__dict__.update(other.__dict__)
            return
        moved = other.shift - self.shift
        self.squares = (
            self.squares + other.squares + 2 * moved * other.total + other.stimuli * moved**2
        )
        self.total = self.total + other.total + other.stimuli * moved
        self.by_embed = self.by_embed + other.by_embed + np.outer(moved, other.embeds)
        self.embeds = self.embeds + other.embeds
        self.low = np.minimum(self.low, other.low + moved)
        self.high = np.maximum(self.high, other.high + moved)
        self.stimuli += other.stimuli

    @property
    def span(self) -> np.ndarray:
        """Range of each unit, NaN where there is none."""
        return np.where(self.high > self.low, self.high - self.low, np.nan)

    def scaled_total(self) -> np.ndarray:
        return (self.total - self.stimuli * self.low) / self.span

    def scaled_squares(self) -> np.ndarray:
        squares = self.squares - 2 * self.low * self.total + self.stimuli * self.low**2
        return squares / self.span**2

    def scaled_by_embed(self) -> np.ndarray:
        return (self.by_embed - np.outer(self.low, self.embeds)) / self.span[:, None]


class Monosemanticity:
    """Sums over batches that give the monosemanticity of all units, whatever their order.

    The definition is a sum over all pairs of stimuli; with unit-length embeddings it is a squared
    length less its diagonal, and the scaling of activations can be done after the pass.

    Deviation: MonoLoss, which has the linear form too, passes twice, first for the extremes.

    Source: Pach et al. 2025, "Sparse Autoencoders Learn Monosemantic Features in Vision-Language
    Models", section 3.2, https://arxiv.org/abs/2504.02821; MonoLoss 2026 (linear form),
    https://arxiv.org/abs/2602.12403.

    >>> sums = Monosemanticity()
    >>> sums.update(np.array([[0.0], [1.0], [1.0]]), np.array([[0.0, 1], [1, 0], [1, 0]]))
    >>> sums.result().score.tolist()
    [1.0]
    """

    def __init__(self) -> None:
        self._sums = _Sums()

    def update(self, activations: Activations, embeds: Embeds) -> None:
        """Adds a batch.

        Args:
            activations: of the units.
            embeds: what each stimulus means, by another model than that of the units, or by its
                concepts; any length but 0.

        Raises:
            UserError: if an activation is not finite, or an embedding is not or has length 0.
        """
        if len(activations):
            self._sums.update(*_checked(activations, embeds))

    def merge(self, other: "Monosemanticity") -> None:
        """Adds all batches that `other` has seen."""
        self._sums.add(other._sums)

    def result(self) -> Monosemantic:
        """Returns the scores.

        Raises:
            ValueError: if fewer than two stimuli were seen.
        """
        sums = self._sums
        if sums.stimuli < 2:
            raise ValueError(f"{sums.stimuli} stimuli were seen; a pair needs two")
        squares = sums.scaled_squares()
        above = (sums.scaled_by_embed() ** 2).sum(axis=1) - squares
        score = _ratio(above, sums.scaled_total() ** 2 - squares)
        baseline = (sums.embeds @ sums.embeds - sums.stimuli) / (sums.stimuli * (sums.stimuli - 1))
        return _scores(score, float(baseline), sums.stimuli)


class CrossModalMonosemanticity:
    """Sums that tell whether the images and the texts that drive a unit mean the same.

    As `Monosemanticity`, over pairs of one stimulus of each facet, without those pairs that show
    the same thing. Unlike counts of finds, it tells a basis from its rotation.

    Deviation: no publication has it; it is the two-facet form of Pach et al. 2025, section 3.2,
    https://arxiv.org/abs/2504.02821.
    """

    def __init__(self) -> None:
        self._first, self._second = _Sums(), _Sums()
        # Of rows that show the same thing: sums of w a b, w a, w b, w with w = 1 and w = cosine.
        self._same = np.zeros((2, 4, 1))

    def update_pairs(
        self,
        first_activations: Activations,
        first_embeds: Embeds,
        second_activations: Activations,
        second_embeds: Embeds,
    ) -> None:
        """Adds a batch of stimuli that both facets have, row by row the same thing.

        Raises:
            UserError: if an activation is not finite, or an embedding is not or has length 0.
        """
        if not len(first_activations):
            return
        a, e = _checked(first_activations, first_embeds)
        b, f = _checked(second_activations, second_embeds)
        self._first.update(a, e)
        self._second.update(b, f)
        a, b = a - self._first.shift, b - self._second.shift
        cosines = (e * f).sum(axis=1)
        weights = np.stack([np.ones(len(a)), cosines])
        self._same = self._same + np.stack(
            [weights @ (a * b), weights @ a, weights @ b, weights @ np.ones(a.shape)], axis=1
        )

    def update_first(self, activations: Activations, embeds: Embeds) -> None:
        """Adds a batch that only the first facet has.

        Raises:
            UserError: if an activation is not finite, or an embedding is not or has length 0.
        """
        if len(activations):
            self._first.update(*_checked(activations, embeds))

    def update_second(self, activations: Activations, embeds: Embeds) -> None:
        """Adds a batch that only the second facet has.

        Raises:
            UserError: if an activation is not finite, or an embedding is not or has length 0.
        """
        if len(activations):
            self._second.update(*_checked(activations, embeds))

    def result(self) -> Monosemantic:
        """Returns the scores; `stimuli` are those of the smaller facet.

        Raises:
            ValueError: if there is no pair of different things.
        """
        first, second = self._first, self._second
        paired, cosines = self._same[:, 3, 0].tolist()
        pairs = first.stimuli * second.stimuli - paired
        if pairs <= 0:
            raise ValueError(
                f"{first.stimuli} stimuli of the first facet and {second.stimuli} of the second "
                "make no pair of different things"
            )
        same, same_cosine = self._scaled_same()
        above = (first.scaled_by_embed() * second.scaled_by_embed()).sum(axis=1) - same_cosine
        score = _ratio(above, first.scaled_total() * second.scaled_total() - same)
        baseline = (first.embeds @ second.embeds - cosines) / pairs
        return _scores(score, float(baseline), min(first.stimuli, second.stimuli))

    def _scaled_same(self) -> np.ndarray:
        """Sums of w a' b' over rows that show the same thing, for both weights, [2, units]."""
        both, a, b, one = np.moveaxis(self._same, 1, 0)
        low_a, low_b = self._first.low, self._second.low
        scaled = both - low_b * a - low_a * b + low_a * low_b * one
        return scaled / (self._first.span * self._second.span)


def _checked(activations: np.ndarray, embeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both in float64, the embeddings of unit length."""
    wrong = np.argwhere(~np.isfinite(activations))
    if len(wrong):
        row, unit = wrong[0]
        raise UserError(
            f"unit {unit}: its activation in row {row} of the batch is {activations[row, unit]}; "
            "expected a finite number. Look at the model's outputs for it."
        )
    embeds = embeds.astype(np.float64)
    lengths = np.linalg.norm(embeds, axis=1, keepdims=True)
    wrong = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if len(wrong):
        raise UserError(
            f"embeddings: that of row {wrong[0]} of the batch has length "
            f"{lengths[wrong[0], 0]}; expected a direction, hence a length that is not 0."
        )
    return activations.astype(np.float64), embeds / lengths


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A unit that only one stimulus drives has no pair: NaN."""
    return above / np.where(below > 1e-9, below, np.nan)


def _scores(score: np.ndarray, baseline: float, stimuli: int) -> Monosemantic:
    return Monosemantic(
        score=score,
        baseline=baseline,
        ratio=score / (baseline if baseline else np.nan),
        stimuli=stimuli,
    )
