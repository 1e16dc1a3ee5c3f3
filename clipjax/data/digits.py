"""Makes image-text pairs of two handwritten digits side by side, from scikit-learn's 1,797."""

import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from clipjax.config.errors import UsageError, UserError
from clipjax.core.progress import Progress
from clipjax.data.writers import DatasetFolder, Sample, write_shards

SPLITS = ("train", "seen", "unseen")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_HELD_OUT_IMAGES = 36  # of each digit: 360 of 1,797
_MAX_PER_NUMBER = 10_000  # of about 20,000 different pairs of training images that there are


def make_digits(
    out: str | os.PathLike[str],
    *,
    size: int = 32,
    seed: int = 0,
    train_samples: int = 8000,
    eval_samples_per_number: int = 20,
) -> dict[str, Any]:
    """Writes pairs such as (picture of 3 and 7, "a handwritten three seven") under `out`.

    `train` has 80 of the 100 numbers; `seen` the same numbers of other people's digits (360
    images that training lacks); `unseen` the other 20 numbers of those images. Each digit is the
    left one of two unseen numbers and the right one of two, so all are trained equally often.

    Args:
        out: the folder to write; if it is complete already, nothing is made.
        size: side of the square canvas in pixels; a multiple of 2.
        seed: which images and which numbers are held out, and what is paired with what.
        train_samples: pairs in `train`.
        eval_samples_per_number: pairs of each number in `seen` and in `unseen`.

    Returns:
        The content of dataset.json: the arguments, `splits` (pairs each) and the unseen numbers.

    Raises:
        UsageError: for a size or a number of pairs that cannot be.
        UserError: if scikit-learn is missing, or `out` holds other things.
    """
    if size % 2 or not 8 <= size <= 1024:
        raise UsageError(f"--size {size}: wanted an even number of 8 to 1024 pixels.")
    if seed < 0:
        raise UsageError(f"--seed {seed}: wanted 0 or more.")
    if not 1 <= train_samples <= 80 * _MAX_PER_NUMBER:
        raise UsageError(f"--train-samples {train_samples}: wanted 1 to {80 * _MAX_PER_NUMBER:,}.")
    if not 1 <= eval_samples_per_number <= _HELD_OUT_IMAGES**2:
        raise UsageError(
            f"--eval-samples-per-number {eval_samples_per_number}: wanted 1 to "
            f"{_HELD_OUT_IMAGES**2:,}, all pairs of {_HELD_OUT_IMAGES} images a digit."
        )
    arguments = {
        "size": size,
        "seed": seed,
        "train_samples": train_samples,
        "eval_samples_per_number": eval_samples_per_number,
    }
    folder = DatasetFolder(out, "digits", arguments, (*SPLITS, "numbers", "names.txt"))
    if (found := folder.complete()) is not None:
        return found
    images, digits = _load_digits()
    folder.begin()
    train_images, held_out_images = _split_images(digits, seed)
    unseen = _unseen_numbers(seed)
    seen = [number for number in range(100) if number not in unseen]
    evals = eval_samples_per_number
    plans = {
        "train": _plan(seen, train_images, train_samples, (seed, 2)),
        "seen": _plan(seen, held_out_images, len(seen) * evals, (seed, 3)),
        "unseen": _plan(unseen, held_out_images, len(unseen) * evals, (seed, 4)),
    }
    total = sum(map(len, plans.values()))
    with Progress("composing digits", total, "pairs") as progress:
        for split, plan in plans.items():
            samples = _samples(images, plan, size, split != "unseen", progress)
            write_shards(folder.path / split, samples)
    names = [number_name(number) for number in range(100)]
    folder.write_lines("names.txt", map(_caption, range(100)))
    folder.write_lines("numbers/classnames.txt", names)
    folder.write_lines("numbers/zeroshot_classification_templates.txt", ["a handwritten {c}"])
    return folder.finish(
        {
            "splits": {split: len(plan) for split, plan in plans.items()},
            "names": len(names),
            "unseen_numbers": [names[number] for number in unseen],
        }
    )


def number_name(number: int) -> str:
    """Returns the two digits of a number below 100 in words.

    >>> number_name(37), number_name(5)
    ('three seven', 'zero five')
    """
    left, right = divmod(number, 10)
    return f"{WORDS[left]} {WORDS[right]}"


def _caption(number: int) -> str:
    return f"a handwritten {number_name(number)}"


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 [1797, 8, 8], black ink on white, and the digit of each."""
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise UserError(
            "scikit-learn: not installed, wanted for its 1,797 handwritten digits. "
            "Install it: pip install 'clipjax[digits]'"
        ) from error
    bunch = datasets.load_digits()
    ink = np.asarray(bunch.images)  # 0 to 16
    return np.rint(255 - ink * (255 / 16)).astype(np.uint8), np.asarray(bunch.target)


_ImagesOfDigit = list[np.ndarray]


def _split_images(digits: np.ndarray, seed: int) -> tuple[_ImagesOfDigit, _ImagesOfDigit]:
    """Returns the numbers of the images of each digit: for training, and held out."""
    rng = np.random.default_rng((seed, 0))
    shuffled = [rng.permutation(np.flatnonzero(digits == digit)) for digit in range(10)]
    return (
        [images[_HELD_OUT_IMAGES:] for images in shuffled],
        [images[:_HELD_OUT_IMAGES] for images in shuffled],
    )


def _unseen_numbers(seed: int) -> list[int]:
    """Returns 20 numbers that have each digit twice on the left and twice on the right."""
    rights = np.random.default_rng((seed, 1)).permutation(10)
    pairs = ((left, rights[(left + shift) % 10]) for left in range(10) for shift in (0, 1))
    return sorted(int(10 * left + right) for left, right in pairs)


_Plan = list[tuple[int, int, int]]
"""(number, image of its left digit, image of its right digit) of each pair."""


def _plan(
    numbers: Sequence[int], images: _ImagesOfDigit, count: int, seed: tuple[int, int]
) -> _Plan:
    """Chooses `count` different pairs, as many of each number as of any other, shuffled."""
    rng = np.random.default_rng(seed)
    plan: _Plan = []
    for place, number in enumerate(numbers):
        left, right = (images[digit] for digit in divmod(number, 10))
        of_number = len(range(place, count, len(numbers)))
        for pair in rng.choice(len(left) * len(right), of_number, replace=False):
            i, j = divmod(int(pair), len(right))
            plan.append((number, int(left[i]), int(right[j])))
    return [plan[i] for i in rng.permutation(len(plan))]


def _samples(
    images: np.ndarray, plan: _Plan, size: int, seen: bool, progress: Progress
) -> Iterator[Sample]:
    for number, left, right in plan:
        caption = _caption(number)
        fields = {
            "captions": [caption],
            "name": number_name(number),
            "number": number,
            "seen": seen,
            "sources": [left, right],
            "label": number,
        }
        yield Sample(compose(images[left], images[right], size), caption, fields, number)
        progress.advance()


def compose(left: np.ndarray, right: np.ndarray, size: int) -> Image.Image:
    """Returns two digits, uint8 [8, 8] each, side by side, filling a square.

    Each is twice as tall as wide: a transformer of 4 x 4 patches and 400 steps named 54 % of the
    unseen numbers so, and 32 % with square digits between two blank bands.
    """
    half = size // 2
    canvas = Image.new("RGB", (size, size), "white")
    for x, digit in ((0, left), (half, right)):
        enlarged = Image.fromarray(digit).resize((half, size), Image.Resampling.BICUBIC)
        canvas.paste(enlarged.convert("RGB"), (x, 0))
    return canvas
