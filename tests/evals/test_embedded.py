"""The embedded pictures are those they claim to be, and can be made again."""

import os
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.data.emoji import draw_colour, read_emoji
from clipjax.data.emoji_fonts import load_colour_font
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.embedded import FILE, QUICK, open_embedded
from clipjax.evals.prompts import PromptFiles

PATH = Path(str(resources.files("clipjax.evals") / FILE))
EACH, CONCEPTS, SIDE = 30, 64, 32


def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    found = datasets.load_digits()
    rows = [np.flatnonzero(found.target == digit)[:EACH] for digit in range(10)]
    index = np.sort(np.concatenate(rows))
    return (found.images[index] * 255 / 16).round().astype(np.uint8), found.target[index]


def emoji():
    fonts = ["/usr/share/fonts", "~/.fonts", "/usr/local/share/fonts"]
    try:
        all_emoji = read_emoji(Path("/usr/share/unicode"))
        font = load_colour_font(fonts)
    except (UserError, OSError) as error:
        pytest.skip(str(error))
    plain = [
        one
        for one in all_emoji
        if len(one.text.replace("\ufe0f", "")) == 1
        and one.group in ("Animals & Nature", "Food & Drink", "Travel & Places", "Objects")
        and len(one.keywords) >= 2
        and " " not in one.name
    ]
    chosen = [plain[i] for i in np.linspace(0, len(plain) - 1, CONCEPTS).astype(int)]
    drawn, _ = draw_colour(chosen, font, SIDE)
    captions = [
        "\n".join(dict.fromkeys([one.name, *[word for word in one.keywords if word != one.name]]))
        for one, _ in drawn
    ]
    return np.stack([np.asarray(image) for _, image in drawn]), captions


def test_digits_are_those_of_scikit_learn():
    pixels, labels = digits()
    if os.environ.get("CLIPJAX_UPDATE_GOLDEN"):
        images, captions = emoji()
        np.savez_compressed(
            PATH,
            digits=pixels,
            digit_labels=labels.astype(np.uint8),
            emoji=images,
            emoji_captions=np.array(captions),
        )
    with np.load(PATH, allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["digits"], pixels)
        np.testing.assert_array_equal(stored["digit_labels"], labels)


def test_emoji_are_those_of_the_font():
    """Other versions of font and Pillow draw a few pixels otherwise: most agree nearly."""
    images, captions = emoji()
    with np.load(PATH, allow_pickle=False) as stored:
        assert stored["emoji"].shape == (CONCEPTS, SIDE, SIDE, 3)
        if list(stored["emoji_captions"]) != captions:
            pytest.skip("another version of the Unicode data")
        gap = np.abs(stored["emoji"].astype(int) - images).mean(axis=(1, 2, 3))
    assert np.median(gap) < 8


@pytest.mark.parametrize("name", QUICK)
def test_each_opens_without_any_file(name):
    dataset = open_embedded(QUICK[name], EvaluationTransform())
    assert len(dataset.items) == QUICK[name].num_samples == len(dataset.keys)
    out = np.zeros((16, 16, 3), np.uint8)
    for index in range(len(dataset.items)):
        dataset.items.fill(index, out)
        assert out.max() > out.min()
    if dataset.prompts:
        assert len(dataset.prompts.class_names) == QUICK[name].num_classes
        assert len(set(dataset.prompts.class_names)) == QUICK[name].num_classes
        assert dataset.prompts.source == "clipjax's own wording"
    else:
        assert set(dataset.truth["image_of_text"]) == set(range(len(dataset.items)))


def test_too_few_names_of_the_user(tmp_path):
    (tmp_path / "names.txt").write_text("zero\none\n")
    files = PromptFiles(class_names=str(tmp_path / "names.txt"))
    with pytest.raises(UserError, match="holds 2 class names; expected 10"):
        open_embedded(QUICK["quick/digits"], EvaluationTransform(), files)


def test_the_file_stays_small():
    assert PATH.stat().st_size < 200_000
