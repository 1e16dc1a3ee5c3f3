"""Choosing the images that go with a cue: WinoGAViL.

Of the candidates of a cue k are right, and k is told: the k most similar are predicted. Of equally
similar ones the last are taken: so the original leaves them, whose sort of half-precision numbers
is stable up to 16 candidates and which takes the end. Deviation: similarities are not rounded to
half precision, so that fewer are equal.

Source: Bitton et al. 2022, "WinoGAViL", https://arxiv.org/abs/2207.12576.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from clipjax.evals.metric import Metric, mean_metric
from clipjax.evals.outcomes.outcome import Outcome, unusable

_SIZES = {
    "5": (5, 5),
    "6": (6, 6),
    "10": (10, 10),
    "12": (12, 12),
    "5-6": (0, 6),
    "10-12": (10, np.inf),
}


def judge(
    image_embeds: Float[np.ndarray, "candidates embed"],
    cue_embeds: Float[np.ndarray, "cues embed"],
    cue_of_image: Int[np.ndarray, " candidates"],
    is_right: Bool[np.ndarray, " candidates"],
) -> Outcome:
    """Returns what is predicted for every cue.

    Arrays, with columns for the most candidates that a cue has: `scores` float32 [cues, columns],
    -inf where there is no candidate or it did not decode; `right` and `predicted` bool [cues,
    columns]; `candidates` and `jaccard` of each cue: predicted and right over predicted or right.

    Args:
        image_embeds: unit rows, the candidates of all cues; zeros where one did not decode, which
            then is never predicted.
        cue_embeds: unit rows.
        cue_of_image: the cue that each candidate is of.
        is_right: whether it goes with that cue.

    Raises:
        ValueError: if a candidate is of no cue, or none of a cue is right.
    """
    cues = len(cue_embeds)
    if ((cue_of_image < 0) | (cue_of_image >= cues)).any():
        raise ValueError(f"a candidate is of a cue outside 0 to {cues - 1}")
    candidates = np.bincount(cue_of_image, minlength=cues)
    wanted = np.bincount(cue_of_image[is_right], minlength=cues)
    if not wanted.all():
        raise ValueError(f"cue {int(wanted.argmin())}: none of its candidates is right")
    by_cue = np.argsort(cue_of_image, kind="stable")
    row = cue_of_image[by_cue]
    column = np.arange(len(row)) - (np.cumsum(candidates) - candidates)[row]
    shape = (cues, int(candidates.max(initial=0)))
    scores, right = np.full(shape, -np.inf, np.float32), np.zeros(shape, bool)
    with np.errstate(invalid="ignore", over="ignore"):
        similarity = (image_embeds[by_cue] * cue_embeds[row]).sum(axis=1)
    usable = ~unusable(image_embeds[by_cue]) & np.isfinite(similarity)
    scores[row, column] = np.where(usable, similarity, -np.inf)
    right[row, column] = is_right[by_cue]
    order = np.argsort(scores, axis=1, kind="stable")
    place = np.empty(shape, np.int64)
    np.put_along_axis(place, order, np.arange(shape[1])[None, ::-1].repeat(cues, 0), axis=1)
    predicted = (place < wanted[:, None]) & (scores > -np.inf)
    either = (predicted | right).sum(axis=1)
    arrays = {
        "scores": scores,
        "right": right,
        "predicted": predicted,
        "candidates": candidates,
        "jaccard": (predicted & right).sum(axis=1) / either,
    }
    return Outcome(kind="association", arrays=arrays, options={})


def metrics(outcome: Outcome) -> dict[str, Metric]:
    """Returns the scores of `judge`'s outcome, drawn by cues.

    avg_jaccard_score: the mean Jaccard index of predicted and right.
    jaccard_score_N: over the cues of N candidates; `5-6` are those of at most 6 and `10-12` those
        of at least 10. Only those that occur. Chance is that of k candidates at random.
    """
    arrays = outcome.arrays
    jaccard, candidates = arrays["jaccard"], arrays["candidates"]
    wanted = arrays["right"].sum(axis=1)
    chances = {
        (n, k): _chance(n, k)
        for n, k in set(zip(candidates.tolist(), wanted.tolist(), strict=True))
    }
    chance = np.array([chances[n, k] for n, k in zip(candidates, wanted, strict=True)])
    out = {"avg_jaccard_score": mean_metric(jaccard, chance=float(chance.mean()))}
    for name, (fewest, most) in _SIZES.items():
        inside = (candidates >= fewest) & (candidates <= most)
        if inside.any():
            out[f"jaccard_score_{name}"] = mean_metric(
                jaccard * inside, inside.astype(np.float64), chance=float(chance[inside].mean())
            )
    return out


def _chance(candidates: int, wanted: int) -> float:
    """Returns the mean Jaccard index of `wanted` candidates at random: hits are hypergeometric."""
    others = candidates - wanted
    likely = {h: math.comb(wanted, h) * math.comb(others, wanted - h) for h in range(wanted + 1)}
    total = math.comb(candidates, wanted)
    return sum(times * h / (2 * wanted - h) for h, times in likely.items()) / total
