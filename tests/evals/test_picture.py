import io

import numpy as np
import pytest
from PIL import Image

from clipjax.evals.picture import draw_retrieval
from clipjax.evals.retrieval import Retrieval

GREEN = (0, 110, 50)
SIDE = 16


class Pictures:
    """Each of its own gray, from 60 on: no text has these colours."""

    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count

    def fill(self, index, out):
        out[...] = 60 + 5 * index


class Table:
    """Picture i lies on axis i, or on another one; text i on axis i."""

    def __init__(self, axes, size):
        self.axes, self.size = axes, size

    def images(self, images):
        grays = np.zeros((len(images), SIDE, SIDE, 3), np.uint8)
        for i, out in enumerate(grays):
            images.fill(i, out)
        axes = [self.axes[(gray - 60) // 5] for gray in grays[:, 0, 0, 0]]
        return np.eye(self.size, dtype=np.float32)[axes]

    def texts(self, texts):
        return np.eye(self.size, dtype=np.float32)[: len(texts)]


def draw(count, wrong=(), captions=None, candidates=()):
    captions = captions or [f"caption {i}" for i in range(count)]
    axes = [(i + 1) % count if i in wrong else i for i in range(count)]
    task = Retrieval(images=Pictures(count), captions=captions, candidates=candidates)
    return draw_retrieval(task, Table(axes, count + len(candidates)), SIDE)


def colours(sheet):
    return {tuple(c) for c in np.asarray(sheet).reshape(-1, 3).tolist()}


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 1), (4, 2), (18, 6), (39, 6)])
def test_the_sheet_is_a_png_of_a_sane_size_that_shows_pictures_and_captions(count, rows):
    sheet = draw(count)
    out = io.BytesIO()
    sheet.save(out, "PNG")
    assert 500 < len(out.getvalue()) < 500_000
    back = Image.open(io.BytesIO(out.getvalue()))
    assert back.format == "PNG"
    width, height = back.size
    assert 300 < width < 1400
    assert rows * 90 < height < rows * 130 + 60
    assert GREEN in colours(sheet)


def test_pictures_are_spread_over_the_task_and_at_most_eighteen():
    grays = np.asarray(draw(39)).min(axis=2)
    areas = np.bincount(grays.ravel(), minlength=256)
    large = [i for i in range(39) if areas[60 + 5 * i] > 5000]  # letters have grays of their own
    assert len(large) == 18
    assert large[0] == 0
    assert large[-1] == 38
    assert max(np.diff(large)) <= 3


def test_a_picture_has_green_only_where_its_own_caption_is_among_the_nearest():
    """Picture 5 of 6, the last of two rows of three, lies on the axis of another caption."""

    def last(sheet):
        width, height = sheet.size
        return sheet.crop((2 * width // 3, (height + 40) // 2, width, height))

    assert GREEN in colours(last(draw(6)))
    wrong = draw(6, wrong=(5,))
    assert GREEN not in colours(last(wrong))
    assert GREEN in colours(wrong)


def test_long_and_foreign_captions_do_not_break_the_sheet():
    captions = ["word " * 80, "漢字 🎈 \u202e", "\n", "x" * 500]
    sheet = draw(4, captions=captions, candidates=["further " * 50])
    assert sheet.size == draw(4).size
