"""Finds the fonts that emoji are drawn with, and draws one glyph of them on a white square."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont, features

from clipjax.config.errors import UserError

FONT_ROOTS = (
    "/usr/share/fonts/truetype/noto",
    "/usr/share/fonts/truetype/ancient-scripts",
    "/usr/share/fonts/truetype/dejavu",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
)
COLOUR_FONTS = ("NotoColorEmoji.ttf",)
DRAWING_FONTS = ("Symbola_hint.ttf", "Symbola.ttf", "Symbola.otf")
INSTALL = "apt-get install fonts-noto-color-emoji fonts-symbola unicode-cldr-core unicode-data"

Font = ImageFont.FreeTypeFont

_COLOUR_PIXELS = 109  # the only size that the bitmaps of NotoColorEmoji have
_DRAWING_PIXELS = 128
_MARGIN = 0.04  # of the larger side, on each side


def load_colour_font(roots: Sequence[str]) -> Font:
    """Returns the font of coloured emoji.

    Raises:
        UserError: if there is none, or Pillow cannot join emoji of several code points.
    """
    if not features.check("raqm"):
        raise UserError(
            "Pillow: has no Raqm text layout, wanted for emoji of several code points. Install "
            "FriBiDi, which Pillow's wheels load for it: apt-get install libfribidi0"
        )
    for path in find_fonts(roots, COLOUR_FONTS):
        try:
            colour = ImageFont.truetype(path, _COLOUR_PIXELS, layout_engine=ImageFont.Layout.RAQM)
        except OSError:  # no bitmaps of this size: another build of the font
            continue
        if _is_coloured(draw_glyph(colour, "\U0001f600", 32)):
            return colour
    raise UserError(
        f"no colour emoji font: looked for {', '.join(COLOUR_FONTS)} (the build with bitmaps) "
        f"in {', '.join(roots)} and in fc-list. Install it: {INSTALL}. "
        "`clipjax data digits` makes pairs that need no font."
    )


def load_drawing_font(roots: Sequence[str]) -> Font | None:
    """Returns the font of line drawings, if there is one."""
    path = next(find_fonts(roots, DRAWING_FONTS), None)
    return ImageFont.truetype(path, _DRAWING_PIXELS) if path else None


def find_fonts(roots: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Yields the paths of files with one of `names` below `roots`, then those of `fc-list`."""
    for root in roots:
        for name in names:
            yield from map(str, sorted(Path(root).expanduser().rglob(name)))
    if shutil.which("fc-list"):
        listing = subprocess.run(["fc-list", ":", "file"], capture_output=True, text=True)
        for line in sorted(listing.stdout.splitlines()):
            path = line.strip().removesuffix(":")
            if Path(path).name in names:
                yield path


def draw_glyph(font: Font, text: str, size: int, *, trim: bool = False) -> Image.Image:
    """Draws on white at the font's own size, centres, and scales to size x size pixels.

    With `trim` the ink is fitted into the square; without, the box that all glyphs of a bitmap
    font share, so that a small square stays smaller than a large one.
    """
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    native = Image.new("RGB", (max(right - left, 1), max(bottom - top, 1)), "white")
    ImageDraw.Draw(native).text((-left, -top), text, "black", font, embedded_color=True)
    if trim:
        native = native.crop(ImageChops.invert(native).getbbox())
    side = round(max(native.size) * (1 + 2 * _MARGIN))
    square = Image.new("RGB", (side, side), "white")
    square.paste(native, ((side - native.width) // 2, (side - native.height) // 2))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def is_blank(image: Image.Image) -> bool:
    """Says whether a picture is white all over."""
    return ImageChops.invert(image).getbbox() is None


def _is_coloured(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return ImageChops.difference(red, blue).getbbox() is not None or red != green
