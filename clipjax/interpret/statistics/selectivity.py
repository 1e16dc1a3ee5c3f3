"""Measures that neuroscience uses for single cells and for whole populations."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from clipjax.core.statistics import Seed
from clipjax.interpret.statistics.ranks import midranks

Responses = Float[np.ndarray, "stimuli units"]
Dissimilarity = Float[np.ndarray, "stimuli stimuli"]
Metric = Literal["correlation", "cosine", "euclidean"]
Comparison = Literal["spearman", "pearson"]


def selectivity_index(responses: Responses) -> Float[np.ndarray, " units"]:
    """Returns 1 - 2 A, A the area under the share of stimuli above a threshold from least to most.

    Near 1 a unit answers to few stimuli; it is 0 where responses are evenly spread, and negative
    where most are high. A constant unit has NaN. The area over all thresholds is the mean of the
    responses scaled to 0 and 1, so that no grid of thresholds is needed.

    Deviation: the paper sums over 1,000 thresholds.

    Source: Quian Quiroga, Reddy, Koch and Fried 2007, "Decoding visual inputs from multiple neurons
    in the human temporal lobe", Journal of Neurophysiology 98, methods.

    >>> selectivity_index(np.array([[0.0, 0], [0, 1], [0, 2], [5, 3]])).tolist()
    [0.5, 0.0]
    """
    low, high = responses.min(axis=0), responses.max(axis=0)
    span = np.where(high > low, high - low, np.nan).astype(np.float64)
    return 1 - 2 * ((responses - low) / span).mean(axis=0)


def lifetime_sparseness(responses: Responses) -> Float[np.ndarray, " units"]:
    """Returns (1 - mean(r)^2 / mean(r^2)) / (1 - 1/n): 1 if one stimulus is answered, 0 if all are.

    NaN for a unit that never responds; responses must not be negative.

    Raises:
        ValueError: if a response is negative.

    Source: Vinje and Gallant 2000, "Sparse Coding and Decorrelation in Primary Visual Cortex During
    Natural Vision", Science 287.

    >>> lifetime_sparseness(np.array([[0.0, 1], [0, 1], [3, 1]])).tolist()
    [1.0, 0.0]
    """
    if (responses < 0).any():
        raise ValueError("a response is negative; sparseness needs rates, such as those of a ReLU")
    squares = (responses.astype(np.float64) ** 2).mean(axis=0)
    share = responses.mean(axis=0, dtype=np.float64) ** 2 / np.where(squares > 0, squares, np.nan)
    return (1 - share) / (1 - 1 / len(responses))


def response_invariance(
    views: Float[np.ndarray, "views units"],
    background: Float[np.ndarray, "stimuli units"],
    *,
    deviations: float = 5.0,
) -> Float[np.ndarray, " units"]:
    """Returns the share of a concept's views that each unit answers to: 1 is full invariance.

    A unit answers if it is above the mean of its background by more than so many standard
    deviations.

    Args:
        views: of one concept: its photos, drawings, words and so on, one row each.
        background: stimuli that do not show the concept.
        deviations: the paper's criterion is five.

    Source: Quian Quiroga, Reddy, Kreiman, Koch and Fried 2005, "Invariant visual representation by
    single neurons in the human brain", Nature 435, methods (criterion of a response).

    >>> background = np.array([[-1.0], [1.0], [-1.0], [1.0]])
    >>> response_invariance(np.array([[9.0], [6.0], [4.0], [5.5]]), background).tolist()
    [0.75]
    """
    threshold = background.mean(axis=0) + deviations * background.std(axis=0)
    return (views > threshold).mean(axis=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Similarity:
    """How alike two representations arrange the same stimuli.

    Attributes:
        correlation: of their dissimilarities, over pairs of stimuli.
        p_value: one-sided; how often stimuli renamed at random agree as well; 1 where the
            correlation is NaN, since all stimuli are equally far apart in one of them.
    """

    correlation: float
    p_value: float


def dissimilarity(responses: Responses, *, metric: Metric = "correlation") -> Dissimilarity:
    """Returns how unlike the responses to each two stimuli are.

    Args:
        responses: of a population of units.
        metric: 1 - Pearson correlation over units, 1 - cosine, or the distance.

    Raises:
        ValueError: if a stimulus has no direction: all its responses are equal, or 0.
    """
    rows = responses.astype(np.float64)
    rounding = 1e-12 * np.linalg.norm(rows, axis=1, keepdims=True)
    if metric == "euclidean":
        squares = (rows**2).sum(axis=1)
        squared = np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)
        np.fill_diagonal(squared, 0)
        return np.sqrt(squared)
    if metric == "correlation":
        rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    silent = np.flatnonzero(lengths <= rounding)
    if len(silent):
        raise ValueError(f"stimulus {silent[0]} has no direction: its responses are all alike")
    out = 1 - (rows / lengths) @ (rows / lengths).T
    np.fill_diagonal(out, 0)
    return out


def compare_dissimilarities(
    first: Dissimilarity,
    second: Float[np.ndarray, "_ _"],
    *,
    method: Comparison = "spearman",
    permutations: int = 999,
    seed: Seed = 0,
) -> Similarity:
    """Returns how the dissimilarities of pairs of stimuli correlate (RSA), with Mantel's test.

    Pairs share stimuli, so that a correlation's textbook p does not hold: the stimuli of one matrix
    are renamed at random, rows and columns together, and what was seen counts as one of the draws.

    Args:
        first: symmetric; only what is above the diagonal is looked at.
        second: of the same stimuli in the same order, such as human judgements.
        method: "spearman" where only the order of dissimilarities has a meaning.
        permutations: draws of names; 0 leaves the p value 1.
        seed: of the draws.

    Raises:
        ValueError: if the shapes differ, there are fewer than three stimuli, or a matrix is not
            symmetric and finite.

    Source: Kriegeskorte, Mur and Bandettini 2008, "Representational similarity analysis -
    connecting the branches of systems neuroscience", Frontiers in Systems Neuroscience 2; Mantel
    1967, "The detection of disease clustering and a generalized regression approach", Cancer
    Research 27.
    """
    total = len(first)
    if first.shape != second.shape or total < 3:
        raise ValueError(
            f"matrices of {total} and {len(second)} stimuli; expected the same three or more"
        )
    for place, matrix in (("first", first), ("second", second)):
        if not np.allclose(matrix, matrix.T):  # NaN differs from itself
            raise ValueError(f"the {place} matrix is not symmetric, or holds NaN")
    pairs = np.triu_indices(total, 1)
    left, right = (_unit(matrix[pairs], method) for matrix in (first, second))
    correlation = float(left @ right)
    if np.isnan(correlation):  # no draw would reach it
        return Similarity(correlation=correlation, p_value=1.0)
    square = np.zeros((total, total))
    square[pairs] = right
    square += square.T
    rng = np.random.default_rng(seed)
    reached = 0
    for _ in range(permutations):
        names: Int[np.ndarray, " stimuli"] = rng.permutation(total)
        # Sums in another order differ by rounding: what equals the data counts as reaching it.
        reached += float(left @ square[names[pairs[0]], names[pairs[1]]]) >= correlation - 1e-12
    return Similarity(correlation=correlation, p_value=(1 + reached) / (1 + permutations))


def _unit(values: np.ndarray, method: str) -> np.ndarray:
    """Values or their ranks about their mean, of length 1; NaN where all are equal."""
    values = midranks(values[:, None])[:, 0] if method == "spearman" else values.astype(np.float64)
    values = values - values.mean()
    length = np.linalg.norm(values)
    return values / (length if length > 0 else np.nan)
