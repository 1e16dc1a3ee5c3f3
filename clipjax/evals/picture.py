"""One picture that shows what a model finds: images with their nearest captions."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clipjax.evals.protocol import Encoders
from clipjax.evals.retrieval import Retrieval

_CELL, _COLUMNS, _ROWS, _TEXT_WIDTH = 112, 3, 6, 250
_RIGHT, _WRONG = (0, 110, 50), (150, 40, 30)


class _Some:
    """A few pictures of a task, also kept for drawing."""

    def __init__(self, task: Retrieval, chosen: np.ndarray):
        self._task, self._chosen = task, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def fill(self, index: int, out: np.ndarray) -> None:
        self._task.images.fill(int(self._chosen[index]), out)


def draw_retrieval(task: Retrieval, encode: Encoders, side: int) -> Image.Image:
    """Returns a sheet of pictures, each with its three nearest captions, the right one in green.

    Args:
        task: the pictures are spread evenly over it.
        encode: of the model.
        side: pixels that the model sees.
    """
    count = min(_COLUMNS * _ROWS, len(task.images))
    chosen = np.unique(np.linspace(0, len(task.images) - 1, count).astype(int))
    some = _Some(task, chosen)
    texts: list[str] = list(dict.fromkeys([*task.captions, *task.candidates]))
    similarity = encode.images(some) @ encode.texts(texts).T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :3]
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    width, height = columns * (_CELL + _TEXT_WIDTH), rows * _CELL + 40
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    draw.text((8, 10), f"nearest of {len(texts):,} captions; green is right", "black", font)
    for i, example in enumerate(map(int, chosen)):
        left = i % columns * (_CELL + _TEXT_WIDTH)
        top = 40 + i // columns * _CELL
        pixels = np.empty((side, side, 3), np.uint8)
        some.fill(i, pixels)
        scaled = Image.fromarray(pixels).resize((_CELL - 12, _CELL - 12), Image.Resampling.NEAREST)
        sheet.paste(scaled, (left + 6, top + 6))
        for line, text in enumerate(nearest[i]):
            found = texts[int(text)]
            right = found == task.captions[example]
            caption = textwrap.shorten(found, 34, placeholder="…")
            draw.text(
                (left + _CELL + 2, top + 10 + 22 * line),
                f"{similarity[i, text]:.2f}  {caption}",
                _RIGHT if right else _WRONG,
                small,
            )
        truth = textwrap.shorten(task.captions[example], 34, placeholder="…")
        draw.text((left + _CELL + 2, top + 82), f"is:  {truth}", (110, 110, 110), small)
    return sheet
