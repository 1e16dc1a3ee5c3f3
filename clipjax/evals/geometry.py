"""How the embeddings of images and texts lie on the sphere."""

import numpy as np
from jaxtyping import Float, Int

from clipjax.evals.outcomes.outcome import unusable

_EXACT_ROWS = 4096
_CHUNK_ROWS = 1024

Rows = Float[np.ndarray, "rows embed"]


def geometry(
    image_embeds: Float[np.ndarray, "images embed"],
    text_embeds: Float[np.ndarray, "texts embed"],
    *,
    pairs: Int[np.ndarray, "pairs 2"] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Returns what the embeddings of a task look like, as plain numbers.

    `image_uniformity`, `text_uniformity` with the number of rows they rest on in
    `image_uniformity_rows` and `text_uniformity_rows` (less than `images` and `texts` where they
    are of a sample), `image_effective_rank`, `text_effective_rank`, `modality_gap` and, where pairs
    are given, `alignment`. A quantity that has no value is left out. So are rows of zeros (images
    that do not decode) or with NaN, and the pairs with one.

    Args:
        image_embeds: unit rows.
        text_embeds: unit rows.
        pairs: which image, which text belong together.
        seed: of the sample of rows.
    """
    figures: dict[str, float] = {}
    kept = {name: _kept(r) for name, r in (("image", image_embeds), ("text", text_embeds))}
    for name, rows in kept.items():
        figures[f"{name}s"] = float(len(rows))
        if len(rows) >= 2:
            figures[f"{name}_uniformity"] = uniformity(rows, seed=seed)
            figures[f"{name}_uniformity_rows"] = float(min(len(rows), _EXACT_ROWS))
        if len(rows):
            figures[f"{name}_effective_rank"] = effective_rank(rows)
    if len(kept["image"]) and len(kept["text"]):
        figures["modality_gap"] = modality_gap(kept["image"], kept["text"])
    if pairs is not None:
        bad = unusable(image_embeds)[pairs[:, 0]] | unusable(text_embeds)[pairs[:, 1]]
        if not bad.all():
            figures["alignment"] = alignment(image_embeds, text_embeds, pairs[~bad])
    return figures


def uniformity(rows: Rows, *, t: float = 2.0, seed: int = 0) -> float:
    """Returns the logarithm of the mean Gaussian kernel exp(-t |x - y|^2) over pairs of rows.

    The lower, the more evenly the rows cover the sphere: 0 if all are equal, about -2 t for random
    directions in many dimensions. Exact up to 4,096 rows; of more, that many are drawn without
    replacement, always the same of so many rows, and all pairs of those enter.

    Args:
        rows: unit rows.
        t: sharpness of the kernel.
        seed: of the sample.

    Raises:
        ValueError: if there are fewer than two rows.

    Source: Wang and Isola 2020, "Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere", section 4.1, https://arxiv.org/abs/2005.10242.
    """
    if len(rows) < 2:
        raise ValueError(f"uniformity needs two rows; there is {len(rows)}")
    if len(rows) > _EXACT_ROWS:
        chosen = np.random.default_rng(seed).choice(len(rows), _EXACT_ROWS, replace=False)
        rows = rows[np.sort(chosen)]
    rows = rows.astype(np.float64)
    norms = np.square(rows).sum(axis=1)
    total = 0.0
    for first in range(0, len(rows), _CHUNK_ROWS):
        # Only pairs of a row with a later one: the kernel of a row with itself is no pair.
        block, later = rows[first : first + _CHUNK_ROWS], rows[first:]
        squares = norms[first : first + len(block), None] + norms[first:] - 2 * block @ later.T
        kernel = np.exp(-t * np.maximum(squares, 0))
        total += kernel[:, len(block) :].sum() + np.triu(kernel[:, : len(block)], 1).sum()
    return float(np.log(total / (len(rows) * (len(rows) - 1) / 2)))


def alignment(
    image_embeds: Float[np.ndarray, "images embed"],
    text_embeds: Float[np.ndarray, "texts embed"],
    pairs: Int[np.ndarray, "pairs 2"],
) -> float:
    """Returns the mean squared distance of matched images and texts, 0 to 4; the lower, the closer.

    Args:
        image_embeds: unit rows.
        text_embeds: unit rows.
        pairs: which image, which text belong together.

    Raises:
        ValueError: if there are no pairs.

    Source: Wang and Isola 2020, section 4.1 with alpha = 2, https://arxiv.org/abs/2005.10242.

    >>> rows = np.eye(2, dtype=np.float32)
    >>> alignment(rows, rows, np.array([[0, 0], [0, 1]]))
    1.0
    """
    if not len(pairs):
        raise ValueError("no pairs to measure the distance of")
    total = 0.0
    for first in range(0, len(pairs), _CHUNK_ROWS):
        image, text = pairs[first : first + _CHUNK_ROWS].T
        total += np.square(image_embeds[image].astype(np.float64) - text_embeds[text]).sum()
    return float(total / len(pairs))


def modality_gap(
    image_embeds: Float[np.ndarray, "images embed"], text_embeds: Float[np.ndarray, "texts embed"]
) -> float:
    """Returns the distance between the mean image and the mean text.

    Raises:
        ValueError: if there are no images or no texts.

    Source: Liang et al. 2022, "Mind the Gap", section 2, https://arxiv.org/abs/2203.02053.
    """
    if not len(image_embeds) or not len(text_embeds):
        raise ValueError("the modality gap needs images and texts")
    gap = image_embeds.mean(axis=0, dtype=np.float64) - text_embeds.mean(axis=0, dtype=np.float64)
    return float(np.linalg.norm(gap))


def effective_rank(rows: Rows) -> float:
    """Returns the exponential of the entropy of the singular values, scaled to sum to 1.

    It is r for r equal singular values and falls continuously where they are unequal. The rows are
    not centred. RankMe (Garrido et al. 2022, https://arxiv.org/abs/2210.02885) is the same but for
    1e-7 that it adds to each share. Singular values below 1e-7 of the largest count as zero: they
    are rounding of float32.

    Raises:
        ValueError: if there are no rows, or all are zero.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality",
    section 2, EUSIPCO, https://ieeexplore.ieee.org/document/7098875.
    """
    gram = np.zeros((rows.shape[1],) * 2)
    for first in range(0, len(rows), _CHUNK_ROWS):
        block = rows[first : first + _CHUNK_ROWS].astype(np.float64)
        gram += block.T @ block
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    if not values[-1]:
        raise ValueError("no row other than zero: the effective rank has no value")
    shares = values[values > 1e-7 * values[-1]]
    shares = shares / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _kept(rows: np.ndarray) -> np.ndarray:
    bad = unusable(rows)
    return rows[~bad] if bad.any() else rows
