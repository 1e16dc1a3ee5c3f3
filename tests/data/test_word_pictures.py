import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.emoji_fonts import FONT_ROOTS, find_fonts
from clipjax.data.word_pictures import (
    _CONTRAST,
    _LUMINANCE,
    WORD_FONTS,
    WordPainter,
    _box,
    contrasting,
    number_of,
    scrambled,
)

WORDS = st.lists(st.text("abcdeé", min_size=1, max_size=9), min_size=1, max_size=6).map(" ".join)


@pytest.fixture(scope="module")
def painter():
    if next(find_fonts(FONT_ROOTS, WORD_FONTS), None) is None:
        pytest.skip("no font for words: apt-get install fonts-dejavu-core")
    return WordPainter(FONT_ROOTS, 64, 0)


def ink_box(picture):
    pixels = np.asarray(picture).astype(int)
    corner = pixels[0, 0]
    rows, columns = np.nonzero(np.abs(pixels - corner).sum(axis=2) > 60)
    return rows.min(), rows.max(), columns.min(), columns.max()


@settings(max_examples=50, deadline=None)
@given(text=WORDS, view=st.integers(0, 3))
def test_all_words_fit_at_the_largest_size(painter, text, view):
    words = text.split()
    layout = painter._layout([words])
    assert [word for line in layout.lines for word in words[line]] == words
    block = "\n".join(" ".join(words[line]) for line in layout.lines)
    left, top, right, bottom = _box(painter._font(max(int(layout.pixels), 5)), block)
    assert right - left <= 64
    assert bottom - top <= 64
    pixels = np.asarray(painter.draw([text], f"{text}:{view}")[0])
    assert pixels.shape == (64, 64, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) >= 2


def test_a_long_name_is_broken_into_lines_and_fits(painter):
    text = "person in manual wheelchair facing right"
    for view in range(8):
        top, bottom, left, right = ink_box(painter.draw([text], str(view))[0])
        assert bottom - top > 20  # several lines
        assert right - left > 20
        assert 0 <= top < bottom <= 63


def test_pictures_follow_from_seed_and_key_alone(painter):
    again = WordPainter(FONT_ROOTS, 64, 0)
    other = WordPainter(FONT_ROOTS, 64, 1)
    drawn = [p.draw(["cat"], "k")[0].tobytes() for p in (painter, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert painter.draw(["cat"], "l")[0].tobytes() != drawn[0]


def test_scrambled_letters_lie_where_the_words_lay(painter):
    heights, gaps = [], []
    for view in range(20):
        word, letters = painter.draw(["hand clock", "nadh olkcc"], str(view))
        corner = [np.asarray(p).reshape(-1, 3) for p in (word, letters)]
        shared = set(map(tuple, corner[0])) & set(map(tuple, corner[1]))
        assert len(shared) >= 2  # the same ink on the same paper
        boxes = np.array([ink_box(p) for p in (word, letters)])
        gaps.append(np.abs(boxes[0] - boxes[1]).max())
        heights.append(boxes[0][1] - boxes[0][0])
    assert max(gaps) <= 5
    assert len(set(heights)) > 4  # sizes differ


def test_places_are_all_over_the_picture(painter):
    boxes = np.array([ink_box(painter.draw(["cat"], str(view))[0]) for view in range(60)])
    centres = boxes.reshape(-1, 2, 2).mean(axis=2)
    assert np.ptp(centres, axis=0).min() > 25


def test_without_a_font_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no font for words.*apt-get install fonts-dejavu-core"):
        WordPainter([str(tmp_path)], 32, 0)


@given(WORDS, st.integers(0, 5))
def test_scrambling_keeps_the_letters_of_each_word(text, seed):
    changed = scrambled(text, seed, ())
    assert changed == scrambled(text, seed, ())
    if changed is None:
        assert all(len(set(word)) == 1 for word in text.split())
        return
    pairs = list(zip(text.split(), changed.split(), strict=True))
    assert all(sorted(word) == sorted(other) for word, other in pairs)
    assert all(word != other for word, other in pairs if len(set(word)) > 1)


def test_no_known_word_comes_out_where_that_can_be():
    orders = {"".join(order) for order in itertools.permutations("dgo")}
    for seed in range(30):
        found = scrambled("dog", seed, orders - {"gdo", "dgo"})
        assert found == "gdo"  # both are free, but in this one three letters moved, not two
        assert scrambled("on", seed, {"no"}) == "no"  # there is no other order
    assert scrambled("A", 0, ()) is None
    assert scrambled("o'clock!", 0, ())[1] == "'"
    assert scrambled("o'clock!", 0, ())[-1] == "!"
    assert len({scrambled("elephant", seed, ()) for seed in range(10)}) > 5


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_ink_can_be_seen(draws):
    ink, paper = contrasting(np.array(draws[:3]), np.array(draws[3:]))
    assert all(0 <= channel <= 255 for channel in (*ink, *paper))
    assert abs(_LUMINANCE @ ink - _LUMINANCE @ paper) >= 255 * _CONTRAST - 1


def test_numbers_of_keys_stay_what_they_are():
    assert number_of("1F431:0") == 0x41AE4820D89830F4


def test_spread_and_smallest_bound_where_and_how_large_words_are(painter):
    """Heights of ink differ by the sizes of letters; without spread its middle is the square's."""
    still = WordPainter(FONT_ROOTS, 64, 0, smallest=1.0, spread=0.0)
    moving = WordPainter(FONT_ROOTS, 64, 0, smallest=1.0, spread=0.5)
    heights, middles = set(), {"still": [], "moving": [], "free": []}
    for view in range(20):
        for name, one in (("still", still), ("moving", moving), ("free", painter)):
            (mask,) = one.masks(["dog"], f"dog:{view}")
            rows = np.flatnonzero(np.asarray(mask).any(axis=1))
            middles[name].append((rows[0] + rows[-1] + 1) / 2)
            if name != "free":
                heights.add(len(rows))
    assert len(heights) == 1
    assert np.abs(np.array(middles["still"]) - 32).max() <= 1
    room = (64 - heights.pop()) / 2
    assert 1 < np.abs(np.array(middles["moving"]) - 32).max() <= room / 2 + 1
    assert np.abs(np.array(middles["free"]) - 32).max() > room / 2 + 1
