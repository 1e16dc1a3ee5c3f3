"""Image-text retrieval by recall@k, as in Karpathy and Fei-Fei 2014, arXiv:1412.2306, section 4."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from clipjax.data.images import Images
from clipjax.evals.estimate import Estimate, MatchRows, estimate, rank_of_best
from clipjax.evals.protocol import Encoders

_KS = (1, 5, 10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall@1, @5 and @10: is the caption among the k nearest texts, and the image vice versa?

    Attributes:
        images: the pictures.
        captions: of each picture; pictures with equal captions match each other's.
        candidates: further captions among which that of a picture is to be found.
        resamples: behind each interval.
    """

    images: Images
    captions: Sequence[str]
    candidates: Sequence[str] = ()
    resamples: int = 2000

    def run(self, encode: Encoders) -> dict[str, Estimate]:
        """Returns recalls in [0, 1]; chance is that of a random ranking."""
        own = list(dict.fromkeys(self.captions))
        texts = list(dict.fromkeys([*own, *self.candidates]))
        number = {text: i for i, text in enumerate(texts)}
        labels = np.array([number[caption] for caption in self.captions])
        image_embeds, text_embeds = encode.images(self.images), encode.texts(texts)
        to_text = rank_of_best(image_embeds, text_embeds, MatchRows(labels, np.arange(len(texts))))
        own_labels = np.arange(len(own))
        to_image = rank_of_best(
            text_embeds[: len(own)], image_embeds, MatchRows(own_labels, labels)
        )
        matches = np.bincount(labels, minlength=len(own))
        out = {}
        for name, ranks, chance in (
            ("image_to_text_recall", to_text, lambda k: min(1.0, k / len(texts))),
            ("text_to_image_recall", to_image, lambda k: _chance(k, matches, len(labels))),
        ):
            for k in _KS:
                out[f"{name}@{k}"] = estimate(ranks < k, chance=chance(k), resamples=self.resamples)
        return out


def _chance(k: int, matches: np.ndarray, items: int) -> float:
    """Mean probability that one of `matches` items is among `k` of `items` at random."""
    misses = np.ones(len(matches))
    for drawn in range(min(k, items)):
        misses *= np.clip((items - matches - drawn) / (items - drawn), 0, 1)
    return float(1 - misses.mean())
