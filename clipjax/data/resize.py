"""Part of an image to the square that a model sees: exact for scores, fast for training."""

import threading

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clipjax.data.crops import Box, center_crop

# Beyond these ratios of a side: linear interpolation misses pixels; so does the one to twice the
# size.
_LINEAR, _DOUBLE = 1.6, 4.0


class _Middle(threading.local):
    """Pixels at twice the size, of one thread."""

    def __init__(self):
        self.pixels = np.empty((0, 0, 3), np.uint8)

    def of_side(self, side: int) -> np.ndarray:
        if len(self.pixels) != side:
            self.pixels = np.empty((side, side, 3), np.uint8)
        return self.pixels


_middle = _Middle()


def resize_fast(image: np.ndarray, box: Box, out: UInt8[np.ndarray, "side side 3"]) -> None:
    """Writes the part `box` of `image`, resized, into `out`: for training.

    Linear interpolation where nothing is skipped by it; to twice the size and then means of 2 x 2
    where it shrinks by more; means over areas where it shrinks by a lot.
    """
    left, top, right, bottom = box
    side = out.shape[0]
    part = image[top:bottom, left:right]
    ratio = max(right - left, bottom - top) / side
    if part.shape == out.shape:
        out[...] = part
    elif ratio <= _LINEAR:
        cv2.resize(part, (side, side), dst=out, interpolation=cv2.INTER_LINEAR)
    elif ratio < _DOUBLE and min(right - left, bottom - top) >= side:
        double = _middle.of_side(2 * side)
        cv2.resize(part, (2 * side, 2 * side), dst=double, interpolation=cv2.INTER_LINEAR)
        cv2.resize(double, (side, side), dst=out, interpolation=cv2.INTER_AREA)
    else:
        shrinks = min(right - left, bottom - top) >= side
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cv2.resize(part, (side, side), dst=out, interpolation=method)


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
