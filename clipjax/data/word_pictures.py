"""Draws written words in a plain font, and the same letters in an order that says nothing."""

import functools
import hashlib
import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clipjax.config.errors import UserError
from clipjax.data.emoji_fonts import Font, find_fonts
from clipjax.data.keyed import uniforms

WORD_FONTS = ("DejaVuSans.ttf",)

_MEASURED_PIXELS = 100  # size at which lines are measured
_FILLED = 0.92  # of the square, by the largest words
_TALLEST = 0.45  # of the square: the size of the letters
_SMALLEST_PIXELS = 5
_CONTRAST = 0.4  # of luminance, which runs from 0 to 1
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_ORDERS = 64  # that are tried for a scrambled word
_PLACES, _SCRAMBLES, _COLOURS = 31, 32, 34  # streams of random numbers


class _Layout(NamedTuple):
    lines: list[slice]  # of the words
    pixels: float  # the largest size of letters at which they fit


class WordPainter:
    """Draws words at a place, in a size and in colours that follow from keys alone.

    Args:
        roots: folders to search for the font.
        size: side of the square pictures in pixels.
        seed: of all random choices.
        smallest: size of letters, as a share of the largest that fits.
        spread: how much of the free room words are spread over, about the middle; 0 to 1.

    Raises:
        UserError: if there is no font.
    """

    def __init__(
        self,
        roots: Sequence[str],
        size: int,
        seed: int,
        *,
        smallest: float = 0.6,
        spread: float = 1.0,
    ):
        path = next(find_fonts(roots, WORD_FONTS), None)
        if path is None:
            raise UserError(
                f"no font for words: looked for {', '.join(WORD_FONTS)} in {', '.join(roots)} and "
                "in fc-list. Install it: apt-get install fonts-dejavu-core."
            )
        self._size, self._seed = size, seed
        self._smallest, self._spread = smallest, spread
        self._font = functools.cache(lambda pixels: ImageFont.truetype(path, pixels))

    def draw(self, texts: Sequence[str], key: str) -> list[Image.Image]:
        """Draws texts of equally many words, each on a square of its own, all in the same way.

        Args:
            texts: e.g. a name and the same name with scrambled letters.
            key: what place, size and colours follow from.
        """
        draws = uniforms(self._seed, number_of(key), _COLOURS, 6)
        ink, paper = contrasting(draws[:3], draws[3:])
        square = (self._size, self._size)
        inks, papers = Image.new("RGB", square, ink), Image.new("RGB", square, paper)
        return [Image.composite(inks, papers, mask) for mask in self.masks(texts, key)]

    def masks(self, texts: Sequence[str], key: str) -> list[Image.Image]:
        """Returns where the ink of `draw` is: grey pictures, 255 where it covers all."""
        draws = uniforms(self._seed, number_of(key), _PLACES, 3)
        split = [text.split() for text in texts]
        layout = self._layout(split)
        largest = min(layout.pixels, _TALLEST * self._size)
        pixels = max(
            int(largest * (self._smallest + (1 - self._smallest) * draws[0])), _SMALLEST_PIXELS
        )
        font = self._font(pixels)
        blocks = ["\n".join(" ".join(words[line]) for line in layout.lines) for words in split]
        boxes = [_box(font, block) for block in blocks]
        # One place for all, at which the widest fits.
        width, height = (max(box[i + 2] - box[i] for box in boxes) for i in (0, 1))
        along, down = 0.5 + self._spread * (draws[1:] - 0.5)
        left = along * max(self._size - width, 0)
        top = down * max(self._size - height, 0)
        masks = []
        for block, box in zip(blocks, boxes, strict=True):
            mask = Image.new("L", (self._size, self._size))
            place = (round(left - box[0]), round(top - box[1]))
            ImageDraw.Draw(mask).multiline_text(place, block, 255, font, spacing=0, align="center")
            masks.append(mask)
        return masks

    def _layout(self, texts: Sequence[Sequence[str]]) -> _Layout:
        """Returns the lines at which the letters can be largest, for the widest of `texts`."""
        font = self._font(_MEASURED_PIXELS)
        widths = [
            max(font.getlength(words[i]) for words in texts)  # of all texts' i-th words
            for i in range(len(texts[0]))
        ]
        blank = font.getlength(" ")
        height = sum(font.getmetrics())
        room = _FILLED * self._size * _MEASURED_PIXELS
        best = _Layout([], 0.0)
        runs = itertools.combinations(range(len(widths) + 1), 2)
        for limit in sorted({_width(widths[a:b], blank) for a, b in runs}):
            if limit < max(widths):
                continue
            lines = _wrapped(widths, blank, limit)
            widest = max(_width(widths[line], blank) for line in lines)
            pixels = min(room / widest, room / (height * len(lines)))
            if pixels > best.pixels:
                best = _Layout(lines, pixels)
        return best


