"""Part of an image to the size that a model sees: exact for scores, fast for training."""

import math
import threading

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clipjax.data.crops import Box, center_crop

# Beyond these ratios linear interpolation misses too many pixels: of the sides on average and of
# the longer one; and of the longer one in the step to twice the size.
_LINEAR, _LINEAR_SIDE, _DOUBLE = 1.8, 2.3, 4.0


class _Middle(threading.local):
    """Pixels at twice the size, of one thread."""

    def __init__(self):
        self.values = np.empty(0, np.uint8)

    def of_size(self, width: int, height: int) -> np.ndarray:
        count = 3 * width * height
        if len(self.values) < count:
            self.values = np.empty(count, np.uint8)
        return self.values[:count].reshape(height, width, 3)


_middle = _Middle()


def resize_fast(image: np.ndarray, box: Box, out: UInt8[np.ndarray, "height width 3"]) -> None:
    """Writes the part `box` of `image`, resized, into `out`: for training.

    Linear interpolation where nothing is skipped by it; to twice the size and then means of 2 x 2
    where it shrinks by more; means over areas where it shrinks by a lot.
    """
    left, top, right, bottom = box
    height, width = out.shape[:2]
    part = image[top:bottom, left:right]
    by_width, by_height = (right - left) / width, (bottom - top) / height
    most = max(by_width, by_height)
    shrinks = right - left >= width and bottom - top >= height
    if part.shape == out.shape:
        out[...] = part
    elif math.sqrt(by_width * by_height) <= _LINEAR and most <= _LINEAR_SIDE:
        cv2.resize(part, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
    elif most < _DOUBLE and shrinks:
        double = _middle.of_size(2 * width, 2 * height)
        cv2.resize(part, (2 * width, 2 * height), dst=double, interpolation=cv2.INTER_LINEAR)
        cv2.resize(double, (width, height), dst=out, interpolation=cv2.INTER_AREA)
    else:
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cv2.resize(part, (width, height), dst=out, interpolation=method)


def resize_bicubic(image: np.ndarray, box: Box, out: UInt8[np.ndarray, "side side 3"]) -> None:
    """Writes the part `box` of `image` into `out` with Pillow's antialiased bicubic filter."""
    side = out.shape[0]
    left, top, right, bottom = box
    part = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    out[...] = np.asarray(part.resize((side, side), Image.Resampling.BICUBIC))


def resize_exact(image: np.ndarray, out: UInt8[np.ndarray, "side side 3"]) -> None:
    """Writes the centre of `image`, resized, into `out`: CLIP's evaluation transform.

    Pillow's antialiased bicubic filter to the short side, then the central square.
    """
    side = out.shape[0]
    height, width = image.shape[:2]
    if height == width == side:
        out[...] = image
        return
    short = min(width, height)
    size = (side * width // short, side * height // short)  # rounded down, as in torchvision
    if (width, height) != size:
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    left, top, _, _ = center_crop(*size)
    out[...] = image[top : top + side, left : left + side]
