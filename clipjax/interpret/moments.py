"""First and second moments of vectors, summed over batches: a state that no number of rows grows.

>>> moments = Moments()
>>> moments.update(np.array([[1.0, 0.0]]))
>>> moments.update(np.array([[3.0, 0.0], [5.0, 0.0]]))
>>> moments.mean.tolist(), moments.covariance[0, 0].round(6).tolist(), moments.rows
([3.0, 0.0], 2.666667, 3)
"""

import numpy as np
from jaxtyping import Float

from clipjax.config import UserError


class Moments:
    """Moments of one vector a row, or of several groups of them.

    Products of a batch are of the type of the batch and sums over batches float64. The mean of the
    first batch is taken off before, so that a large mean costs no digits of the covariance.

    Attributes:
        rows: that were seen.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._shift: np.ndarray
        self._total: np.ndarray
        self._products: np.ndarray

    def update(self, vectors: Float[np.ndarray, "rows *groups channels"]) -> None:
        """Adds a batch.

        Raises:
            UserError: if a number is not finite.
        """
        if not len(vectors):
            return
        if not np.isfinite(vectors).all():
            row = int(np.argwhere(~np.isfinite(vectors))[0][0])
            raise UserError(
                f"row {row} of a batch holds NaN or infinity; expected finite numbers. Check that "
                "the weights are whole and did not diverge."
            )
        if not self.rows:
            self._shift = vectors.mean(axis=0, dtype=np.float64)
            self._total = np.zeros(self._shift.shape)
            self._products = np.zeros((*self._shift.shape, vectors.shape[-1]))
        shifted = vectors - self._shift.astype(vectors.dtype)
        by_group = np.moveaxis(shifted, 0, -2)
        # Of a matrix and its own transpose, where one is a view of the other, NumPy computes half.
        self._products += np.swapaxes(by_group, -1, -2) @ by_group
        self._total += shifted.sum(axis=0, dtype=np.float64)
        self.rows += len(vectors)

    def merge(self, other: "Moments") -> None:
        """Adds all rows that `other` has seen."""
        if not other.rows:
            return
        if not self.rows:
            self.rows, self._shift = other.rows, other._shift
            self._total, self._products = other._total.copy(), other._products.copy()
            return
        moved = other._shift - self._shift
        self._products += other._products + _outer(moved, other._total)
        self._products += _outer(other._total, moved) + other.rows * _outer(moved, moved)
        self._total += other._total + other.rows * moved
        self.rows += other.rows

    @property
    def mean(self) -> Float[np.ndarray, "*groups channels"]:
        """Mean of the rows, float64."""
        return self._shift + self._total / self.rows

    @property
    def covariance(self) -> Float[np.ndarray, "*groups channels channels"]:
        """Mean product of deviations from the mean, float64."""
        off = self._total / self.rows
        return self._products / self.rows - _outer(off, off)

    @property
    def second(self) -> Float[np.ndarray, "*groups channels channels"]:
        """Mean product, float64."""
        return self.covariance + _outer(self.mean, self.mean)


def _outer(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first[..., :, None] * second[..., None, :]