def scrambled(text: str, seed: int, avoid: Collection[str]) -> str | None:
    """Returns a text with the letters of each word in another order.

    What is not a letter stays where it is. As many letters as can be move, and no word of `avoid`
    comes out where that can be.

    Args:
        text: of one or more words.
        seed: of the order.
        avoid: words in lower case that must not come out, e.g. all that are known.

    Returns:
        The text, or None if it cannot be changed, as "A".

    >>> sorted(scrambled("dog", 0, ["god"]))
    ['d', 'g', 'o']
    """
    words = [_scrambled_word(word, seed, avoid) for word in text.split()]
    changed = " ".join(words)
    return changed if changed.lower() != " ".join(text.lower().split()) else None


def contrasting(ink: np.ndarray, paper: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns two colours as bytes; ink that is hard to see becomes black or white.

    >>> contrasting(np.array([0.4, 0.5, 0.4]), np.array([0.6, 0.6, 0.6]))
    ((0, 0, 0), (153, 153, 153))
    """
    light = float(_LUMINANCE @ paper)
    if abs(float(_LUMINANCE @ ink) - light) < _CONTRAST:
        ink = np.zeros(3) if light >= 0.5 else np.ones(3)
    return _bytes(ink), _bytes(paper)


def number_of(key: str) -> int:
    """Returns a number of 64 bits for a text, the same everywhere."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def _bytes(colour: np.ndarray) -> tuple[int, ...]:
    return tuple(int(channel) for channel in np.rint(255 * colour))


def _scrambled_word(word: str, seed: int, avoid: Collection[str]) -> str:
    places = [place for place, mark in enumerate(word) if mark.isalpha()]
    draws = uniforms(seed, number_of(word), _SCRAMBLES, _ORDERS * max(len(places), 1))
    best, best_score = word, (False, False, 0)
    for order in np.argsort(draws.reshape(_ORDERS, -1), axis=1, kind="stable"):
        marks = list(word)
        for place, source in zip(places, order, strict=False):
            marks[place] = word[places[source]]
        found = "".join(marks)
        moved = sum(a != b for a, b in zip(found.lower(), word.lower(), strict=True))
        score = (moved > 0, moved > 0 and found.lower() not in avoid, moved)
        if score > best_score:
            best, best_score = found, score
    return best


def _width(widths: Sequence[float], blank: float) -> float:
    return sum(widths) + blank * (len(widths) - 1)


def _wrapped(widths: Sequence[float], blank: float, limit: float) -> list[slice]:
    lines, first = [], 0
    for last in range(1, len(widths) + 1):
        if last == len(widths) or _width(widths[first : last + 1], blank) > limit:
            lines.append(slice(first, last))
            first = last
    return lines


def _box(font: Font, block: str) -> tuple[int | float, ...]:
    """Returns the left, top, right and bottom of the ink."""
    canvas = ImageDraw.Draw(Image.new("L", (1, 1)))
    return canvas.multiline_textbbox((0, 0), block, font, spacing=0, align="center")
