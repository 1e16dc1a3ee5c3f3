"""Finding the image of a text and a text of an image, of which there may be several.

Recall@k is the share of queries with a right item among the k nearest: Karpathy and Fei-Fei 2014,
section 4, arXiv:1412.2306; with several captions an image any of them is right. Items that are
equally near stand in the order of their numbers. CLIP_benchmark leaves the order among equals to
`torch.topk`, where it is an accident of how that partitions: ours lies within what any order could
give, and is equal wherever the order of equals decides nothing.
"""

import numpy as np
from jaxtyping import Float, Int

from clipjax.evals.estimate import MatchRows
from clipjax.evals.metric import Counts, Metric, mean_metric
from clipjax.evals.outcomes.outcome import Outcome, unusable

_KS = (1, 5, 10)
_MOST_SIMILARITIES = 1 << 23


def judge(
    image_embeds: Float[np.ndarray, "images embed"],
    text_embeds: Float[np.ndarray, "texts embed"],
    image_of_text: Int[np.ndarray, " texts"],
) -> Outcome:
    """Returns where the right items stand.

    Arrays: `text_rank`, of each image how many wrong texts stand before its best own one;
    `image_rank`, of each text how many wrong images stand before its own; `top1_text` of each image
    and `top1_image` of each text, the nearest item whether right or wrong; `image_of_text`. An
    image that did not decode finds nothing, is found by nothing and stands before nothing: ranks
    are then the number of items, and its nearest text is -1.

    Args:
        image_embeds: unit rows; zeros where a picture did not decode.
        text_embeds: unit rows.
        image_of_text: the image that each text belongs to.

    Raises:
        ValueError: if a text belongs to no image.
    """
    images, texts = len(image_embeds), len(text_embeds)
    outside = (image_of_text < 0) | (image_of_text >= images)
    if outside.any():
        at = int(outside.argmax())
        raise ValueError(f"text {at} is of image {image_of_text[at]}; there are {images} images")
    numbers = np.arange(images)
    text_rank, top1_text = _ranks(image_embeds, text_embeds, MatchRows(numbers, image_of_text))
    image_rank, top1_image = _ranks(text_embeds, image_embeds, MatchRows(image_of_text, numbers))
    arrays = {
        "text_rank": text_rank,
        "image_rank": image_rank,
        "top1_text": top1_text,
        "top1_image": top1_image,
        "image_of_text": image_of_text,
    }
    return Outcome(
        kind="retrieval", arrays=arrays, options={"num_images": images, "num_texts": texts}
    )


def metrics(outcome: Outcome) -> dict[str, Metric]:
    """Returns the scores of `judge`'s outcome, all drawn by images, each with its texts.

    image_retrieval_recall@k: over texts, is their image among the k nearest? Chance is k / images.
    text_retrieval_recall@k: over images, is one of their texts among the k nearest? Chance is that
        of a random order.
    mean_recall@1: the mean of both at 1, as DataComp has it.
    """
    arrays = outcome.arrays
    images, texts = outcome.options["num_images"], outcome.options["num_texts"]
    image_of_text = arrays["image_of_text"]
    captions = np.bincount(image_of_text, minlength=images).astype(np.float64)
    found_text = {k: (arrays["text_rank"] < k).astype(np.float64) for k in _KS}
    found_image = {
        k: np.bincount(image_of_text, weights=arrays["image_rank"] < k, minlength=images)
        for k in _KS
    }
    chance_of_text = {k: _chance_of_any(k, captions, texts) for k in _KS}
    out = {
        f"image_retrieval_recall@{k}": mean_metric(
            found_image[k], captions, chance=min(1.0, k / images)
        )
        for k in _KS
    }
    out |= {
        f"text_retrieval_recall@{k}": mean_metric(found_text[k], chance=chance_of_text[k])
        for k in _KS
    }
    chance = (1 / images + chance_of_text[1]) / 2
    out["mean_recall@1"] = _mean_recall(found_image[1], captions, found_text[1], chance)
    return out


def _mean_recall(
    found_image: np.ndarray, captions: np.ndarray, found_text: np.ndarray, chance: float
) -> Metric:
    rows = np.stack([found_image, captions, found_text], 1)
    distinct, cells = np.unique(rows, axis=0, return_inverse=True)

    def of_counts(counts: Counts) -> Float[np.ndarray, " resamples"]:
        images, texts, of_images = (counts @ distinct).T
        with np.errstate(invalid="ignore"):
            return (images / texts + of_images / counts.sum(axis=1)) / 2

    return Metric(
        cells=cells.reshape(-1), of_counts=of_counts, chance=chance, samples=len(captions)
    )


def _ranks(
    queries: np.ndarray, items: np.ndarray, is_match: MatchRows
) -> tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " queries"]]:
    """Returns how many wrong items stand before the best right one, and which item is first."""
    ranks, nearest = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    bad_query, bad_item = unusable(queries), unusable(items)
    numbers = np.arange(len(items))
    # A matrix product may round equal columns otherwise by where they stand: they are taken once.
    distinct, of_item = np.unique(items, axis=0, return_inverse=True)
    of_item = None if len(distinct) == len(items) else of_item.reshape(-1)
    chunk = max(1, _MOST_SIMILARITIES // len(items))
    for first in range(0, len(queries), chunk):
        last = min(first + chunk, len(queries))
        with np.errstate(invalid="ignore", over="ignore"):
            if of_item is None:
                similarity = queries[first:last] @ items.T
            else:
                similarity = (queries[first:last] @ distinct.T)[:, of_item]
        similarity[:, bad_item] = -np.inf
        right = np.where(is_match(first, last), similarity, -np.inf)
        best_at = right.argmax(axis=1)[:, None]
        best = np.take_along_axis(right, best_at, axis=1)
        before = (similarity > best) | ((similarity == best) & (numbers < best_at))
        nothing = bad_query[first:last] | (best[:, 0] == -np.inf)
        ranks[first:last] = np.where(nothing, len(items), before.sum(axis=1))
        nearest[first:last] = np.where(bad_query[first:last], -1, similarity.argmax(axis=1))
    return ranks, nearest


def _chance_of_any(k: int, right: np.ndarray, items: int) -> float:
    """Returns the mean probability that one of `right` items is among `k` of `items` at random."""
    misses = np.ones(len(right))
    for drawn in range(min(k, items)):
        misses *= np.clip((items - right - drawn) / (items - drawn), 0, 1)
    return float(1 - misses.mean())
