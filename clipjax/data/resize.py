"""Part of an image to the size that a model sees: exact for scores, fast for training."""

import dataclasses
import math
import threading
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clipjax.config import DualEncoderConfig
from clipjax.data.crops import Box
from clipjax.data.decode import decode_shared
from clipjax.data.pillow_resize import CAN_SHARE, resized, resized_part

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationTransform:
    """How a picture becomes the square that a model sees in evaluation; the default is CLIP's.

    Pillow's antialiased filters, and the rounding of the codebase that a model comes from, so that
    every byte is the same there and here.

    Attributes:
        resize: crop: the short side is fitted and the middle kept; squash: both sides are fitted;
            pad: the long side is fitted and the rest is a border.
        interpolation: of the resizing.
        resize_side: to this side, of which the middle is kept; None for the side of the square.
        crop_offset: how the corner of the middle is rounded, see `DualEncoderConfig`.
        pad_value: of the border.
    """

    resize: Literal["crop", "squash", "pad"] = "crop"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_side: int | None = None
    crop_offset: Literal["nearest", "down"] = "nearest"
    pad_value: int = 0

    @classmethod
    def of(cls, model: DualEncoderConfig) -> "EvaluationTransform":
        """Returns the transform of a model."""
        return cls(**{field.name: getattr(model, field.name) for field in dataclasses.fields(cls)})

    def __call__(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        out: UInt8[np.ndarray, "side side 3"],
    ) -> None:
        """Writes the picture, resized, into `out`."""
        self._write(image, out)

    def of_file(
        self,
        data: bytes,
        max_pixels: int,
        out: UInt8[np.ndarray, "side side 3"],
        *,
        as_stored: bool = False,
    ) -> None:
        """Writes the picture in a file, resized, into `out`: the same, and faster.

        Args:
            data: the file.
            max_pixels: images that claim more are refused.
            out: the square.
            as_stored: see `decode.decode_shared`.

        Raises:
            BadSampleError: if it does not decode.
        """
        channels = 4 if CAN_SHARE else 3
        image = decode_shared(data, max_pixels, channels=channels, as_stored=as_stored)
        self._write(image, out)

    def _write(self, image: np.ndarray, out: np.ndarray) -> None:
        side = out.shape[0]
        height, width = image.shape[:2]
        size = self._size(width, height, self.resize_side or side)
        method = _FILTERS[self.interpolation]
        if self.resize == "pad":
            out[...] = self.pad_value
            left, top = ((side - length) // 2 for length in size)
            whole = image[..., :3] if (width, height) == size else resized(image, size, method)
            out[top : top + size[1], left : left + size[0]] = whole
            return
        left, top = (self._offset(length - side) for length in size)
        if (width, height) == size:
            out[...] = image[top : top + side, left : left + side, :3]
        else:
            resized_part(image, size, (left, top), method, out)

    def _size(self, width: int, height: int, side: int) -> tuple[int, int]:
        if self.resize == "squash":
            return side, side
        if self.resize == "crop":
            short = min(width, height)
            return side * width // short, side * height // short  # rounded down, as in torchvision
        # Divided twice and rounded half to even, as in timm: that decides a pixel of some sizes. Of
        # a very long picture timm would leave no pixel of the short side.
        ratio = max(width, height) / side
        return max(round(width / ratio), 1), max(round(height / ratio), 1)

    def _offset(self, cut: int) -> int:
        return cut // 2 if self.crop_offset == "down" else round(cut / 2)
