"""Finding all images of a class, of which an image may show several: average precision.

The images are put in the order of their similarity to a class. Average precision is the mean, over
the images that show the class, of the share of right ones up to and including that image. The mean
over all classes is reported, also over those of which there is no image: theirs is zero, as in
CLIP_benchmark.

Images of equal score stand in the order of their numbers. That is a stable sort; CLIP_benchmark's
`torch.sort` does not promise one, and on a CPU was seen to be one up to 16 images only. Ours lies
within what any order of equals could give, and is equal where equals are all right or all wrong.
scikit-learn asks for precision only where the score changes: to each of several equals it gives the
share of right ones up to the last of them. Without ties all three agree.
"""

import numpy as np
from jaxtyping import Bool, Float

from clipjax.evals.metric import Counts, Metric
from clipjax.evals.outcomes.outcome import Outcome, unusable

Scores = Float[np.ndarray, "images classes"]
Targets = Bool[np.ndarray, "images classes"]

_MOST_COUNTS = 1 << 20


def judge(
    image_embeds: Float[np.ndarray, "images embed"],
    class_embeds: Float[np.ndarray, "classes embed"],
    targets: Targets,
    *,
    scale: float = 100.0,
) -> Outcome:
    """Returns the scores of all images for all classes.

    Arrays: `scores`, the logits; -inf for a picture that did not decode; and `targets`.

    Args:
        image_embeds: unit rows; zeros where a picture did not decode.
        class_embeds: unit rows.
        targets: which classes an image shows.
        scale: of the logits; it changes no order but in how they are rounded.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        scores = (np.float32(scale) * image_embeds) @ class_embeds.T
    scores[unusable(image_embeds) | ~np.isfinite(scores).all(axis=1)] = -np.inf
    return Outcome(
        kind="multilabel",
        arrays={"scores": scores.astype(np.float32), "targets": targets},
        options={"num_classes": len(class_embeds)},
    )


def metrics(outcome: Outcome) -> dict[str, Metric]:
    """Returns mean_average_precision of `judge`'s outcome, drawn by images.

    Chance is the expectation over random orders of the images.

    Raises:
        ValueError: if there are no images or no classes.
    """
    scores, targets = outcome.arrays["scores"], outcome.arrays["targets"]
    images, classes = scores.shape
    if not images or not classes:
        raise ValueError("no samples to take the mean of")
    ranked = [_Ranked(scores[:, k], targets[:, k]) for k in range(classes)]

    def of_counts(counts: Counts) -> Float[np.ndarray, " resamples"]:
        return np.mean([one(counts) for one in ranked], axis=0)

    chance = float(np.mean([_chance(int(n), images) for n in targets.sum(axis=0)]))
    metric = Metric(cells=np.arange(images), of_counts=of_counts, chance=chance, samples=images)
    return {"mean_average_precision": metric}


def average_precision_per_class(scores: Scores, targets: Targets) -> Float[np.ndarray, " classes"]:
    """Returns the average precision of every class; 0 where no image shows it.

    Args:
        scores: higher is more similar; an image of -inf is never found, and if it shows the class
            counts as found with precision 0.
        targets: which classes an image shows.

    >>> scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    >>> average_precision_per_class(scores, np.array([[True], [False], [True], [False]]))
    array([0.83333333])

    Source: Manning, Raghavan and Schuetze 2008, "Introduction to Information Retrieval", section
    8.4, https://nlp.stanford.edu/IR-book/.
    """
    once = np.ones((1, len(scores)))
    columns = zip(scores.T, targets.T, strict=True)
    return np.array([_Ranked(score, target)(once)[0] for score, target in columns])


class _Ranked:
    """One class: its images in order, and its average precision when some are counted again."""

    def __init__(self, scores: np.ndarray, targets: np.ndarray):
        order = np.argsort(-scores, kind="stable")
        self._order = order[scores[order] > -np.inf]
        self._right = np.flatnonzero(targets[self._order])
        self._targets = np.flatnonzero(targets)

    def __call__(self, counts: Counts) -> Float[np.ndarray, " resamples"]:
        """Returns one score a draw.

        An image that was drawn w times stands w times in a row. With B images and R right ones
        before it, its copies have the precisions (R + j) / (B + j), j = 1 to w, whose sum is
        w + (R - B) (H(B + w) - H(B)) with the harmonic numbers H.
        """
        out = np.zeros(len(counts))
        if not len(self._targets):
            return out
        most = int(counts.sum(axis=1).max(initial=0)) + 1
        harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, most + 1))])
        chunk = max(1, _MOST_COUNTS // counts.shape[1])
        for first in range(0, len(counts), chunk):
            rows = slice(first, first + chunk)
            drawn = np.rint(counts[rows]).astype(np.int64)
            until = np.cumsum(drawn[:, self._order], axis=1)[:, self._right]
            right = drawn[:, self._order[self._right]]
            before = until - right
            right_before = np.cumsum(right, axis=1) - right
            sums = right + (right_before - before) * (harmonic[until] - harmonic[before])
            positives = drawn[:, self._targets].sum(axis=1)
            out[rows] = sums.sum(axis=1) / np.maximum(positives, 1)
        return out


def _chance(right: int, images: int) -> float:
    """Returns the mean over all orders: at place i the precision is (1 + (i - 1) p) / i.

    There p = (right - 1) / (images - 1) is the share of right ones among the others.
    """
    if not right:
        return 0.0
    places = np.arange(1, images + 1)
    share = (right - 1) / max(images - 1, 1)
    return float(np.mean((1 + (places - 1) * share) / places))
