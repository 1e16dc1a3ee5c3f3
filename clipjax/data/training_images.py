"""How an image becomes a row of a training batch: exact, fast, or half done for the device."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from clipjax.config import DataConfig
from clipjax.config.image_towers import ImageConfig
from clipjax.data.crops import Box
from clipjax.data.decode import decode_image, decode_jpeg, jpeg_orientation, jpeg_size
from clipjax.data.decode_crop import RandomCrop, decode_crop
from clipjax.data.naflex import NaFlexImages
from clipjax.data.resize import resize_bicubic, resize_fast

RowSpec = Mapping[str, tuple[tuple[int, ...], np.dtype]]
"""Shape and dtype of a row of each buffer of a batch."""
Lap = Callable[[str], None]
"""Told which stage has just ended."""


@runtime_checkable
class TrainingImages(Protocol):
    """Fills the image part of a row."""

    row_spec: RowSpec

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


class ExactImages:
    """Pillow's antialiased bicubic filter on the crop; what the other modes are measured by."""

    def __init__(self, config: DataConfig, image: ImageConfig):
        self.row_spec = _square(image.image_size)
        self._crop, self._max_pixels = RandomCrop(config), config.max_image_pixels

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

    def __init__(self, config: DataConfig, image: ImageConfig):
        self.row_spec = _square(image.image_size)
        self._crop, self._max_pixels = RandomCrop(config), config.max_image_pixels
        self._side = image.image_size

    def __call__(
        self, data: bytes, draws: np.ndarray, row: Mapping[str, np.ndarray], lap: Lap
    ) -> None:
        """Decodes a file into the row."""
        image, box = decode_crop(
            data, draws, self._crop, lambda _: self._side, self._max_pixels, coarse=True
        )
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

    def __init__(self, config: DataConfig, image: ImageConfig):
        canvas = config.canvas_size
        self.row_spec: RowSpec = {
            "canvas": ((canvas, canvas, 3), np.dtype(np.uint8)),
            "boxes": ((4,), np.dtype(np.float32)),
        }
        self._crop, self._max_pixels = RandomCrop(config), config.max_image_pixels
        self._side, self._canvas = image.image_size, canvas

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
            image, box = decode_crop(
                data, draws, self._crop, lambda _: self._side, self._max_pixels
            )
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


MODES: Mapping[str, Callable[[DataConfig, ImageConfig], TrainingImages]] = {
    "exact": ExactImages,
    "fast": FastImages,
    "device": DeviceImages,
    "naflex": NaFlexImages,
}


def row_spec(data: DataConfig, image: ImageConfig, context_length: int) -> RowSpec:
    """Returns what one pair is in a batch: shape and dtype of its row of each buffer.

    Args:
        data: how images become rows.
        image: the tower that reads them.
        context_length: tokens of a text.

    Raises:
        UsageError: if the tower cannot read images of this mode.
    """
    images = MODES[data.image_mode](data, image)
    hashes: RowSpec = {"image_hashes": ((), np.dtype(np.int32))} if data.equal_images else {}
    return {**images.row_spec, **hashes, "tokens": ((context_length,), np.dtype(np.int32))}


def _square(side: int) -> RowSpec:
    return {"images": ((side, side, 3), np.dtype(np.uint8))}
