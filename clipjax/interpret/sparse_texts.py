"""A direction as a sum of a few texts, by orthogonal matching pursuit.

Source: Pati et al. 1993, "Orthogonal Matching Pursuit"; Gandelsman et al. 2024, "Interpreting the
Second-Order Effects of Neurons in CLIP", section 5.1, https://arxiv.org/abs/2406.04341 (texts).
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from clipjax.config import UserError

_CHUNK_ENTRIES = 2**23
_NOTHING_LEFT = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseTexts:
    """The sum of each direction.

    Attributes:
        texts: numbers of the texts, the first found first; -1 where nothing was left to explain.
        weights: of the texts in the sum, 0 where there is none; may be negative.
        explained: share of the squared length of the direction that the sum has.
    """

    texts: Int[np.ndarray, "directions count"]
    weights: Float[np.ndarray, "directions count"]
    explained: Float[np.ndarray, " directions"]


def sparse_texts(
    directions: Float[np.ndarray, "directions embed"],
    texts: Float[np.ndarray, "texts embed"],
    *,
    count: int,
) -> SparseTexts:
    """Returns sums of at most `count` texts that come near to directions.

    The text that agrees most with what is left of a direction is added, of either sign; then the
    weights of all texts so far are those of least squares.

    Args:
        directions: of any length.
        texts: embeddings, of unit length.
        count: of texts in a sum; at most as many as `embed`.

    Raises:
        UserError: if there are fewer texts.
    """
    if min(texts.shape) < count:
        raise UserError(
            f"sums of {count} texts: there are {len(texts)} of {texts.shape[1]} numbers. Ask for "
            "fewer."
        )
    rows = max(1, _CHUNK_ENTRIES // len(texts))
    parts = [
        _pursued(directions[first : first + rows].astype(np.float64), texts, count)
        for first in range(0, len(directions), rows)
    ]
    chosen, weights, explained = (
        np.concatenate([np.empty((0, *part[0].shape[1:]), part[0].dtype), *part])
        for part in (zip(*parts, strict=True) if parts else _none(count))
    )
    return SparseTexts(texts=chosen, weights=weights, explained=explained)


def _none(count: int) -> tuple[tuple[np.ndarray], ...]:
    return (np.empty((0, count), np.int64),), (np.empty((0, count)),), (np.empty(0),)


def _pursued(
    directions: np.ndarray, texts: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chosen = np.full((len(directions), count), -1)
    weights = np.zeros((len(directions), count))
    squares = (directions**2).sum(axis=1)
    left, rows = directions, np.arange(len(directions))
    for step in range(count):
        rows = rows[(left[rows] ** 2).sum(axis=1) > _NOTHING_LEFT * squares[rows]]
        if not len(rows):
            break
        agreement = abs(left[rows] @ texts.T)
        np.put_along_axis(agreement, chosen[rows, :step], -1, axis=1)  # once is enough
        chosen[rows, step] = agreement.argmax(axis=1)
        found = texts[chosen[rows, : step + 1]].astype(np.float64)
        gram = found @ np.swapaxes(found, 1, 2)
        products = np.einsum("nkd,nd->nk", found, directions[rows])
        solved = np.einsum("nkl,nl->nk", np.linalg.pinv(gram, hermitian=True), products)
        weights[rows, : step + 1] = solved
        left = left.copy()
        left[rows] = directions[rows] - np.einsum("nk,nkd->nd", solved, found)
    kept = 1 - (left**2).sum(axis=1) / np.where(squares > 0, squares, 1)
    return chosen, weights, np.where(squares > 0, kept, 0.0)
