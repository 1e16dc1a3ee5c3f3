"""Telling apart what differs in little: a few images and a few captions that belong together.

The i-th image belongs to the i-th caption; there may be more of the one than of the other. In
Winoground two images and two captions of the same words; in SugarCrepe one image, its caption and
one that is slightly wrong.

Ties go to the first, as by `argmax` and so in CLIP_benchmark. Where the right caption is always the
first of its list, as in SugarCrepe, a model that maps everything to one point is therefore right
everywhere: the option `ties` counts the samples where order decided, and a score with many of them
means nothing.

Source: Thrush et al. 2022, "Winoground", https://arxiv.org/abs/2204.03162; Hsieh et al.
2023, "SugarCrepe", https://arxiv.org/abs/2306.14610.
"""

import numpy as np
from jaxtyping import Bool, Float

from clipjax.evals.metric import Metric, mean_metric
from clipjax.evals.outcomes.outcome import Outcome, unusable


def judge(
    image_embeds: Float[np.ndarray, "samples images embed"],
    text_embeds: Float[np.ndarray, "samples captions embed"],
) -> Outcome:
    """Returns what is nearest within every sample.

    Arrays: `scores` [samples, images, captions], -inf for a picture that did not decode;
    `chosen_text` of every image, -1 for such a picture; `chosen_image` of every caption, -1 if
    there is none to choose from.

    Args:
        image_embeds: unit rows; zeros where a picture did not decode.
        text_embeds: unit rows.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        scores = image_embeds @ text_embeds.transpose(0, 2, 1)
    scores[unusable(image_embeds)] = -np.inf
    scores[~np.isfinite(scores)] = -np.inf
    pairs = min(scores.shape[1:])
    chosen_text = np.where((scores == -np.inf).all(axis=2), -1, scores.argmax(axis=2))
    chosen_image = np.where((scores == -np.inf).all(axis=1), -1, scores.argmax(axis=1))
    ties = _tied(scores)[:, :pairs] | _tied(scores.transpose(0, 2, 1))[:, :pairs]
    return Outcome(
        kind="selection",
        arrays={
            "scores": scores.astype(np.float32),
            "chosen_text": chosen_text,
            "chosen_image": chosen_image,
        },
        options={"ties": int(ties.any(axis=1).sum())},
    )


def metrics(outcome: Outcome) -> dict[str, Metric]:
    """Returns the scores of `judge`'s outcome over samples, of n pairs each.

    image_acc: for all n captions the right image is nearest. With one image it always is, and
        chance is 1.
    text_acc: for all n images the right caption is nearest.
    acc: both. Chance of all three is that of similarities which are independent and alike.
    """
    _, images, captions = outcome.arrays["scores"].shape
    pairs = min(images, captions)
    right = np.arange(pairs)
    image = (outcome.arrays["chosen_image"][:, :pairs] == right).all(axis=1)
    text = (outcome.arrays["chosen_text"][:, :pairs] == right).all(axis=1)
    chances = {
        "image_acc": (image, images**-pairs),
        "text_acc": (text, captions**-pairs),
        "acc": (image & text, _chance_of_both(images, captions)),
    }
    return {
        name: mean_metric(hits.astype(np.float64), chance=float(chance))
        for name, (hits, chance) in chances.items()
    }


def _tied(scores: np.ndarray) -> Bool[np.ndarray, "samples queries"]:
    highest = scores.max(axis=2, keepdims=True)
    return ((scores == highest) & (highest > -np.inf)).sum(axis=2) > 1


def _chance_of_both(images: int, captions: int) -> float:
    """Returns how likely each of n pairs scores highest in its row and its column.

    Let the pairs' uniform scores be u_1 < ... < u_n. Each of the 2 (n - r) scores that pair r
    shares with a higher one, and each of the e = |images - captions| others of its line, must be
    below u_r: n! times the integral of the product of u_r ** (2 (n - r) + e), innermost first.

    >>> round(1 / _chance_of_both(2, 2), 6), _chance_of_both(1, 2)
    (6.0, 0.5)
    """
    pairs, extra = min(images, captions), abs(images - captions)
    chance, power = 1.0, 0
    for rank in range(1, pairs + 1):
        power += 2 * (pairs - rank) + extra + 1
        chance *= rank / power
    return chance
