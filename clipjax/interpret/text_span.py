"""Which texts span what a part of a model writes into the embedding: TextSpan, from moments alone.

Source: Gandelsman et al. 2024, "Interpreting CLIP's Image Representation via Text-Based
Decomposition", section 4.1 and algorithm 1, https://arxiv.org/abs/2310.05916.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from clipjax.config import UserError

Texts = Float[np.ndarray, "texts embed"]
Square = Float[np.ndarray, "embed embed"]

_NOTHING_LEFT = 1e-10  # of the length of a text, or of the variance


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSpan:
    """Texts in the order in which they were found.

    Attributes:
        texts: numbers of the texts; fewer than asked for where nothing is left to explain.
        explained: share of the variance that the texts up to each one span, from 0 to 1.
    """

    texts: Int[np.ndarray, " picks"]
    explained: Float[np.ndarray, " picks"]


def text_span(
    mean: Float[np.ndarray, " embed"],
    covariance: Square,
    texts: Texts,
    *,
    picks: int,
    rank: int = 80,
) -> TextSpan:
    """Returns the texts whose directions have, one after the other, the most variance.

    Texts are projected onto the `rank` leading directions of the outputs. Of the projections of the
    outputs on a text the variance counts; the text that has most is taken, and its direction is
    removed from outputs and texts. Texts are not scaled again: one that is mostly outside counts
    less, as in the algorithm.

    Deviation: outputs are not looked at, only their mean and covariance. That is enough, since the
    variance on a direction t is t' C t and removing a direction is a projection of C. The work is
    one decomposition of [embed, embed] and [texts, rank] numbers a pick, for any number of images.

    Args:
        mean: of the outputs.
        covariance: of the outputs.
        texts: embeddings, of unit length.
        picks: how many texts at most.
        rank: of the leading directions, about 0 and not about the mean.

    Raises:
        UserError: if the outputs do not vary, or there are fewer texts than picks.
    """
    if len(texts) < picks:
        raise UserError(f"{picks} texts of {len(texts)} were asked for: give more, or ask fewer.")
    total = float(np.trace(covariance))
    if not total > 0:
        raise UserError("what is to be explained does not vary: it is the same for all images.")
    basis = _leading(covariance + np.outer(mean, mean), rank)
    left = texts @ basis  # in the basis, so that all that follows is small
    spread = basis.T @ covariance @ basis
    lengths = np.linalg.norm(left, axis=1)
    chosen, shares, explained = [], [], 0.0
    for _ in range(picks):
        scores = np.einsum("tr,tr->t", left @ spread, left)
        best = int(scores.argmax())
        length = float(np.linalg.norm(left[best]))
        if scores[best] <= _NOTHING_LEFT * total or length <= _NOTHING_LEFT * lengths[best]:
            break
        direction = left[best] / length
        along = spread @ direction
        variance = float(direction @ along)
        explained += variance / total
        chosen.append(best)
        shares.append(explained)
        left = left - np.outer(left @ direction, direction)
        crossed = np.outer(direction, along)
        spread = spread - crossed - crossed.T + variance * np.outer(direction, direction)
    return TextSpan(texts=np.array(chosen, np.int64), explained=np.array(shares))


def _leading(second: Square, rank: int) -> Float[np.ndarray, "embed rank"]:
    """Returns the directions with the largest mean squares; without those that have none."""
    values, vectors = np.linalg.eigh(second)
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return vectors[:, kept][:, -rank:]
