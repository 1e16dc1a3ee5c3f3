"""A decoded image and the random crop in it, shrunk while decoding where the crop allows it."""

import dataclasses
from collections.abc import Callable

import numpy as np

from clipjax.config import DataConfig
from clipjax.data.crops import Box, random_resized_crop
from clipjax.data.decode import decode_image, decode_jpeg, jpeg_orientation, jpeg_size, upright

_FACTORS = (8, 4, 2)


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """The random crop of a config, as a function of (draws, width, height)."""

    config: DataConfig

    def __call__(self, draws: np.ndarray, width: int, height: int) -> Box:
        """Returns the part of an image that is seen."""
        return random_resized_crop(
            draws, width, height, self.config.crop_scale, self.config.crop_ratio
        )


def decode_crop(
    data: bytes,
    draws: np.ndarray,
    crop: Callable[[np.ndarray, int, int], Box],
    side: Callable[[Box], int],
    max_pixels: int,
    *,
    coarse: bool = False,
) -> tuple[np.ndarray, Box]:
    """Returns pixels, in memory that the thread's next call overwrites, and the crop in them.

    Args:
        data: the file.
        draws: 40 numbers in [0, 1), for the crop.
        crop: (draws, width, height) -> box.
        side: of a crop: the pixels that its shorter side must keep when it is shrunk while
            decoding.
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
    factor = shrink_factor(box, side(box))
    return decode_jpeg(data, factor, size, coarse=coarse), snap(box, factor, *size)


def shrink_factor(box: Box, side: int) -> int:
    """Returns by how much an image may be shrunk while decoding: 1, 2, 4 or 8.

    >>> shrink_factor((0, 0, 600, 448), 224), shrink_factor((0, 0, 600, 447), 224)
    (2, 1)
    """
    shorter = min(box[2] - box[0], box[3] - box[1])
    return next((f for f in _FACTORS if shorter >= f * side), 1)


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
