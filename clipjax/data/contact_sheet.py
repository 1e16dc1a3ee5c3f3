"""Pictures side by side, each with a line of text under it."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MARGIN, _LINES, _LEAST = 6, 3, 120
_MOST_CHARACTERS = 2000  # more would not fit, and measuring takes the square of their number


def contact_sheet(pictures: Sequence[np.ndarray | None], texts: Sequence[str]) -> Image.Image:
    """Returns one picture with all of them; those that are None stay grey.

    Args:
        pictures: uint8 [side, side, 3].
        texts: one a picture, cut to three lines.
    """
    sides = [picture.shape[0] for picture in pictures if picture is not None]
    side = max([_LEAST, *sides])
    font = ImageFont.load_default(12)
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    cell, line = side + 2 * _MARGIN, 15
    height = cell + _LINES * line
    sheet = Image.new("RGB", (columns * cell, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        left, top = i % columns * cell + _MARGIN, i // columns * height + _MARGIN
        if picture is None:
            draw.rectangle((left, top, left + side, top + side), "lightgrey")
        else:
            tile = Image.fromarray(picture)
            sheet.paste(tile.resize((side, side), Image.Resampling.NEAREST), (left, top))
        for number, part in enumerate(_wrapped(text, side, font)):
            draw.text((left, top + side + 2 + number * line), part, "black", font)
    return sheet


def _wrapped(
    text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
    lines, line = [], ""
    for character in " ".join(text[:_MOST_CHARACTERS].split()):
        if font.getlength(line + character) > width:
            lines.append(line)
            line = ""
        line += character
    lines.append(line)
    return lines[:_LINES]
