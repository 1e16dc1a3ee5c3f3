"""The few samples of a task that a report shows: what was mistaken for what, and how it looks."""

import base64
import io
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clipjax.data.decode import BadSampleError, decode_image
from clipjax.evals.dataset import Dataset, Pictures
from clipjax.evals.outcomes.outcome import Outcome

_PAIRS, _EACH, _WORST = 8, 3, 12
_SIDE, _QUALITY = 96, 80
_MOST_CHARACTERS = 300_000
_MOST_PIXELS = 64_000_000
_LONGEST = 300


def chosen_items(outcome: Outcome) -> list[int]:
    """Returns the items that are worth a picture, the most telling first, none twice.

    Of classification the examples of the commonest confusions, one of each before the second of
    any; of retrieval the images and texts that were ranked worst, each text by its own image and
    by the one that stands first instead; of other kinds none.

    >>> arrays = {"label": np.array([0, 0, 1]), "predicted": np.array([0, 1, 1])}
    >>> chosen_items(Outcome(kind="classification", arrays=arrays, options={}))
    [1]
    """
    if outcome.kind == "classification":
        by_pair = [items for _, _, _, items in _confusions(outcome)]
        rounds = zip_longest(*by_pair)
        return _distinct(item for one in rounds for item in one if item is not None)
    if outcome.kind == "retrieval":
        arrays = outcome.arrays
        of_texts = [
            int(item)
            for text in _worst_texts(outcome)
            for item in (arrays["image_of_text"][text], arrays["top1_image"][text])
        ]
        return _distinct([*_worst_images(outcome), *of_texts])
    return []


def examples_of(dataset: Dataset, outcome: Outcome) -> dict[str, Any]:
    """Returns what the report says of the chosen items, as plain values.

    classification, `confusions`: the commonest pairs of a class and what it was taken for, each
        {"truth", "predicted", "count", "items"}; items are those that the model was surest of.
    retrieval, `worst_images`: images with a wrong text first, each {"item", "rank", "own",
        "nearest"}; `rank` is how many wrong texts stand before the best of its `own`.
        `worst_texts`: {"text", "item", "rank", "nearest_item"}; `rank` is how many wrong images
        stand before its own, `item`.

    A picture that did not decode is an example of nothing. Texts longer than 300 characters are
    cut.
    """
    if outcome.kind == "classification":
        names = dataset.prompts.class_names if dataset.prompts else None
        return {
            "confusions": [
                {
                    "truth": _name(names, truth),
                    "predicted": _name(names, predicted),
                    "count": count,
                    "items": items,
                }
                for truth, predicted, count, items in _confusions(outcome)
            ]
        }
    if outcome.kind == "retrieval":
        arrays, texts = outcome.arrays, dataset.texts
        image_of_text = arrays["image_of_text"]
        return {
            "worst_images": [
                {
                    "item": item,
                    "rank": int(arrays["text_rank"][item]),
                    "own": [
                        _cut(texts[at]) for at in np.flatnonzero(image_of_text == item).tolist()
                    ],
                    "nearest": _cut(texts[int(arrays["top1_text"][item])]),
                }
                for item in _worst_images(outcome)
            ],
            "worst_texts": [
                {
                    "text": _cut(texts[text]),
                    "item": int(image_of_text[text]),
                    "rank": int(arrays["image_rank"][text]),
                    "nearest_item": int(arrays["top1_image"][text]),
                }
                for text in _worst_texts(outcome)
            ],
        }
    return {}


def pictures_of(
    dataset: Dataset,
    outcome: Outcome,
    side: int = _SIDE,
    most_characters: int = _MOST_CHARACTERS,
) -> dict[int, str]:
    """Returns small JPEGs of the chosen items, as `data:` addresses by item.

    Items that are no pictures have none; nor has one that does not decode, or that would make all
    together longer than `most_characters`.

    Args:
        dataset: whose files are read again.
        outcome: of a model on it.
        side: pixels of the longer side. Tiny pictures are enlarged without smoothing.
        most_characters: of all addresses together.
    """
    images = dataset.items
    if not isinstance(images, Pictures):
        return {}
    out: dict[int, str] = {}
    left = most_characters
    for item in chosen_items(outcome):
        try:
            pixels = decode_image(images.file(item), _MOST_PIXELS)
        except (BadSampleError, OSError):
            continue
        address = _address(pixels, side)
        if len(address) <= left:
            out[item] = address
            left -= len(address)
    return out


def _confusions(outcome: Outcome) -> list[tuple[int, int, int, list[int]]]:
    """Returns the commonest (class, taken for, how often, examples)."""
    label, predicted = outcome.arrays["label"], outcome.arrays["predicted"]
    confidence = outcome.arrays.get("confidence", np.zeros(len(label)))
    wrong = np.flatnonzero((label != predicted) & (predicted >= 0))
    mistakes = np.stack([label[wrong], predicted[wrong]], 1)
    pairs, number = np.unique(mistakes, axis=0, return_inverse=True)
    number = number.reshape(-1)
    counts = np.bincount(number, minlength=len(pairs))
    out = []
    for pair in np.argsort(-counts, kind="stable")[:_PAIRS]:
        items = wrong[number == pair]
        surest = items[np.argsort(-confidence[items], kind="stable")[:_EACH]]
        truth, taken_for = pairs[pair]
        out.append((int(truth), int(taken_for), int(counts[pair]), surest.tolist()))
    return out


def _worst_images(outcome: Outcome) -> list[int]:
    rank, usable = outcome.arrays["text_rank"], outcome.arrays["top1_text"] >= 0
    # An image that no text belongs to has no rank to speak of.
    has_text = np.bincount(outcome.arrays["image_of_text"], minlength=len(rank)) > 0
    return _largest(np.where(usable & has_text, rank, 0))


def _worst_texts(outcome: Outcome) -> list[int]:
    rank, image_of_text = outcome.arrays["image_rank"], outcome.arrays["image_of_text"]
    usable = outcome.arrays["top1_text"][image_of_text] >= 0
    return _largest(np.where(usable, rank, 0))


def _largest(ranks: np.ndarray) -> list[int]:
    """Returns where the largest are, without zeros: those are right."""
    order = np.argsort(-ranks, kind="stable")[:_WORST]
    return [int(at) for at in order if ranks[at] > 0]


def _distinct(items: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(items))


def _name(names: Sequence[str] | None, number: int) -> str:
    return _cut(names[number]) if names is not None else str(number)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _address(pixels: UInt8[np.ndarray, "height width 3"], side: int) -> str:
    image = Image.fromarray(pixels)
    times = side // max(image.size)
    if times > 1:
        size = (image.width * times, image.height * times)
        image = image.resize(size, Image.Resampling.NEAREST)
    else:
        image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
