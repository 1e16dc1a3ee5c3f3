"""Classification by the nearest training images.

Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021, section
4.1, https://arxiv.org/abs/2104.14294, and Wu et al., "Unsupervised Feature Learning via
Non-Parametric Instance Discrimination", 2018, section 3.4, https://arxiv.org/abs/1805.01978.
"""

import numpy as np
from jaxtyping import Bool, Float, Int64

from clipjax.config.errors import UserError
from clipjax.evals.labelled_features import LabelledFeatures, check_same_dim

_BLOCK_SIMILARITIES = 1 << 24


def nearest_neighbours(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    k: int = 20,
    temperature: float | None = 0.07,
) -> Int64[np.ndarray, " images"]:
    """Returns the class for which the k nearest training images vote; -1 for what did not decode.

    Of training images that are equally near, the first are taken; of classes with equal votes, the
    least. Similarities are float32 cosines, so that a tie is one of equal features.

    Args:
        train: the images that vote.
        test: the images to name.
        k: how many vote.
        temperature: a vote has the weight exp(cosine / temperature); None for votes of one.

    Raises:
        UserError: if less than k training images decode, or the features do not fit together.
    """
    check_same_dim(train, test)
    voters = train.take(train.usable)
    if not 1 <= k <= len(voters):
        raise UserError(
            f"{train.where}: {len(voters):,} images decode, and k={k} are to vote. Choose a k from "
            f"1 to {len(voters):,}."
        )
    classes, labels = np.unique(voters.labels, return_inverse=True)
    towards = unit_rows(voters.features).T
    out = np.full(len(test), -1)
    usable = np.flatnonzero(test.usable)
    block = max(1, _BLOCK_SIMILARITIES // len(voters))
    for first in range(0, len(usable), block):
        rows = usable[first : first + block]
        cosines = unit_rows(test.features[rows]) @ towards
        image, voter = np.nonzero(nearest(cosines, k))
        weights = np.ones(len(image))
        if temperature is not None:
            near = cosines[image, voter].astype(np.float64).reshape(-1, k)
            weights = np.exp((near - near.max(axis=1, keepdims=True)) / temperature).ravel()
        place = image * len(classes) + labels[voter]
        votes = np.bincount(place, weights, minlength=len(rows) * len(classes))
        out[rows] = classes[votes.reshape(len(rows), -1).argmax(axis=1)]
    return out


def nearest(
    similarity: Float[np.ndarray, "queries items"], k: int
) -> Bool[np.ndarray, "queries items"]:
    """Returns which items are the k most similar of each query; of equal ones the first.

    >>> nearest(np.array([[1.0, 3.0, 2.0, 2.0]]), 2).tolist()
    [[False, True, True, False]]
    """
    least = np.partition(similarity, -k, axis=1)[:, -k, None]
    chosen = similarity >= least
    for row in np.flatnonzero(chosen.sum(axis=1) > k):
        equal = np.flatnonzero(similarity[row] == least[row])
        chosen[row, equal[k - chosen[row].sum() :]] = False
    return chosen


def unit_rows(
    features: Float[np.ndarray, "images dim"],
) -> Float[np.ndarray, "images dim"]:
    """Returns the rows with length one; rows of zeros stay."""
    largest = np.abs(features).max(axis=1, keepdims=True)
    scaled = features / np.where(largest == 0, 1, largest)  # squares of large ones would overflow
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / np.where(lengths == 0, 1, lengths)
