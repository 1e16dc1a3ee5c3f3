"""Other coordinates for the weights of a linear probe, in which L-BFGS needs fewer steps.

Features of a trained model share a large mean and vary little in most directions, so that the
curvature of the log loss differs by orders of magnitude between directions. Here features are
centred, which the free intercept makes up for, and the curvature of the objective at equal
probabilities is about one in every direction. The minimum stays where it is.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

_BLOCK_ROWS = 1 << 14

Weights = Float[np.ndarray, "rows dim_and_intercept"]


@runtime_checkable
class Frame(Protocol):
    """A linear map between weights and the numbers that L-BFGS sees."""

    def weights(self, inner: Weights) -> Weights:
        """Returns the weights at `inner`."""
        ...

    def inner(self, weights: Weights) -> Weights:
        """Returns what `weights` maps to these weights."""
        ...

    def gradient(self, gradient: Weights) -> Weights:
        """Returns the gradient by `inner`, from that by the weights."""
        ...


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """Where features lie.

    Attributes:
        mean: of the features.
        directions: principal axes of the centred features, one a column.
        spread: sum of squares along each of them.
        images: behind them.
    """

    mean: Float[np.ndarray, " dim"]
    directions: Float[np.ndarray, "dim dim"]
    spread: Float[np.ndarray, " dim"]
    images: int

    @classmethod
    def of(cls, features: Float[np.ndarray, "images dim"]) -> "Coordinates":
        """Returns those of some features."""
        mean = features.mean(axis=0, dtype=np.float64)
        moments = np.zeros((len(mean), len(mean)))
        for first in range(0, len(features), _BLOCK_ROWS):
            rows = features[first : first + _BLOCK_ROWS] - mean
            moments += rows.T @ rows
        spread, directions = np.linalg.eigh(moments)
        return cls(mean, directions, np.maximum(spread, 0), len(features))

    def scaled(self, c: float, num_classes: int) -> Frame:
        """Returns the map for one C.

        The second derivative of the log loss by a logit is p (1 - p), here with p = 1 / classes.
        """
        curvature = c * (num_classes - 1) / num_classes**2
        scales = np.sqrt(np.append(1 + curvature * self.spread, curvature * self.images))
        return _Scaled(self.mean, self.directions, scales)


@dataclasses.dataclass(frozen=True)
class _Scaled:
    mean: np.ndarray
    directions: np.ndarray
    scales: np.ndarray

    def weights(self, inner: Weights) -> Weights:
        inner = inner / self.scales
        slopes = inner[:, :-1] @ self.directions.T
        return np.column_stack([slopes, inner[:, -1] - slopes @ self.mean])

    def inner(self, weights: Weights) -> Weights:
        slopes, intercepts = weights[:, :-1], weights[:, -1]
        centred = [slopes @ self.directions, intercepts + slopes @ self.mean]
        return np.column_stack(centred) * self.scales

    def gradient(self, gradient: Weights) -> Weights:
        slopes, intercepts = gradient[:, :-1], gradient[:, -1]
        centred = slopes - intercepts[:, None] * self.mean
        return np.column_stack([centred @ self.directions, intercepts]) / self.scales


class _Plain:
    def weights(self, inner: Weights) -> Weights:
        return inner

    def inner(self, weights: Weights) -> Weights:
        return weights

    def gradient(self, gradient: Weights) -> Weights:
        return gradient


PLAIN: Frame = _Plain()
