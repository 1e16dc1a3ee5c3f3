import sys

import numpy as np
import pytest
from PIL import Image

from clipjax.config.errors import UserError
from clipjax.data.stats import Distributions
from clipjax.data.stats_plot import _log_ticks, draw

pytest.importorskip("matplotlib")


def distributions(**changes):
    rng = np.random.default_rng(0)
    numbers = {
        "width": np.exp(rng.normal(6, 1, 500)),
        "aspect": np.full(500, 1.0),
        "json score": rng.normal(0, 1, 500),
        "caption words": np.array([7.0]),
        "json $x^{$": np.zeros(3),
        "megapixels": np.array([1e-6, 1e6]),
        "json below": np.full(4, -2.0),
    }
    names = {"format": {"jpg": 3}, "language": {f"{i}$_{{$犬\n": i for i in range(1, 30)}}
    return Distributions(numbers=numbers, names=names, distinct_captions=1, bad={}, seen=1)


def test_a_picture_is_drawn_of_anything(tmp_path):
    draw(distributions(), tmp_path / "a.png", "a title with $math_{$ and 犬 and\nlines")
    image = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert image.shape[0] > 600
    assert image.shape[1] == 1600
    blue = (image == (0x48, 0x78, 0xA8)).all(-1)
    columns = np.array_split(blue, 4, axis=1)
    assert all(column.any() for column in columns)  # each panel of the first rows has bars


def test_the_same_figures_make_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        draw(distributions(), tmp_path / name, "same")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 5.0), (30.0, 700.0), (1e-3, 1e6), (0.1, 1e30), (11.0, 19.0)]
)
def test_ticks_are_few_and_inside(low, high):
    ticks = _log_ticks(low, high)
    assert len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(ticks)
    assert ticks or high / low < 2


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        draw(distributions(), tmp_path / "none" / "a.png", "")


def test_a_missing_package_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'clipjax\[plots\]'"):
        draw(distributions(), tmp_path / "a.png", "")
