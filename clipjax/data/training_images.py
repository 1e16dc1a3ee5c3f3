"""How an image becomes a row of a training batch: exact, fast, or half done for the device."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from clipjax.config import DataConfig
from clipjax.data.crops import Box, random_resized_crop
from clipjax.data.decode import decode_image, decode_jpeg, jpeg_orientation, jpeg_size, upright
from clipjax.data.resize import resize_bicubic, resize_fast

Lap = Callable[[str], None]
"""Told which stage has just ended."""

_FACTORS = (8, 4, 2)
# Keep a little more than what the model sees: a transform of half the size is no perfect filter.
_MARGIN = 1.1


@runtime_checkable
class TrainingImages(Protocol):
    """Fills the image part of a row."""

    row_spec: Mapping[str, tuple[tuple[int, ...], np.dtype]]

    def __call__(
        self, data: bytes, draws: np.ndarray, row: Mapping[str, np.ndarray], lap: Lap
    ) -> None:
        """Decodes a file into the row.

        Args:
            data: the file.
            draws: 40 numbers in [0, 1), for the crop.
            row: one row of every buffer.
            lap: told when "decode" and "resize" have ended.

        Raises:
            BadSampleError: if the image cannot be used.
        """
        ...

    def picture(self, row: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns what the model sees of a row, uint8 [side, side, 3], for people."""
        ...


@dataclasses.dataclass(frozen=True)
class _Crop:
    config: DataConfig

    def __call__(self, draws: np.ndarray, width: int, height: int) -> Box:
        return random_resized_crop(
            draws, width, height, self.config.crop_scale, self.config.crop_ratio
        )


