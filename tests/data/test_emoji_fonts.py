from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipjax.config.errors import UserError
from clipjax.data import emoji_fonts as module
from clipjax.data.emoji_fonts import find_fonts, is_blank, load_colour_font, load_drawing_font


def test_fonts_are_found_in_the_order_of_roots_then_names(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no fc-list
    for name in ("b/deep/one.ttf", "a/two.ttf", "b/two.ttf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    roots = [str(tmp_path / "b"), str(tmp_path / "a"), str(tmp_path / "none")]
    found = list(find_fonts(roots, ["two.ttf", "one.ttf"]))
    assert found == [f"{tmp_path}/{name}" for name in ("b/two.ttf", "b/deep/one.ttf", "a/two.ttf")]


def test_a_font_of_another_size_or_without_colours_is_passed_over(tmp_path, monkeypatch):
    plain = next(find_fonts(module.FONT_ROOTS, ["DejaVuSans.ttf"]), None)
    if plain is None:
        pytest.skip("no DejaVu: apt-get install fonts-dejavu-core")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "NotoColorEmoji.ttf").write_bytes(Path(plain).read_bytes())
    with pytest.raises(UserError, match="no colour emoji font"):
        load_colour_font([str(tmp_path)])
    assert load_drawing_font([str(tmp_path)]) is None


def test_trimmed_ink_fills_the_square_but_for_the_margin():
    plain = next(find_fonts(module.FONT_ROOTS, ["DejaVuSans.ttf"]), None)
    if plain is None:
        pytest.skip("no DejaVu: apt-get install fonts-dejavu-core")
    font = module.ImageFont.truetype(plain, 64)
    drawn = np.asarray(module.draw_glyph(font, "H", 50, trim=True))
    rows = np.flatnonzero(drawn.min(axis=(1, 2)) < 128)
    assert rows[0] in (1, 2, 3)
    assert rows[-1] in (46, 47, 48)
    assert is_blank(Image.new("RGB", (4, 4), "white"))
    assert not is_blank(module.draw_glyph(font, "H", 50))
