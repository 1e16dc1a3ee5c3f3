"""How alike two networks place the same stimuli, whatever their units: CKA, CKNNA, neighbours.

Source: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", section 3,
https://arxiv.org/abs/1905.00414 (CKA); Huh et al. 2024, "The Platonic Representation Hypothesis",
section 2 and appendix A, https://arxiv.org/abs/2405.07987 (mutual neighbours, CKNNA).
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

from clipjax.config import UserError
from clipjax.interpret.matching import nearest

Square = Float[np.ndarray, "stimuli stimuli"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment:
    """A measure of two networks and what chance makes of it.

    Attributes:
        value: 1 for the same placing.
        null_mean: over shuffles of the stimuli of the second network.
        p_value: how often a shuffle has as much; never 0.
    """

    value: float
    null_mean: float
    p_value: float


def alignments(
    first: Float[np.ndarray, "stimuli first"],
    second: Float[np.ndarray, "stimuli second"],
    *,
    neighbours: int = 10,
    shuffles: int = 199,
    seed: int = 0,
) -> Mapping[str, Alignment]:
    """Returns "cka", "cknna" and "mutual_neighbours" of activations of the same stimuli.

    Products of stimuli are of activations less their mean; neighbours are by these products, after
    the activations of each stimulus were brought to unit length.

    Args:
        first: one row a stimulus.
        second: likewise, in the same order.
        neighbours: of a stimulus.
        shuffles: how often stimuli of the second network are shuffled.
        seed: of the shuffles.

    Raises:
        UserError: if there are no more stimuli than neighbours and one, or a network gives the
            same to all of them.
    """
    if len(first) < neighbours + 2:
        raise UserError(
            f"{len(first)} stimuli are too few for {neighbours} neighbours of each: take more "
            "stimuli, or fewer neighbours."
        )
    a, b = _Placing(first, neighbours), _Placing(second, neighbours)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(first)) for _ in range(shuffles)]
    measures: dict[str, Callable[[_Placing, _Placing], float]] = {
        "cka": _cka,
        "cknna": _cknna,
        "mutual_neighbours": _mutual,
    }
    found = {name: measure(a, b) for name, measure in measures.items()}
    null = {name: np.empty(shuffles) for name in measures}
    for number, order in enumerate(orders):
        moved = b.reordered(order)
        for name, measure in measures.items():
            null[name][number] = measure(a, moved)
    return {
        name: Alignment(
            value=value,
            null_mean=float(null[name].mean()) if shuffles else float("nan"),
            p_value=(1 + int((null[name] >= value - 1e-12).sum())) / (1 + shuffles),
        )
        for name, value in found.items()
    }


class _Placing:
    """Products and neighbours of the stimuli of one network."""

    def __init__(self, activations: np.ndarray, neighbours: int):
        rows = activations.astype(np.float64)
        rows = rows - rows.mean(axis=0)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not lengths.any():
            raise UserError("a network gives the same to all stimuli: there is nothing to align.")
        self.neighbours = neighbours
        self.products: Square = rows @ rows.T
        unit = rows / np.where(lengths > 0, lengths, 1)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -np.inf)
        self.nearest = nearest(cosines, neighbours)
        cosines[np.diag_indices(len(cosines))] = 1
        self.similar: Square = cosines - cosines.mean(axis=1, keepdims=True)

    def reordered(self, order: Int[np.ndarray, " stimuli"]) -> "_Placing":
        """Returns the same with other stimuli in each place."""
        moved = object.__new__(_Placing)
        moved.neighbours = self.neighbours
        for name in ("products", "nearest", "similar"):
            setattr(moved, name, getattr(self, name)[np.ix_(order, order)])
        return moved


def _cka(a: _Placing, b: _Placing) -> float:
    lengths = np.linalg.norm(a.products) * np.linalg.norm(b.products)
    return float((a.products * b.products).sum() / lengths)


def _mutual(a: _Placing, b: _Placing) -> float:
    return float((a.nearest & b.nearest).sum() / (len(a.nearest) * a.neighbours))


def _cknna(a: _Placing, b: _Placing) -> float:
    """Products of centred similarities, of pairs that are neighbours in both networks."""
    both = (a.similar * b.similar)[a.nearest & b.nearest].sum()
    each = (a.similar**2)[a.nearest].sum() * (b.similar**2)[b.nearest].sum()
    return float(both / np.sqrt(each)) if each else 0.0