class ExactImages:
    """Pillow's antialiased bicubic filter on the crop; what the other modes are measured by."""

    def __init__(self, config: DataConfig, image_size: int):
        self.row_spec = {"images": ((image_size, image_size, 3), np.dtype(np.uint8))}
        self._crop, self._max_pixels = _Crop(config), config.max_image_pixels

    def __call__(
        self, data: bytes, draws: np.ndarray, row: Mapping[str, np.ndarray], lap: Lap
    ) -> None:
        """Decodes a file into the row."""
        image = decode_image(data, self._max_pixels)
        lap("decode")
        resize_bicubic(image, self._crop(draws, image.shape[1], image.shape[0]), row["images"])
        lap("resize")

    def picture(self, row: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns what the model sees of a row."""
        return row["images"]


class FastImages:
    """Decodes at the smallest size that still covers the crop; OpenCV does the rest.

    The crop is random, so it is moved to where the smaller transform has whole pixels.
    """

    def __init__(self, config: DataConfig, image_size: int):
        self.row_spec = {"images": ((image_size, image_size, 3), np.dtype(np.uint8))}
        self._crop, self._max_pixels = _Crop(config), config.max_image_pixels
        self._side = image_size

    def __call__(
        self, data: bytes, draws: np.ndarray, row: Mapping[str, np.ndarray], lap: Lap
    ) -> None:
        """Decodes a file into the row."""
        image, box = decode_crop(data, draws, self._crop, self._side, self._max_pixels, coarse=True)
        lap("decode")
        resize_fast(image, box, row["images"])
        lap("resize")

    def picture(self, row: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns what the model sees of a row."""
        return row["images"]


class DeviceImages:
    """Whole images on a canvas, and the crop as four numbers: the device crops and resizes.

    What does not fit on the canvas is cropped, and if need be shrunk, before.
    """

    def __init__(self, config: DataConfig, image_size: int):
        canvas = config.canvas_size
        self.row_spec = {
            "canvas": ((canvas, canvas, 3), np.dtype(np.uint8)),
            "boxes": ((4,), np.dtype(np.float32)),
        }
        self._crop, self._max_pixels = _Crop(config), config.max_image_pixels
        self._side, self._canvas = image_size, canvas

    def __call__(
        self, data: bytes, draws: np.ndarray, row: Mapping[str, np.ndarray], lap: Lap
    ) -> None:
        """Decodes a file into the row."""
        canvas, size = row["canvas"], jpeg_size(data, self._max_pixels)
        if size is not None and max(size) <= self._canvas and jpeg_orientation(data) == 1:
            box = self._crop(draws, *size)
            width, height = size
            if width == self._canvas:  # its rows lie as those of the canvas do
                decode_jpeg(data, 1, size, canvas[:height])
                lap("decode")
            else:
                image = decode_jpeg(data, 1, size)
                lap("decode")
                canvas[:height, :width] = image
        else:
            image, box = decode_crop(data, draws, self._crop, self._side, self._max_pixels)
            lap("decode")
            box = self._fit(image, box, canvas)
        row["boxes"][...] = box
        lap("resize")

    def picture(self, row: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns what the model sees of a row."""
        out = np.empty((self._side, self._side, 3), np.uint8)
        left, top, right, bottom = map(int, row["boxes"])
        resize_bicubic(row["canvas"], (left, top, right, bottom), out)
        return out

    def _fit(self, image: np.ndarray, box: Box, canvas: np.ndarray) -> Box:
        left, top, right, bottom = box
        part = image[top:bottom, left:right]
        height, width = part.shape[:2]
        if max(height, width) > self._canvas:
            scale = self._canvas / max(height, width)
            width, height = max(1, round(width * scale)), max(1, round(height * scale))
            part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        canvas[:height, :width] = part
        return 0, 0, width, height


MODES = {"exact": ExactImages, "fast": FastImages, "device": DeviceImages}


def decode_crop(
    data: bytes,
    draws: np.ndarray,
    crop: Callable[[np.ndarray, int, int], Box],
    side: int,
    max_pixels: int,
    *,
    coarse: bool = False,
) -> tuple[np.ndarray, Box]:
    """Returns pixels, in memory that the thread's next call overwrites, and the crop in them.

    Args:
        data: the file.
        draws: 40 numbers in [0, 1), for the crop.
        crop: (draws, width, height) -> box.
        side: pixels that the crop must have at least after it was shrunk while decoding.
        max_pixels: images that claim more are refused.
        coarse: see `decode_jpeg`.

    Raises:
        BadSampleError: if the image cannot be used.
    """
    size = jpeg_size(data, max_pixels)
    if size is None:
        image = decode_image(data, max_pixels)
        return image, crop(draws, image.shape[1], image.shape[0])
    orientation = jpeg_orientation(data)
    if orientation != 1:
        image = upright(decode_jpeg(data, 1, size), orientation)
        return image, crop(draws, image.shape[1], image.shape[0])
    box = crop(draws, *size)
    factor = shrink_factor(box, side)
    return decode_jpeg(data, factor, size, coarse=coarse), snap(box, factor, *size)


def shrink_factor(box: Box, side: int) -> int:
    """Returns by how much an image may be shrunk while decoding: 1, 2, 4 or 8.

    >>> shrink_factor((0, 0, 600, 500), 224), shrink_factor((0, 0, 400, 300), 224)
    (2, 1)
    """
    shorter = min(box[2] - box[0], box[3] - box[1])
    return next((f for f in _FACTORS if shorter >= f * _MARGIN * side), 1)


def snap(box: Box, factor: int, width: int, height: int) -> Box:
    """Returns the box in the image that was shrunk by `factor`, moved to whole pixels of it.

    Args:
        box: in the image as stored.
        factor: of `decode_jpeg`.
        width: of the image as stored.
        height: of the image as stored.
    """
    if factor == 1:
        return box
    left, top = box[0] // factor, box[1] // factor
    # Not the last column or row if it stands for less than `factor` pixels.
    right = min(left + round((box[2] - box[0]) / factor), width // factor)
    bottom = min(top + round((box[3] - box[1]) / factor), height // factor)
    return left, top, right, bottom
