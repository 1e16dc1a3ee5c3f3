"""The pictures of a page on units: small, each there once, as many as a file of its size holds."""

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clipjax.core import html

Pixels = UInt8[np.ndarray, "height width 3"]
PictureOf = Callable[[str, int], Pixels | None]
"""The picture of a row of a facet; None where there is nothing to see."""

SIDE = 64
_QUALITIES = ((SIDE, 80), (SIDE, 50), (SIDE, 25), (48, 40), (48, 15))
_SAMPLE = 24
_EFFORT = 4


class SharedPictures:
    """Collects what a page shows and holds each different picture once.

    Args:
        picture_of: asked once for each row of a facet.
    """

    def __init__(self, picture_of: PictureOf):
        self._picture_of = picture_of
        self._name_of_row: dict[tuple[str, int], str | None] = {}
        self._name_of_content: dict[bytes, str] = {}
        self._images: dict[str, Image.Image] = {}
        self._importance: dict[str, int] = {}

    def place(self, facet: str, row: int, words: str, *, importance: int = 0) -> html.Html | None:
        """Returns a place that shows the picture of a row; None if it has none.

        Args:
            facet: name.
            row: of the facet.
            words: what is seen.
            importance: the smaller, the longer it is kept where not all have room.
        """
        name = self._name(facet, row)
        if name is None:
            return None
        self._importance[name] = min(importance, self._importance.get(name, importance))
        return html.shared_picture(name, words)

    def rules(self, most_bytes: int) -> tuple[str, int, int]:
        """Returns the rules of style that hold the pictures.

        They are as fine as their room allows, and the less important have none if they are too
        many even when coarse.

        Args:
            most_bytes: of all rules together.

        Returns:
            The rules, how many pictures they hold, and how many were left out.
        """
        names = sorted(self._images, key=lambda name: (self._importance[name], int(name[1:])))
        side, quality = self._fitting(names, most_bytes)
        rules: list[str] = []
        left = most_bytes
        for name in names:
            rule = _rule(name, self._images[name], side, quality)
            if len(rule) > left:
                break
            rules.append(rule)
            left -= len(rule)
        return "".join(rules), len(rules), len(names) - len(rules)

    def _name(self, facet: str, row: int) -> str | None:
        key = facet, row
        if key not in self._name_of_row:
            pixels = self._picture_of(facet, row)
            self._name_of_row[key] = None if pixels is None else self._keep(pixels)
        return self._name_of_row[key]

    def _keep(self, pixels: Pixels) -> str:
        image = Image.fromarray(pixels)
        image.thumbnail((SIDE, SIDE))
        content = np.array(image.size).tobytes() + image.tobytes()
        name = self._name_of_content.setdefault(content, f"p{len(self._images)}")
        self._images.setdefault(name, image)
        return name

    def _fitting(self, names: Sequence[str], most_bytes: int) -> tuple[int, int]:
        """Returns the finest side and quality with room for all, or the coarsest there is."""
        sample = names[:: max(len(names) // _SAMPLE, 1)]
        for side, quality in _QUALITIES:
            sizes = [len(_rule(name, self._images[name], side, quality)) for name in sample]
            if not sizes or np.mean(sizes) * len(names) <= most_bytes:
                return side, quality
        return _QUALITIES[-1]


def _rule(name: str, image: Image.Image, side: int, quality: int) -> str:
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=quality, method=_EFFORT)
    data = base64.b64encode(buffer.getvalue()).decode()
    return html.shared_picture_rule(name, f"data:image/webp;base64,{data}")
