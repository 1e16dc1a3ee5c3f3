"""Part of a resized picture with the bytes that Pillow gives, for less than resizing all of it.

Pillow resizes horizontally, rounds to bytes, and resizes that vertically. A part needs nothing of
rows that lie far outside of it in the first step, and only its own columns in the second. What
pixels are weighed with depends on both whole sizes, so that nothing more can be left out.
"""

import threading

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

CAN_SHARE = hasattr(Image, "fromarrow")
"""Whether Pillow takes pixels of four bytes as they are, instead of copying them (since 11.3)."""

_RADIUS = {Image.Resampling.BICUBIC: 2.0, Image.Resampling.BILINEAR: 1.0}


class _Canvas(threading.local):
    """Rows of one thread at their place in a picture, the others being of no matter."""

    def __init__(self):
        self.values = np.zeros(0, np.uint8)

    def of_shape(self, height: int, width: int, channels: int) -> np.ndarray:
        count = height * width * channels
        if len(self.values) < count:
            self.values = np.zeros(count, np.uint8)
        return self.values[:count].reshape(height, width, channels)


_canvas = _Canvas()


def resized(
    image: UInt8[np.ndarray, "height width channels"],
    size: tuple[int, int],
    method: Image.Resampling,
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Returns a whole picture in another size.

    Args:
        image: of three channels, or four of which the last is of no matter.
        size: width and height.
        method: BICUBIC or BILINEAR.
    """
    return np.asarray(_picture(image).resize(size, method))


def resized_part(
    image: UInt8[np.ndarray, "height width channels"],
    size: tuple[int, int],
    corner: tuple[int, int],
    method: Image.Resampling,
    out: UInt8[np.ndarray, "part_height part_width 3"],
) -> None:
    """Writes a part of what `resized` returns.

    Args:
        image: see `resized`.
        size: see `resized`.
        corner: left and top of the part.
        method: see `resized`.
        out: of the size of the part.
    """
    (height, width), (left, top) = out.shape[:2], corner
    if not _is_horizontal_first(image.shape[:2], size):
        out[...] = resized(image, size, method)[top : top + height, left : left + width]
        return
    first, stop = _rows_seen(len(image), size[1], top, top + height, _RADIUS[method])
    rows = _picture(image[first:stop]).resize((size[0], stop - first), method)
    if size[1] == len(image):
        _copy(rows, 0, left, out)
        return
    if stop - first == len(image):
        columns = rows if size[0] == width else rows.crop((left, 0, left + width, len(image)))
    else:
        canvas = _canvas.of_shape(len(image), width, 4 if CAN_SHARE else 3)
        _copy(rows, 0, left, canvas[first:stop])
        columns = _picture(canvas)
    _copy(columns.resize((width, size[1]), method), top, 0, out)


def _is_horizontal_first(shape: tuple[int, int], size: tuple[int, int]) -> bool:
    """Returns whether every version of Pillow resizes horizontally first.

    Those before 13 always do; 13 does not where the height loses over twice as many pixels.
    """
    height, width = shape
    return height <= size[1] or height - size[1] < 2 * (width - size[0])


def _rows_seen(
    height: int, new_height: int, top: int, bottom: int, radius: float
) -> tuple[int, int]:
    """Returns the first row, and the one behind the last, that rows of the result depend on."""
    if new_height == height:
        return top, bottom
    scale = height / new_height
    reach = radius * max(scale, 1.0) + 1
    first, last = (top + 0.5) * scale - reach, (bottom - 0.5) * scale + reach
    return max(int(first), 0), min(int(last) + 1, height)


def _picture(image: np.ndarray) -> Image.Image:
    """Returns a picture of these pixels, which must not change while it is used."""
    height, width, channels = image.shape
    if channels == 3:
        return Image.fromarray(np.ascontiguousarray(image))
    import pyarrow as pa

    pixels = pa.Array.from_buffers(pa.uint8(), image.size, [None, pa.py_buffer(image)])
    return Image.fromarrow(pa.FixedSizeListArray.from_arrays(pixels, 4), "RGB", (width, height))


def _copy(image: Image.Image, top: int, left: int, out: np.ndarray) -> None:
    """Writes a part of a picture; of four channels the last is of no matter."""
    height, width, channels = out.shape
    pixels = _shared(image)
    if pixels is None:
        out[..., :3] = np.asarray(image)[top : top + height, left : left + width]
        return
    pixels = pixels[top : top + height, left : left + width]
    if channels == 4:
        out[...] = pixels
    else:
        cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB, dst=out)


def _shared(image: Image.Image) -> np.ndarray | None:
    """Returns the pixels of a picture, of four bytes, where they lie; None if they cannot be had.

    Large ones cannot, which Pillow keeps in pieces.
    """
    if not CAN_SHARE:
        return None
    import pyarrow as pa

    try:
        return pa.array(image).values.to_numpy().reshape(image.height, image.width, 4)
    except ValueError:
        return None
