"""Whether another model sees in pictures what they are said to show."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from clipjax.config import UserError


@runtime_checkable
class Judge(Protocol):
    """What embeds pictures and texts, as `clipjax.Model` does."""

    def encode_image(self, images: Any) -> Float[np.ndarray, "images embed"]:
        """Returns a direction for each picture."""
        ...

    def encode_text(self, texts: Any) -> Float[np.ndarray, "texts embed"]:
        """Returns a direction for each text."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge says of pictures.

    Attributes:
        predicted: number of the concept that each picture is taken for.
        share: of pictures that are taken for what they are said to show.
        chance: 1 / concepts.
        noise_share: of pictures of noise that are taken for what the pictures in their places are
            said to show. What a judge takes all noise for could be right by accident.
        others_share: the same with the concepts permuted among the pictures, on average.
    """

    predicted: Int[np.ndarray, " pictures"]
    share: float
    chance: float
    noise_share: float
    others_share: float


def judge(
    model: Judge,
    pictures: UInt8[np.ndarray, "pictures side side 3"],
    said: Sequence[int],
    names: Sequence[str],
    noise: UInt8[np.ndarray, "noise side side 3"],
) -> Judgement:
    """Returns what another model takes pictures for, by zero-shot classification.

    Args:
        model: trained by itself: another seed, or another architecture. One that made the pictures
            would praise its own faults.
        pictures: of any square size.
        said: number of the concept that each is said to show.
        names: of the concepts, which are the prompts.
        noise: pictures that show nothing.

    Raises:
        UserError: if there is nothing to judge.
    """
    if not len(pictures) or not len(noise):
        raise UserError("no pictures to judge: no unit has a concept.")
    wanted = np.asarray(said, np.int64)
    classes = model.encode_text(list(names)).T

    def taken_for(shown: np.ndarray) -> np.ndarray:
        return (model.encode_image(shown) @ classes).argmax(axis=1)

    predicted = taken_for(pictures)
    share_of = np.bincount(predicted, minlength=len(names)) / len(predicted)
    noise_of = np.bincount(taken_for(noise), minlength=len(names)) / len(noise)
    return Judgement(
        predicted=predicted,
        share=float((predicted == wanted).mean()),
        chance=1 / len(names),
        noise_share=float(noise_of[wanted].mean()),
        others_share=float(share_of[wanted].mean()),
    )
